"""Every key of the coordination store, in one table.

    cluster                       the cluster itself: its id; written last when it is founded, so what has none is no cluster yet
    members/<id>                  a node of the cluster: name, host, addresses, state, features
    nodes/<id>                    a running node: incarnation, boot, endpoints; under the node's lease
    dead/<id>                     the incarnation of a node's process that is known to have ended
    tokens/<id>                   a join token: what its secret hashes to, and until when it is good
    groups/<id>                   an NFS server instance: its home, a node's id and incarnation
    disks/<id>                    a disk: pool, tier, node, path, state
    pools/<name>                  a pool: its policies
    volumes/<id>                  a volume: name, pool, policy, log id
    volumes/<id>/configuration    who serves it: version, coordinator, replicas; only ever changed by compare-and-set
    volume-names/<name>           the id of the volume that has this name
    shares/<name>                 a share (gateways.exports.Share as JSON); the name in lower case
    users/<name>                  a user: keys derived from its password, uid, gid; the name in lower case
    vips/<address>                a virtual IP address: what it is tied to
    vips/<address>/holder         who has it: a node's id and incarnation; under the holder's lease
    keepers/<id>                  a node that takes virtual addresses on: its incarnation; under the lease of its addresses
    secrets/<name>                what the cluster keeps to itself, such as the key of NFS file handles
    counters/<name>               a number that only grows, such as the last share number

Ids are 16 hexadecimal digits. Names are percent-encoded, so that they hold no `/` and no byte that is not ASCII.
"""

from urllib.parse import quote, unquote

CLUSTER = "cluster"
HANDED_OVER = "handed-over"
"""In an embedded store that has been copied into a cluster's: by whom it must not be used any more."""
MEMBERS = "members/"
TOKENS = "tokens/"
NODES = "nodes/"
DEAD = "dead/"
GROUPS = "groups/"
DISKS = "disks/"
POOLS = "pools/"
VOLUMES = "volumes/"
CONFIGURATION = "/configuration"
"""What a volume's key is followed by in that of its configuration."""
VOLUME_NAMES = "volume-names/"
SHARES = "shares/"
USERS = "users/"
VIPS = "vips/"
KEEPERS = "keepers/"
HOLDER = "/holder"
"""What an address's key is followed by in that of its holder."""
SECRETS = "secrets/"
COUNTERS = "counters/"
_ALL = (MEMBERS, NODES, DEAD, TOKENS, GROUPS, DISKS, POOLS, VOLUMES, VOLUME_NAMES, SHARES, USERS, VIPS, KEEPERS, SECRETS, COUNTERS)


def is_known(key: str) -> bool:
    """Whether it is a key of this table."""
    return key in (CLUSTER, HANDED_OVER) or key.startswith(_ALL)


def member(id: int) -> str:
    return MEMBERS + _hexadecimal(id)


def token(id: int) -> str:
    return TOKENS + _hexadecimal(id)


def dead(id: int) -> str:
    return DEAD + _hexadecimal(id)


def group(id: int) -> str:
    return GROUPS + _hexadecimal(id)


def node(id: int) -> str:
    return NODES + _hexadecimal(id)


def disk(id: int) -> str:
    return DISKS + _hexadecimal(id)


def pool(name: str) -> str:
    return POOLS + _encoded(name)


def volume(id: int) -> str:
    return VOLUMES + _hexadecimal(id)


def configuration(volume_id: int) -> str:
    return volume(volume_id) + CONFIGURATION


def volume_name(name: str) -> str:
    return VOLUME_NAMES + _encoded(name)


def share(name: str) -> str:
    return SHARES + _encoded(name.lower())


def user(name: str) -> str:
    return USERS + _encoded(name.lower())


def vip(address: str) -> str:
    return VIPS + _encoded(address)


def keeper(id: int) -> str:
    return KEEPERS + _hexadecimal(id)


def holder(address: str) -> str:
    return vip(address) + HOLDER


def secret(name: str) -> str:
    return SECRETS + _encoded(name)


def counter(name: str) -> str:
    return COUNTERS + _encoded(name)


def id_of(key: str) -> int:
    """The id in the key of a member, node, keeper, group, disk, volume or configuration."""
    return int(key.split("/")[1], 16)


def name_of(key: str) -> str:
    """The name in the key of a pool, share, user, address, secret or counter."""
    return unquote(key.split("/")[1])


def _hexadecimal(id: int) -> str:
    return f"{id:016x}"


def _encoded(name: str) -> str:
    return quote(name, safe="")
