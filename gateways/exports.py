"""Shares: what a gateway offers under a name, with the options of both protocols, and to whom.

A `Share` is a value. It is what the coordination store keeps under `shares/<name>` (as JSON, `encode` and
`decode`), what `sofs share create` makes and what both gateways read. `Shares` is the set that
is offered now; the node replaces it whenever the store says so, and gateways that have computed something from a
share notice by its `version`.
"""

import ipaddress
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import lru_cache

import msgspec

from sofs.encoding import Record
from sofs.errors import ConfigError, InvalidName, Unavailable
from sofs.types import ROOT, Inode, VolumeId
from sofs.volume.api import Caller, Volume

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NOBODY = 65534
PRIVILEGED = 1024
"""Ports below are the superuser's."""


@lru_cache(256)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if text == "*":
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"client list: {error}; write an address, a network such as 10.0.0.0/8, or *") from None


@lru_cache(4096)
def plain_address(text: str) -> Address:
    """An address without its zone; an IPv4 address that came over an IPv6 socket is that IPv4 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Squash(StrEnum):
    """Whose requests are made the anonymous user's."""

    NONE = "none"
    ROOT = "root"
    ALL = "all"


class Client(msgspec.Struct, frozen=True):
    """One line of an NFS export's client list: who may come, and as what."""

    network: str = "*"
    """An address, a network in CIDR notation, or `*` for everyone."""
    read_only: bool = False
    squash: Squash = Squash.ROOT
    anonymous_uid: int = NOBODY
    anonymous_gid: int = NOBODY

    def __post_init__(self) -> None:
        _network(self.network)
        for number in (self.anonymous_uid, self.anonymous_gid):
            if not 0 <= number < 1 << 32:
                raise ConfigError(f"anonymous id {number}: write a number from 0 to {(1 << 32) - 1}")

    def admits(self, address: str) -> bool:
        """Whether a client at `address` is meant."""
        network = _network(self.network)
        return network is None or plain_address(address) in network

    def caller(self, uid: int, gid: int, groups: tuple[int, ...]) -> Caller:
        """On whose behalf a request with these AUTH_SYS ids acts, after squashing."""
        if self.squash is Squash.ALL:
            return Caller(self.anonymous_uid, self.anonymous_gid)
        if self.squash is Squash.ROOT:
            # A squashed root keeps nothing; others lose root's group only.
            if uid == 0:
                return Caller(self.anonymous_uid, self.anonymous_gid)
            gid = self.anonymous_gid if gid == 0 else gid
            groups = tuple(group for group in groups if group != 0)
        return Caller(uid, gid, groups, privileged=uid == 0)


class SmbOptions(msgspec.Struct, frozen=True):
    """How a share looks over SMB."""

    enabled: bool = True
    encrypt: bool = False
    """Only encrypted sessions may use it (SMB2_SHAREFLAG_ENCRYPT_DATA)."""
    access_based_enumeration: bool = False
    """Entries that the user cannot open are left out of listings."""
    continuously_available: bool = False
    """Everything that changes data or names is answered once it is stable."""
    scaleout: bool = False
    """A continuously available share that clients take for one of a Scale-Out File Server: they may use it at several nodes at once, and cache reads only."""
    guests: bool = False
    """Whether a guest session may use it."""
    file_mode: int = 0o664
    """For what SMB clients make where no inherited rights say otherwise."""
    directory_mode: int = 0o775


class NfsOptions(msgspec.Struct, frozen=True):
    """How a share looks over NFS."""

    enabled: bool = True
    clients: tuple[Client, ...] = (Client(),)
    """The first that admits an address counts; an address that none admits is refused."""
    require_privileged_port: bool = False
    """Whether clients must come from a port below 1024, which only a superuser can: AUTH_SYS is then no user's own claim."""


class Share(Record, frozen=True):
    """One name that clients can mount, and the directory it stands for."""

    name: str
    number: int
    """Part of NFS file handles: unique, never reused, 1 to 2**32 - 1."""
    volume: VolumeId
    root: Inode = ROOT
    path: str = "/"
    """Where `root` lay in the volume when the share was made; for people."""
    comment: str = ""
    read_only: bool = False
    smb: SmbOptions = SmbOptions()
    nfs: NfsOptions = NfsOptions()

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 0 < self.number < 1 << 32:
            raise ConfigError(f"share {self.name}: number {self.number} is not between 1 and 2**32 - 1")

    def client(self, address: str, port: int) -> Client | None:
        """The line of the NFS client list that counts for a client at `address` that comes from `port`; None refuses it."""
        if self.nfs.require_privileged_port and port >= PRIVILEGED:
            return None
        for client in self.nfs.clients:
            if client.admits(address):
                return client
        return None


def check_name(name: str) -> None:
    """Raises `InvalidName` for what cannot be a share's name (MS-SRVS 2.2.4.23, and one component of an NFS path)."""
    if not 0 < len(name) <= 80 or name in (".", ".."):
        raise InvalidName(f"a share's name has 1 to 80 characters: {name!r}")
    bad = sorted(set(name) & set('"\\/[]:|<>+=;,*?') | {c for c in name if ord(c) < 32})
    if bad:
        raise InvalidName(f"a share's name cannot hold {' '.join(map(repr, bad))}: {name!r}")


class Shares:
    """The shares that are offered now."""

    def __init__(self, volumes: Callable[[VolumeId], Volume | None]) -> None:
        self._volumes = volumes
        self._named: dict[str, Share] = {}
        self._folded: dict[str, Share] = {}
        self._numbered: dict[int, Share] = {}
        self.version = 0
        """Rises with every `replace`, and when a volume comes or goes: what was computed from the shares is then to be computed again."""

    def volumes_changed(self) -> None:
        """The node calls this when it begins or ends serving a volume."""
        self.version += 1

    def replace(self, shares: Iterable[Share]) -> None:
        """From now on these, and only these, are offered."""
        named = {share.name: share for share in shares}
        self._named = dict(sorted(named.items()))
        self._folded = {name.casefold(): share for name, share in reversed(self._named.items())}
        self._numbered = {share.number: share for share in named.values()}
        assert len(self._numbered) == len(named), "two shares with one number"
        self.version += 1

    def all(self) -> list[Share]:
        """In the order of their names."""
        return list(self._named.values())

    def named(self, name: str, *, fold: bool = False) -> Share | None:
        """The share of this name; with `fold` in any case, the exact one first (SMB)."""
        share = self._named.get(name)
        if share is None and fold:
            share = self._folded.get(name.casefold())
        return share

    def numbered(self, number: int) -> Share | None:
        return self._numbered.get(number)

    def served(self, id: VolumeId) -> Volume | None:
        """The volume, if this node serves it."""
        return self._volumes(id)

    def volume(self, share: Share) -> Volume:
        """The volume behind a share. Raises `Unavailable` when this node does not serve it."""
        volume = self._volumes(share.volume)
        if volume is None:
            raise Unavailable(f"volume {share.volume:#x} of share {share.name} is not served here")
        return volume
