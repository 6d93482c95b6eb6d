"""Hands that work on large files of one directory at the same time, without regard for each other.

What they do goes in slices and is overtaken: a file is removed while it is emptied to become a clone, a clone's source is cut off while it
is cloned, a name is replaced by a file that is being written. Whatever a request is answered is right; the volume must stay as `sofs check`
wants it, its log must not fail, and what a snapshot shows of the directory must never change.
"""

from contextlib import suppress

from sofs.errors import NotFound, SofsError
from sofs.runtime.simulated_loop import SimulatedRandom
from sofs.types import PAGE, Inode
from sofs.volume.api import Changes, Clone, Link, Punch, Remove, Rename, Request, SetAttributes, Stateless
from tests.unit.volume.volume_rig import SUPER, VolumeRig

__all__ = ["LEAF", "Hands", "Shown", "shown"]

LEAF = 64 * PAGE
NAMES = [b"large %d" % number for number in range(5)]

Shown = dict[bytes, tuple[Inode, bytes]]
"""By name: which file, and its content."""


async def shown(rig: VolumeRig, directory: bytes) -> Shown:
    found: Shown = {}
    for entry in rig.entries(rig.lookup(directory).inode):
        size = rig.stat(entry.inode).size
        found[entry.name] = entry.inode, await rig.content(Stateless(entry.inode, SUPER), 0, size)
        assert len(found[entry.name][1]) == size
    return found


class Hands:
    """All of them; they last over lives."""

    def __init__(self, random: SimulatedRandom) -> None:
        self.random = random
        self.directory = b"hands"
        self.inode = Inode(0)
        self.busy = 0
        """Requests under way."""
        self.after_restoration = False
        """Whether a request has taken effect that was sent before a restoration and answered after it."""

    async def work(self, rig: VolumeRig) -> None:
        """One request, and what it is answered."""
        self.busy += 1
        try:
            with suppress(SofsError):
                await self._one(rig)
        finally:
            self.busy -= 1

    async def remove_some(self, rig: VolumeRig) -> None:
        """Gives those something to do who remove orphans and look after the maps of clones."""
        for entry in rig.entries(self.inode):
            if self.random.chance(0.5):
                with suppress(NotFound):
                    await rig.later(Remove(SUPER, self.inode, entry.name, None))

    async def _one(self, rig: VolumeRig) -> None:
        random, since = self.random, rig.data.keyspace.restorations
        present = {entry.name: entry.inode for entry in rig.entries(self.inode)}
        name = NAMES[random.below(len(NAMES))]
        if len(present) < 2 or name not in present:
            await self._write(rig, present.get(name) or rig.make_name(name, at=self.inode), 1 + random.below(4))
            return
        pick, other = random.below(12), list(present)[random.below(len(present))]
        if pick < 3:
            await self._write(rig, present[name], 1)
        elif pick < 7:
            await rig.later(self._request(present, pick, name, other))
        elif pick < 10:
            source = Stateless(present[name], SUPER)
            size = rig.stat(source.inode).size // (1 if random.chance(0.7) else 2) // PAGE * PAGE
            target = present[other] if random.chance(0.6) and other != name else rig.make_name(b"clone %d" % random.below(3), at=self.inode)
            await rig.later(Clone(source, 0, Stateless(target, SUPER), 0, size))
        else:
            await rig.later(Remove(SUPER, self.inode, other, None))
        self._note(rig, since)

    def _note(self, rig: VolumeRig, since: int) -> None:
        """A request that was sent after so many restorations has taken effect."""
        self.after_restoration |= rig.data.keyspace.restorations != since

    async def _write(self, rig: VolumeRig, inode: Inode, times: int) -> None:
        random, since = self.random, rig.data.keyspace.restorations
        for _ in range(times):
            length = (100, PAGE, 3 * PAGE, LEAF // 2, LEAF)[random.below(5)]
            await rig.put(Stateless(inode, SUPER), random.below(24) * (LEAF // 4), random.bytes(16) * (length // 16))
            self._note(rig, since)

    def _request(self, present: dict[bytes, Inode], pick: int, name: bytes, other: bytes) -> Request:
        random, target = self.random, Stateless(present[name], SUPER)
        if pick == 3:
            return SetAttributes(target, Changes(size=random.below(5 * LEAF)))
        if pick == 4:
            return Punch(target, random.below(2 * LEAF), random.below(4 * LEAF))
        if pick == 5:
            return Rename(SUPER, self.inode, other, True, self.inode, name)
        return Link(SUPER, present[name], self.inode, b"link %d" % random.below(3))
