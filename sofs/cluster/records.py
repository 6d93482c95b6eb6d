"""What the coordination store holds of nodes."""

from __future__ import annotations

from collections.abc import Iterable

from sofs.encoding import Record
from sofs.errors import Busy, NotFound


class ClusterRecord(Record, frozen=True, kw_only=True):
    """The cluster itself."""

    id: str
    """Hexadecimal; in the certificates of its nodes."""


class MemberRecord(Record, frozen=True, kw_only=True):
    """A node that belongs to the cluster, running or not."""

    id: int
    name: str
    host: str
    """The fault domain of its disks: several nodes of one large host share it."""
    addresses: tuple[str, ...]
    """`IP:PORT` of its interconnect, in the order of preference; IPv6 in brackets."""
    state: str = "active"
    """active, draining (it hands over what it coordinates and takes nothing on), or evicted (it may not come back under this id)."""
    features: int = 1
    """The newest feature level that its release knows. The cluster uses the lowest of all members'."""


def named(members: Iterable[MemberRecord], name: str) -> MemberRecord:
    """The member with this name, or id in hexadecimal; an evicted one only if nobody has its name now. Raises `NotFound`, `Busy` (several have the name)."""
    found = [member for member in members if name in (member.name, f"{member.id:016x}")]
    found = [member for member in found if member.state != "evicted" or f"{member.id:016x}" == name] or found
    if not found:
        raise NotFound(f"there is no node {name}; `sofs node list` shows all")
    if len(found) > 1:
        raise Busy(f"{len(found)} nodes are called {name}: give the id")
    return found[0]


class NodeRecord(Record, frozen=True, kw_only=True):
    """A node's process that runs, under its lease. Its absence proves nothing: see `DeadRecord`."""

    id: int
    incarnation: int
    boot: str
    """Of its host: /proc/sys/kernel/random/boot_id."""
    smb: tuple[str, ...] = ()
    nfs: tuple[str, ...] = ()
    """`IP:PORT` where clients find it."""
    admin: tuple[str, ...] = ()
    state: str = "running"
    """Or stopping: it is about to give up what it has, and others may take it."""


class DeadRecord(Record, frozen=True, kw_only=True):
    """This incarnation of the node's process has ended: its supervisor has reaped it, or an operator vouches for it."""

    incarnation: int
    by: str
    """Who says so."""


class TokenRecord(Record, frozen=True, kw_only=True):
    """What lets somebody join: `sofs cluster token`."""

    digest: str
    """SHA-256 of the secret, hexadecimal."""
    expires: int
    """Seconds since 1970."""
    reusable: bool = False
