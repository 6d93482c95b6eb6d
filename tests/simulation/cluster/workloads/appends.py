"""One file that several clients append to: every acknowledged record is in it once, and whoever reads sees a longer beginning of the same row.

A record that was told to be stable is there for ever; one that was only committed may go with the memory of all replicas, if the verifier tells.
"""

import struct
from typing import NamedTuple

from crc32c import crc32c

from sofs.types import Inode, Level
from tests.simulation.cluster.client import Client, Unknown, stateless
from tests.simulation.cluster.workloads.base import Workload

__all__ = ["Appends"]

_RECORD = struct.Struct("<IIQ")
_SIZE = 48


class _Told(NamedTuple):
    at: float
    verifier: int
    level: Level


class Appends(Workload):
    """All clients share the file."""

    async def prepare(self) -> None:
        self.file: Inode = await self.make(self.clients[0], self.directory, b"log")
        self.told: dict[tuple[int, int], _Told] = {}
        self.sent: dict[tuple[int, int], float] = {}
        self.numbers = dict.fromkeys((client.name for client in self.clients), 0)
        self.longest: list[tuple[int, int]] = []
        """The longest row that anybody has seen since the verifier last changed."""
        self.seen_at = 0.0
        self.verifier = 0

    async def turn(self, client: Client) -> None:
        if self.random.chance(0.7):
            await self._append(client)
        else:
            await self._read(client)

    async def _append(self, client: Client) -> None:
        self.numbers[client.name] += 1
        name = (self.clients.index(client), self.numbers[client.name])
        level = Level.STABLE if self.random.chance(0.4) else Level.COMMITTED
        self.sent[name] = self.world.loop.time()
        # Some clients cannot repeat anything; then what happens on the way must not either.
        token = None if self.random.chance(0.4) else client.token()
        try:
            answer = await client.write(stateless(self.file), -1, _record(name), token, level)
        except Unknown:
            client.note("does not know about", name)
            return
        self.told[name] = _Told(answer.at, answer.verifier, level)
        client.note("appended", name, level, f"{answer.verifier:x}")

    async def _read(self, client: Client) -> None:
        sent = self.world.loop.time()
        data, answer = await client.read(stateless(self.file), 0, 1 << 17)
        row = _rows(data)
        client.note("read", len(row), f"{answer.verifier:x}")
        assert len(set(row)) == len(row), f"{client.name}: a record is there twice: {_twice(row)}"
        for name in row:
            assert name in self.sent, f"{client.name}: nobody appended {name}"
        if answer.verifier != self.verifier:
            self.verifier, self.longest, self.seen_at = answer.verifier, row, answer.at
        shorter, longer = sorted((row, self.longest), key=len)
        assert longer[: len(shorter)] == shorter, f"{client.name}: two have seen different rows: {_fork(shorter, longer)}"
        if sent > self.seen_at:
            assert len(row) >= len(self.longest), f"{client.name}: {len(self.longest)} records were seen before, now {len(row)}"
        if len(row) >= len(self.longest):
            self.longest, self.seen_at = row, answer.at
        present = set(row)
        for name, told in self.told.items():
            must = told.level is Level.STABLE or told.verifier == answer.verifier
            if must and told.at < sent:
                assert name in present, f"{client.name}: {name} was acknowledged at {told.at:.6f} as {told.level.name}, and is not there"
            elif not must and name not in present:
                self.cluster.lost += 1

    async def verify(self, client: Client) -> None:
        await self._read(client)


def _record(name: tuple[int, int]) -> bytes:
    head = _RECORD.pack(0x41505031, name[0], name[1])
    return (head + crc32c(head).to_bytes(4, "little")).ljust(_SIZE, b".")


def _rows(data: bytes) -> list[tuple[int, int]]:
    assert len(data) % _SIZE == 0, f"{len(data)} bytes are no whole records"
    row = []
    for offset in range(0, len(data), _SIZE):
        magic, client, number = _RECORD.unpack_from(data, offset)
        assert magic == 0x41505031 and data[offset : offset + _SIZE] == _record((client, number)), f"the record at {offset} is torn"
        row.append((client, number))
    return row


def _twice(row: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [name for index, name in enumerate(row) if name in row[:index]]


def _fork(shorter: list[tuple[int, int]], longer: list[tuple[int, int]]) -> str:
    index = next(index for index, name in enumerate(shorter) if longer[index] != name)
    return f"at {index}: {shorter[index]} and {longer[index]}"
