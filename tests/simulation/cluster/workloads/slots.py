"""Places in a file that one client writes again and again: registers whose newest value is there, by level.

Ordinary writes may be lost with the memory of all replicas, but only if the verifier tells; then each place shows a value that was written since it was
last known to be stable. While the verifier is the same the newest value is there, whatever fails.
"""

import struct
from dataclasses import dataclass, field

from sofs.types import Inode, Level
from sofs.volume.api import Flush
from tests.simulation.cluster.client import Client, stateless
from tests.simulation.cluster.workloads.base import Workload

__all__ = ["Slots"]

_VALUE = struct.Struct("<QQ")


@dataclass
class _Slot:
    written: list[int] = field(default_factory=lambda: [0])
    """Values that it may show, in order; the last one is the newest that was acknowledged."""
    verifier: int = 0
    """When that was."""
    stable: int = 0


@dataclass
class _File:
    inode: Inode
    size: int
    slots: list[_Slot]
    last: int = 0


class Slots(Workload):
    """Each client has a file."""

    async def prepare(self) -> None:
        self.files: dict[str, _File] = {}
        for client in self.clients:
            inode = await self.make(client, self.directory, client.name.encode())
            size = (512, 4096, 4096, 40_000)[self.random.below(4)]
            self.files[client.name] = _File(inode, size, [_Slot() for _ in range(1 + self.random.below(12))])

    async def turn(self, client: Client) -> None:
        file = self.files[client.name]
        index = self.random.below(len(file.slots))
        kind = self.random.below(10)
        if kind < 6:
            await self._write(client, file, index, Level.STABLE if kind == 0 else Level.COMMITTED)
        elif kind < 7:
            await self._flush(client, file)
        else:
            await self._read(client, file, index)

    async def _write(self, client: Client, file: _File, index: int, level: Level) -> None:
        slot = file.slots[index]
        file.last += 1
        value = file.last
        # It may take effect before anybody is told.
        slot.written.append(value)
        data = _VALUE.pack(index, value) * (file.size // _VALUE.size)
        answer = await client.write(stateless(file.inode), index * len(data), data, client.token(), level)
        slot.verifier = answer.verifier
        if level is Level.STABLE:
            self._stable(slot, value)
        client.note("wrote", index, value, level, f"{answer.verifier:x}")

    def _stable(self, slot: _Slot, value: int) -> None:
        slot.stable = max(slot.stable, value)
        slot.written = [each for each in slot.written if each >= slot.stable]

    async def _flush(self, client: Client, file: _File) -> None:
        newest = [(slot, slot.written[-1], slot.verifier) for slot in file.slots]
        answer = await client.call(Flush(stateless(file.inode)))
        for slot, value, verifier in newest:
            if verifier == answer.verifier:
                self._stable(slot, value)
        client.note("flushed", f"{answer.verifier:x}")

    async def _read(self, client: Client, file: _File, index: int) -> None:
        size = file.size // _VALUE.size * _VALUE.size
        data, answer = await client.read(stateless(file.inode), index * size, size)
        slot = file.slots[index]
        value = 0
        if data.strip(b"\0"):
            found, value = _VALUE.unpack_from(data)
            assert data == _VALUE.pack(index, value) * (size // _VALUE.size), f"{client.name}: place {index} is torn: {found}, {value}"
        client.note("read", index, value, f"{answer.verifier:x}")
        where = f"{client.name}: place {index} of {file.inode} shows {value}"
        if answer.verifier == slot.verifier or not slot.verifier:
            assert value == slot.written[-1], f"{where} instead of {slot.written[-1]}, and the verifier is the same"
            return
        assert value in slot.written, f"{where}, which is none of {slot.written}"
        assert value >= slot.stable, f"{where}, and {slot.stable} was stable"
        if value != slot.written[-1]:
            self.cluster.lost += 1
        # From now on this is what it has; what was lost never comes back.
        slot.written = slot.written[: slot.written.index(value) + 1]
        slot.verifier = answer.verifier

    async def verify(self, client: Client) -> None:
        for own in self.clients:
            file = self.files[own.name]
            for index in range(len(file.slots)):
                await self._read(client, file, index)
