"""Inputs for the service by which nodes use each other's disks: requests to a real disk, and answers to a real `RemoteDisk`'s decoders.

Half of the damaged requests are damaged as values, not as bytes, so that they pass for msgpack and it is their contents that have to be doubted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import cache
from random import Random
from typing import Any

import msgspec

from sofs.cluster import Answer, Asked, Handler, Incarnation, NodeId
from sofs.encoding import encode
from sofs.errors import PeerError, SofsError
from sofs.pool import messages
from sofs.pool.disk import Part
from sofs.pool.extent import ExtentId
from sofs.pool.fragment import checksum, stored_sums
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskSpec
from sofs.pool.messages import Described, Found, Got, Heard, Slot, Told, decode_answer, decode_request
from sofs.pool.opening import make_disk
from sofs.pool.scheme import mirror
from sofs.pool.service import DiskService
from sofs.pool.states import State
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.types import PAGE, DiskId, VolumeId
from tests.protocol.fuzz import Target, mutated

VOLUME = VolumeId(7)
PAGES = 3
DATA = bytes(range(256)) * 16 * PAGES
SUMS = checksum([DATA])
WILD: tuple[Any, ...] = (
    *(0, 1, -1, 4095, 4096, 1 << 20, (1 << 23) + 4096, 1 << 32, 1 << 39, (1 << 63) - 1, 1 << 63),
    *("", b"", b"\xff" * 5, True, None, [], [1, 2]),
)


class _Wires:
    """An interconnect that nobody is at the other end of."""

    node = NodeId(1)
    incarnation = Incarnation(1)
    handler: Handler

    def serve(self, service: str, handler: Handler) -> None:
        self.handler = handler

    def peer(self, node: NodeId) -> Any:
        raise AssertionError("nobody else is there")


class _Rig:
    """A disk with a few extents that are never named by what is sent, and one whose names are known."""

    def __init__(self) -> None:
        self.loop = SimulatedLoop()
        asyncio.set_event_loop(self.loop)
        chance = SimulatedRandom(1)
        files = SimulatedFiles(chance, miss=0.3)
        label = make_disk(files, chance, "/d", pool="p", tier="ssd", host="h", capacity=1 << 26, arena_slots=16)
        wires = _Wires()
        self.pool = LocalPool("p", files, chance, lambda event, /, **fields: None, clock=SimulatedClock(self.loop), interconnect=wires)
        self.pool.open([DiskSpec("/d", label.id, "ssd", "h", node=1)])
        DiskService(wires, {"p": self.pool})
        self.handler = wires.handler
        self.disk = self.pool.members.own_readable()[0]
        self.slots = {number: self.loop.run(self.disk.write(_part(number))) for number in (1, 2)}
        self.kept = self.loop.run(self.disk.write(_part(99)))

    def ask(self, body: bytes, payload: bytes) -> Answer | None:
        """The answer, if it was not refused."""

        async def answered() -> Answer:
            answer = self.handler(Asked(NodeId(2), Incarnation(2), memoryview(body), memoryview(payload)))
            return await answer if isinstance(answer, Awaitable) else answer

        try:
            return self.loop.run(answered())
        except (SofsError, PeerError):
            return None

    def look(self) -> None:
        """What nothing could have named is as it was, and so is the disk."""
        into = memoryview(bytearray(len(DATA)))

        async def read() -> None:
            waiting = self.disk.read(self.kept, ExtentId(VOLUME, 99), 0, into)
            if waiting is not None:
                await waiting

        self.loop.run(read())
        assert bytes(into) == DATA
        assert self.pool.members.state(self.disk.id) in (State.HEALTHY, State.DRAINING), "a request has broken the disk"
        used = [slot for slot, _ in self.disk.entries(0, self.disk.slots)]
        assert self.disk._slots.free_count + len(used) == self.disk.slots or len(used) > 3


def _part(number: int) -> Part:
    return Part(ExtentId(VOLUME, number), mirror(2), 0, PAGES, [DATA], SUMS, b"names")


@cache
def _rig() -> _Rig:
    return _Rig()


def _request(rig: _Rig, chance: Random) -> tuple[list[Any], bytes]:
    """A proper request as a list, and its payload."""
    number = chance.choice((1, 2, 3))
    at = (int(rig.disk.id), rig.slots.get(number, 5), int(VOLUME), number)
    pages, blocks = stored_sums(SUMS.pages), stored_sums(SUMS.blocks)
    return chance.choice(
        (
            ([0, "p"], b""),
            ([1, *at, PAGE * chance.randrange(3), PAGE, chance.random() < 0.5], b""),
            ([2, at[0], at[2], chance.randrange(1 << 20, 1 << 38), [1, 1, 1], 1, PAGES, pages, blocks, b"names"], DATA),
            ([3, *at[:3], 3], b""),
            ([4, *at], b""),
            ([5, *at, 1], DATA[PAGE:]),
            ([6, *at, pages, blocks, b"names"], b""),
            ([7, at[0], [[7, 1 << 38, (1 << 38) + 5]]], b""),
            ([8, at[0], 7, 0, 100, 0], b""),
            ([9, *at, PAGES * PAGE], b""),
            ([10, at[0]], b""),
            ([11, at[0], False], b""),
        )
    )


def requests(chance: Random) -> None:
    rig = _rig()
    fields, payload = _request(rig, chance)
    damage = chance.random()
    if damage < 0.5:
        fields[chance.randrange(len(fields))] = chance.choice(WILD)
        if chance.random() < 0.3:
            payload = payload[: chance.randrange(len(payload) + 1)]
    body = msgspec.msgpack.encode(fields)
    if damage > 0.8:
        body = mutated(body, chance)
    try:
        request = decode_request(body)
    except PeerError:
        assert damage < 0.5 or damage > 0.8, "a proper request was refused"
    else:
        assert decode_request(encode(request)) == request
        if isinstance(request, messages.Delete | messages.Mend | messages.MendHeader) and request.number == 99:
            return
        if isinstance(request, messages.Drain) and request.on:
            return
    answer = rig.ask(body, payload)
    if isinstance(answer, Answer) and fields[0] == 2:
        # What was written is taken away again, so that the disk does not fill.
        slot = decode_answer(answer.body, Slot).slot
        written = rig.disk._table.get(slot)
        assert written is not None and not isinstance(written, str)
        rig.loop.run(rig.disk.delete(slot, written.id))
        rig.disk.give_back(100)
    rig.look()


def answers(chance: Random) -> None:
    pages, blocks = stored_sums(SUMS.pages), stored_sums(SUMS.blocks)
    kind, whole = chance.choice(
        (
            (Heard, [[[1, "/d", "healthy", "", 100, 50], [2, "/e", "failed", "why", 0, 0]]]),
            (Told, [1, "/d", "draining", "", 100, 50]),
            (Got, [pages, blocks]),
            (Got, [None, b""]),
            (Slot, [5]),
            (Described, [1, 2, 1, 7, 9, 0, [1, 1, 1], PAGES, PAGES, pages, blocks, b"names"]),
            (Found, [[[4, 9, [1, 1, 1], 0, PAGES, 1]], 0]),
        )
    )
    fields = list(whole)
    damage = chance.random()
    if damage < 0.4:
        fields[chance.randrange(len(fields))] = chance.choice(WILD)
    body = msgspec.msgpack.encode(fields)
    if damage > 0.6:
        body = mutated(body, chance)
    try:
        read = decode_answer(body, kind)
        if isinstance(read, Got):
            read.own()
        elif isinstance(read, Described):
            read.header()
            messages.sums_of(read.sums, read.blocks)
        elif isinstance(read, Found):
            read.taken(VOLUME)
    except PeerError:
        assert not 0.4 <= damage <= 0.6, "a proper answer was refused"
        return
    assert decode_answer(encode(read), kind) == read
    assert DiskId(1)


TARGETS = (Target("disk-requests", requests, (messages.__name__, "sofs.pool.service")), Target("disk-answers", answers, (messages.__name__,)))
