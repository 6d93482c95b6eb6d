"""Policies: a little language in which an operator says how data is protected and where it goes.

    simple                           one copy
    mirror(2)                        two copies on two disks (on two hosts if there are two)
    mirror(3) across host on ssd     three copies on three hosts, on solid-state disks

    policy := scheme [ "across" ("disk" | "host") ] [ "on" ("ssd" | "hdd") ]
    scheme := "simple" | "mirror(2)" | "mirror(3)" | "parity(k,m)"

A policy is a value. `validate` says whether a set of disks can ever satisfy it, `select` picks disks for one
extent. Both are pure: chance comes in as an argument, and neither knows what a disk does.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from sofs.errors import InvalidArgument, NoSpace, NotSupported
from sofs.pool.scheme import Redundancy, Scheme, parse_scheme
from sofs.types import DiskId

TIERS = ("ssd", "hdd")
_GRAMMAR = re.compile(r"(?P<scheme>\w+(?:\([^)]*\))?)(?: across (?P<domain>\w+))?(?: on (?P<tier>\w+))?")


class Candidate(NamedTuple):
    """A disk, as far as placement cares."""

    disk: DiskId
    host: str
    tier: str
    free: int
    """Bytes of data that it can take; the weight with which it is chosen."""
    trusted: bool = True
    """A suspect disk is taken only when the trusted ones do not suffice."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How an extent is protected, and on which disks it may lie."""

    scheme: Scheme
    domain: str = "disk"
    """What may hold one fragment at most: a `disk`, or all disks of a `host`."""
    tier: str | None = None

    @property
    def text(self) -> str:
        """The policy in its own language; `parse_policy(p.text) == p`."""
        across = "" if self.domain == "disk" else f" across {self.domain}"
        on = "" if self.tier is None else f" on {self.tier}"
        return self.scheme.text + across + on

    @property
    def tolerates(self) -> int:
        """How many failures of disks (or hosts) the data survives."""
        return self.scheme.extra

    def allows(self, disk: Candidate) -> bool:
        return self.tier is None or disk.tier == self.tier

    def validate(self, disks: Collection[Candidate]) -> None:
        """Raises `InvalidArgument` if these disks, all present and empty, could not hold an extent of this policy."""
        width, domains = self.scheme.width, len(self._domains([disk for disk in disks if self.allows(disk)]))
        if domains < width:
            of = f" of tier {self.tier}" if self.tier else ""
            raise InvalidArgument(f"{self.text} needs {width} {self.domain}s{of}, there are {domains}: add disks, or choose a weaker policy")

    def select(self, disks: Collection[Candidate], size: int, draw: Callable[[int], int]) -> tuple[DiskId, ...]:
        """Disks for the fragments of one extent, each of `size` bytes, weighted by free space.

        Fragments lie in distinct domains, and on distinct hosts as far as there are enough. When disks are out of service, so that
        fewer domains are left than the scheme has copies, each of those gets one: the extent is then written degraded, which
        `healthy` reports, rather than not at all. Full disks are no such reason. `draw(bits)` gives a uniform integer.
        Raises `NoSpace`.
        """
        allowed = [disk for disk in disks if self.allows(disk)]
        fitting = [disk for disk in allowed if disk.free >= size]
        wanted = min(self.scheme.width, len(self._domains(allowed)))
        if wanted < self.scheme.data:
            raise NoSpace(self._shortage(allowed, size))
        chosen: list[Candidate] = []
        while len(chosen) < wanted:
            eligible = self._eligible(fitting, chosen)
            if not eligible:
                raise NoSpace(self._shortage(allowed, size))
            chosen.append(_weighted(eligible, draw))
        return tuple(disk.disk for disk in chosen)

    def breadth(self, disks: Collection[Candidate], size: int) -> int:
        """How many fragments of `size` bytes these disks can take of one extent, if its scheme had so many."""
        return len(self._domains([disk for disk in disks if self.allows(disk) and disk.free >= size]))

    def usable(self, disks: Collection[Candidate]) -> int:
        """Bytes of data that fit on these disks, by their free space: less than it divided by the copies if one disk has more than its share."""
        free: dict[str, int] = {}
        for disk in disks:
            if self.allows(disk):
                domain = self._domain(disk)
                free[domain] = free.get(domain, 0) + disk.free
        rooms = sorted(free.values())
        width = min(self.scheme.width, len(rooms))
        if not rooms or width < self.scheme.data:
            return 0
        while width > 1 and rooms[-1] * width > sum(rooms):
            # It gets a fragment of every extent and is not filled by that: what counts is where the others go.
            rooms.pop()
            width -= 1
        return sum(rooms) // width

    def _domain(self, disk: Candidate) -> str:
        return disk.host if self.domain == "host" else str(disk.disk)

    def _domains(self, disks: Collection[Candidate]) -> set[str]:
        return {self._domain(disk) for disk in disks}

    def _eligible(self, fitting: Collection[Candidate], chosen: Collection[Candidate]) -> list[Candidate]:
        """The best of the disks that may take the next fragment: on a new host first, then trusted ones first."""
        hosts = {disk.host for disk in chosen}
        eligible = [disk for disk in fitting if disk not in chosen]
        elsewhere = [disk for disk in eligible if disk.host not in hosts]
        if elsewhere or self.domain == "host":
            eligible = elsewhere
        return [disk for disk in eligible if disk.trusted] or eligible

    def _shortage(self, allowed: Collection[Candidate], size: int) -> str:
        kind = f"{self.tier} disks" if self.tier else "disks"
        if not allowed:
            return f"{self.text}: none of the pool's {kind} can be written now; bring them back or add one"
        free = sum(disk.free for disk in allowed) >> 20
        return f"{self.text}: the pool's {kind} are full ({free} MiB free, {size >> 10} KiB in a row wanted); delete data or add a disk"


def _weighted(disks: list[Candidate], draw: Callable[[int], int]) -> Candidate:
    """One of the disks, each with a probability in proportion to its free space."""
    # 62 random bits leave a bias below 2**-20 for pools of up to 2**42 bytes, and nobody cares above.
    at = draw(62) % sum(max(disk.free, 1) for disk in disks)
    for disk in disks:
        at -= max(disk.free, 1)
        if at < 0:
            return disk
    raise AssertionError("the weights do not add up to their sum")


def parse_policy(text: str) -> Policy:
    """Reads a policy. Raises `InvalidArgument` with what is wrong, `NotSupported` for `parity`."""
    found = _GRAMMAR.fullmatch(" ".join(text.split()))
    if found is None:
        raise InvalidArgument(f"policy {text!r}: write for example `mirror(2) across host on ssd`")
    scheme = parse_scheme(found["scheme"])
    domain, tier = found["domain"] or "disk", found["tier"]
    if domain not in ("disk", "host"):
        raise InvalidArgument(f"policy {text!r}: data is spread across disk or host, not {domain}")
    if tier is not None and tier not in TIERS:
        raise InvalidArgument(f"policy {text!r}: tiers are {' and '.join(TIERS)}, not {tier}")
    if scheme.redundancy is Redundancy.PARITY:
        raise NotSupported(f"policy {text!r}: parity is not offered yet; simple, mirror(2) and mirror(3) are")
    return Policy(scheme, domain, tier)
