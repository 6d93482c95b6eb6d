"""Every key of the coordination store, in one table.

    members/<id>                  a node of the cluster: name, host, addresses, state, features
    nodes/<id>                    a running node: incarnation, boot, endpoints; under the node's lease
    dead/<id>                     the incarnation of a node's process that is known to have ended
    groups/<id>                   an NFS server instance: its home, a node's id and incarnation
    disks/<id>                    a disk: pool, tier, node, path, state
    pools/<name>                  a pool: its policies
    volumes/<id>                  a volume: name, pool, policy, log id
    volumes/<id>/configuration    who serves it: version, coordinator, replicas; only ever changed by compare-and-set
    shares/<name>                 a share (gateways.exports.Share as JSON); the name in lower case
    users/<name>                  a user: keys derived from its password, uid, gid; the name in lower case
    vips/<address>                a virtual IP address: its holder; under the holder's lease
    secrets/<name>                what the cluster keeps to itself, such as the key of NFS file handles
    counters/<name>               a number that only grows, such as the last share number

Ids are 16 hexadecimal digits. Names are percent-encoded, so that they hold no `/` and no byte that is not ASCII.
"""

from urllib.parse import quote, unquote

__all__ = [
    "CONFIGURATION",
    "COUNTERS",
    "DISKS",
    "DEAD",
    "GROUPS",
    "MEMBERS",
    "NODES",
    "POOLS",
    "SECRETS",
    "SHARES",
    "USERS",
    "VIPS",
    "VOLUMES",
    "configuration",
    "counter",
    "dead",
    "disk",
    "group",
    "id_of",
    "member",
    "name_of",
    "node",
    "pool",
    "secret",
    "share",
    "user",
    "vip",
    "volume",
]

MEMBERS = "members/"
NODES = "nodes/"
DEAD = "dead/"
GROUPS = "groups/"
DISKS = "disks/"
POOLS = "pools/"
VOLUMES = "volumes/"
CONFIGURATION = "/configuration"
"""What a volume's key is followed by in that of its configuration."""
SHARES = "shares/"
USERS = "users/"
VIPS = "vips/"
SECRETS = "secrets/"
COUNTERS = "counters/"


def member(id: int) -> str:
    return MEMBERS + _hexadecimal(id)


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


def share(name: str) -> str:
    return SHARES + _encoded(name.lower())


def user(name: str) -> str:
    return USERS + _encoded(name.lower())


def vip(address: str) -> str:
    return VIPS + _encoded(address)


def secret(name: str) -> str:
    return SECRETS + _encoded(name)


def counter(name: str) -> str:
    return COUNTERS + _encoded(name)


def id_of(key: str) -> int:
    """The id in the key of a member, node, group, disk, volume or configuration."""
    return int(key.split("/")[1], 16)


def name_of(key: str) -> str:
    """The name in the key of a pool, share, user, address, secret or counter."""
    return unquote(key.split("/")[1])


def _hexadecimal(id: int) -> str:
    return f"{id:016x}"


def _encoded(name: str) -> str:
    return quote(name, safe="")
