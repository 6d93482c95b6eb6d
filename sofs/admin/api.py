"""What can be asked of a node, as values: requests, answers, and the port that answers them, `Operations`.

That is the one declaration of each operation: `server` makes its route of it, `client` its request, and the command line asks by naming the method.
Sizes are bytes. Identifiers are hexadecimal text, because JSON's readers round large numbers.
"""

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, get_type_hints

from msgspec import Struct, field

# Answers


class Disk(Struct):
    id: str
    path: str
    tier: str
    pool: str
    state: str
    """healthy, suspect, missing, failed, draining or retired; `missing` disks have no sizes."""
    total: int = 0
    free: int = 0
    node: str = ""
    """The name of the node that has it."""
    reason: str = ""
    """Of its state, if there is one to tell."""


class Pool(Struct):
    name: str
    disks: int
    total: int
    free: int
    tiers: dict[str, tuple[int, int]] = {}
    """Per tier (total, free)."""


class Replica(Struct):
    """One copy of a volume's log."""

    node: str
    disk: str
    in_sync: bool
    """It has everything that is acknowledged."""
    reason: str = ""
    """Why not, or what is the matter with it all the same."""


class Volume(Struct):
    id: str
    name: str
    pool: str
    policy: str
    """How extents are protected: `mirror(2)`."""
    log_replicas: int
    state: str
    """serving, degraded, waiting (for a node that can serve it) or failed; `reason` says why it is not serving."""
    reason: str = ""
    coordinator: str = ""
    """The node that serves it; empty on a node by itself."""
    version: int = 0
    """Of its configuration."""
    replicas: list[Replica] = []
    total: int = 0
    free: int = 0
    files: int = 0
    figures: dict[str, int] = {}
    """The volume's own counters: log and checkpoint positions, destaged bytes and so on."""


class Move(Struct):
    """Have another node coordinate a volume."""

    volume: str
    node: str
    """Its name or its id."""


class Share(Struct):
    name: str
    volume: str
    path: str = ""
    """A directory in the volume; empty: its root."""
    comment: str = ""
    protocols: list[str] = field(default_factory=lambda: ["smb", "nfs"])
    read_only: bool = False
    encrypt: bool = False
    """SMB clients must encrypt."""
    clients: list[str] = field(default_factory=lambda: ["*"])
    """Who may mount over NFS: addresses, networks (`10.0.0.0/8`), or `*`."""
    privileged_port: bool = False
    """NFS clients must come from a port below 1024."""
    squash: str = "root"
    """Whom NFS turns into the anonymous user: root, all or none."""
    continuously_available: bool = False
    """SMB: what changes data or names is answered only once it is stable."""
    scaleout: bool = False
    """SMB: such a share that clients take for one of a Scale-Out File Server, and cache reads of only."""
    access_based_enumeration: bool = False
    """SMB: listings leave out what their reader may not read."""


class User(Struct):
    name: str
    uid: int
    gid: int
    groups: list[int] = []


class Opened(Struct):
    id: str
    volume: str
    path: str
    client: str
    protocol: str
    access: str
    share: str
    locks: int = 0


class Status(Struct):
    node: str
    version: str
    pid: int
    uptime_s: float
    endpoints: list[str]
    """Where clients connect: `smb://ADDRESS:PORT`, `nfs://ADDRESS:PORT`."""
    connections: int
    opens: int
    disks: list[Disk]
    pools: list[Pool]
    volumes: list[Volume]
    shares: list[Share]


class StoreMember(Struct):
    """One member of etcd."""

    endpoint: str
    state: str
    """leader, follower, or what is the matter."""
    size: int = 0
    """Bytes of its database."""


class ClusterMember(Struct):
    """A node of the cluster, as the one that was asked knows it."""

    id: str
    name: str
    host: str
    state: str
    """active, draining or evicted; and then: running, stopping, or what is known instead."""
    incarnation: str = ""
    """Of the process that says it runs."""
    addresses: list[str] = []
    connected: bool = False
    """To the node that was asked."""
    features: int = 1
    coordinates: int = 0
    """Volumes."""


class Cluster(Struct):
    id: str
    node: str
    """Who was asked."""
    level: int
    """Of features, that all members know."""
    quorum: bool
    """Whether etcd takes changes."""
    store: list[StoreMember]
    members: list[ClusterMember]
    volumes: list[Volume]


class Vip(Struct):
    """A virtual address; in a request, its holder means nothing."""

    address: str
    interface: str = ""
    """Empty: on each node the one whose network it lies in."""
    group: str = ""
    """The node whose NFS clients come to it."""
    volume: str = ""
    """The volume whose coordinator it follows."""
    holder: str = ""
    """The node that has it now."""


class Drained(Struct):
    node: str


class Snapshot(Struct):
    volume: str
    name: str
    taken: str
    """In UTC: 2026-11-20T15:00:00Z."""
    number: int
    held: int = 0
    """What deleting this one alone would free."""


class Quota(Struct):
    """Limits and use of one owner; in a request, what is used means nothing."""

    volume: str
    kind: str = "volume"
    """volume, directory, user or group."""
    subject: str = ""
    """A directory's path, a user's name or number (`*`: all who have none of their own), a group's number."""
    soft_bytes: int = 0
    """Shown only. 0: no limit, also below."""
    hard_bytes: int = 0
    hard_files: int = 0
    used_bytes: int = 0
    used_files: int = 0


class Progress(Struct, omit_defaults=True):
    """One line of a long answer: how far it is; the last one has `finished`, and what was found."""

    done: int
    total: int
    what: str = ""
    finished: bool = False
    problems: list[str] = []
    facts: dict[str, int] = {}


class Failure(Struct):
    """Instead of an answer: an error's class and message."""

    error: str
    message: str


# Requests


class NewDisk(Struct):
    path: str
    tier: str = "ssd"
    pool: str = "default"
    size: int = 0
    """How much of the file system to use; 0: as much as is free."""
    force: bool = False
    """Take the disk although it carries a label or data of something else."""


class DrainDisk(Struct):
    disk: str
    on: bool = True
    """False: it is to be used again."""


class RemoveDisk(Struct):
    disk: str
    force: bool = False
    """Although its node does not answer: what only this disk has is given up."""


class NewVolume(Struct):
    name: str
    pool: str = "default"
    policy: str = "simple"
    force: bool = False
    """Make it although the pool has too few disks for the policy; it is then degraded."""


class NewUser(Struct):
    name: str
    password: str
    uid: int | None = None
    gid: int | None = None
    groups: list[int] = []
    replace: bool = False


class SnapshotName(Struct):
    volume: str
    name: str = ""
    """Empty, where one is made: named by the time."""
    force: bool = False
    """Restoring: although files are open, whose opens it ends."""


class CheckRequest(Struct):
    volume: str = ""
    """Empty: all volumes."""
    data: bool = True
    """Read all data and verify its checksums too."""


class Operations(Protocol):
    """A node, as its operator sees it. Everything raises `SofsError`s whose message names the remedy.

    Over HTTP a method is a path, `GET /status` if it takes nothing, else `POST /add_disk` with its argument as JSON; the answer is JSON.
    """

    async def status(self) -> Status: ...

    async def cluster(self) -> Cluster:
        """Raises `NotSupported` on a single node, as does `members`."""

    async def members(self) -> list[ClusterMember]: ...

    async def drain(self, node: str) -> Drained:
        """Answers when the node has handed over all it has."""

    async def undrain(self, node: str) -> Drained: ...

    async def vips(self) -> list[Vip]: ...

    async def add_vip(self, request: Vip) -> Vip: ...

    async def remove_vip(self, address: str) -> None: ...

    async def disks(self) -> list[Disk]: ...

    async def add_disk(self, request: NewDisk) -> Disk: ...

    async def drain_disk(self, request: DrainDisk) -> Disk: ...

    async def remove_disk(self, request: RemoveDisk) -> None: ...

    async def pools(self) -> list[Pool]: ...

    async def create_pool(self, name: str) -> Pool: ...

    async def volumes(self) -> list[Volume]: ...

    async def volume(self, name: str) -> Volume: ...

    async def create_volume(self, request: NewVolume) -> Volume: ...

    async def move_volume(self, request: Move) -> Volume: ...

    async def settle_volume(self, name: str) -> Volume:
        """Moves what lies in the volume's log to its place in the pool, as is done by itself when nothing is written for ten minutes; answers behind that.

        Raises `Unavailable` where the volume is not coordinated by this node.
        """

    async def shares(self) -> list[Share]: ...

    async def create_share(self, request: Share) -> Share: ...

    async def delete_share(self, name: str) -> None: ...

    async def users(self) -> list[User]: ...

    async def add_user(self, request: NewUser) -> User: ...

    async def delete_user(self, name: str) -> None: ...

    async def opens(self) -> list[Opened]: ...

    async def close_open(self, name: str) -> None:
        """Ends the open with this id, as `opens` shows it."""

    async def snapshots(self, volume: str) -> list[Snapshot]: ...

    async def create_snapshot(self, request: SnapshotName) -> Snapshot: ...

    async def delete_snapshot(self, request: SnapshotName) -> None: ...

    async def restore_snapshot(self, request: SnapshotName) -> Snapshot:
        """Answers the snapshot of the state before."""

    async def quotas(self, volume: str) -> list[Quota]:
        """Every quota, and every user's use once anything is counted."""

    async def set_quota(self, request: Quota) -> Quota: ...

    async def show_quota(self, request: Quota) -> Quota: ...

    async def delete_quota(self, request: Quota) -> None: ...

    def check(self, request: CheckRequest) -> AsyncIterator[Progress]: ...

    async def metrics(self) -> bytes:
        """All figures in Prometheus' text form."""


def operations() -> list[Callable[..., Any]]:
    """The methods of `Operations` with one answer: all but `check`, which goes on for a while, and `metrics`, whose text is not ours."""
    methods = [method for name, method in vars(Operations).items() if inspect.iscoroutinefunction(method)]
    return [method for method in methods if method is not Operations.metrics]


def kinds(operation: Callable[..., Any]) -> tuple[Any, Any]:
    """What a method takes (None: nothing) and what it answers."""
    hints = get_type_hints(operation)
    answer = hints.pop("return")
    return next(iter(hints.values()), None), answer
