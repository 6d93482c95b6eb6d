"""What a pool can hold, and how safe what it holds is: answers from the states of its disks, without asking any of them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from sofs.pool.extent import MIB, Copies, Placement, Usage
from sofs.pool.members import DiskStatus, Members
from sofs.pool.neighbours import Neighbours
from sofs.pool.policy import Candidate, Policy
from sofs.pool.scheme import parse_scheme
from sofs.pool.states import READABLE, WRITABLE
from sofs.types import DiskId, VolumeId

CROWDED = 0.05
"""A disk is crowded when a larger share of it is used than of all disks of its tier together, by this much."""


class Capacity:
    """Half of `sofs.pool.Pool`; `sofs.pool.local_pool.LocalPool` is the other."""

    def __init__(self, members: Members, neighbours: Neighbours | None, grace_s: float) -> None:
        self.members = members
        self.counters: Counter[str] = Counter()
        self._neighbours = neighbours
        self._grace_s = grace_s
        self._claims: dict[VolumeId, int] = {}

    def usage(self, tier: str | None = None) -> Usage:
        total = free = 0
        for member in self.members:
            if tier in (None, member.spec.tier):
                usage = self.members.usage(member)
                total += usage.total
                free += usage.free if member.state in WRITABLE else 0
        return Usage(total, free)

    def room(self, policy: Policy, volume: VolumeId) -> Usage:
        claimed = self.claimed - self._claims.get(volume, 0)
        if self._neighbours is not None:
            claimed += self._neighbours.claimed
        free = policy.usable(self.members.candidates()) - -(-claimed // policy.scheme.width)
        return Usage(policy.usable(self.members.capacities()), max(0, free))

    @property
    def claimed(self) -> int:
        """What all volumes that are served here have claimed."""
        return sum(self._claims.values())

    def claim(self, volume: VolumeId, size: int) -> None:
        self._claims[volume] = size

    def relied_on(self, at: Placement) -> Copies | None:
        readable = sure = 0
        for fragment in at.fragments:
            if self.members.counts(fragment.disk, self._grace_s):
                sure += 1
            elif self.members.state(fragment.disk) in READABLE:
                readable += 1
        return Copies(readable + sure, sure) if sure < parse_scheme(at.scheme).width else None

    @property
    def standing(self) -> object:
        return self.members.counting(self._grace_s), self.counters["degraded_extents"]

    def attainable(self, policy: Policy, avoid: Collection[DiskId] = ()) -> int:
        candidates = [each for each in self.members.candidates() if each.disk not in avoid]
        return min(policy.scheme.width, policy.breadth(candidates, MIB))

    def crowded(self, policy: Policy) -> Mapping[DiskId, float]:
        found: dict[DiskId, float] = {}
        totals = {each.disk: each.free for each in self.members.capacities()}
        disks = [each for each in self.members.candidates() if policy.allows(each)]
        for tier in sorted({each.tier for each in disks}):
            found |= _crowded([each for each in disks if each.tier == tier], totals)
        return found if found and self.attainable(policy, found) == policy.scheme.width else {}

    def validate(self, policy: Policy) -> None:
        """Raises `InvalidArgument` if the pool's disks, all present and empty, could not hold an extent of this policy."""
        policy.validate(self.members.prospects())

    def disks(self) -> list[DiskStatus]:
        return [self.members.status(member) for member in self.members]


def _crowded(disks: Sequence[Candidate], totals: dict[DiskId, int]) -> dict[DiskId, float]:
    """Those of the disks that are fuller than all of them together by more than `CROWDED`, with the share of their contents that is too much."""
    total = sum(totals.get(disk.disk, 0) for disk in disks)
    used = total - sum(disk.free for disk in disks)
    found: dict[DiskId, float] = {}
    for disk in disks:
        size = totals.get(disk.disk, 0)
        if size and (size - disk.free) / size > used / total + CROWDED:
            found[disk.disk] = 1 - used / total * size / (size - disk.free)
    return found
