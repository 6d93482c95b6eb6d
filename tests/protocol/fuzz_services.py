"""Inputs for what is small and yet read from elsewhere: a single node's store file, what nodes ask each other about sessions and homes, the headers of what
they forward, slices of a volume, and what operators send."""

from __future__ import annotations

import asyncio
import struct
from functools import cache
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from crc32c import crc32c

from gateways.nfs.v4 import forwarding
from sofs import homes, neighbours
from sofs.admin import api, server
from sofs.cluster import Answer, Asked, Handler, Incarnation, NodeId
from sofs.coordination import Put, embedded, journal
from sofs.coordination.embedded import EmbeddedStore
from sofs.encoding import UNREADABLE, encode
from sofs.errors import Damaged, PeerError
from sofs.hosting import messages as hosting
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from tests.protocol.fuzz import Target, mutated
from tests.protocol.fuzz_nodes import sample

FRAME, COVERED = 4096, 24


@cache
def _image() -> bytes:
    """A store's file with a state and a few changes behind it."""

    async def main(loop: SimulatedLoop) -> bytes:
        files = SimulatedFiles(SimulatedRandom(1))
        files.make_directory("/d")
        store = EmbeddedStore.open(files, SimulatedClock(loop), SimulatedRandom(1), "/d/store")
        for number in range(3):
            await store.transact([], [Put(f"members/{number}", b"{}" * 20)])
        await (await store.lease(5)).revoke()
        await store.close()
        file = files.open("/d/store")
        whole = bytearray(file.size)
        file.read_now(0, [memoryview(whole)])
        return bytes(whole).rstrip(b"\0") + bytes(100)

    return simulate(main)


def _sealed(image: bytearray, at: int) -> None:
    """Gives the frame that begins there the checksum that it should have, if its length makes sense."""
    start = at + 12 + COVERED
    if start > len(image):
        return
    (length,) = struct.unpack_from("<I", image, start - 8)
    if start + length <= len(image):
        image[start - 4 : start] = crc32c(image[start : start + length], crc32c(image[at + 8 : start - 4])).to_bytes(4, "little")


def store_files(chance: Random) -> None:
    """A file that can be opened can be written to, and opened again with all that."""
    image = bytearray(_image())
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(image) // FRAME) * FRAME
        piece = mutated(bytes(image[at : at + 200]), chance)
        image[at : at + (200 if chance.random() < 0.9 else len(piece))] = piece[:200].ljust(200, b"\0") if chance.random() < 0.9 else piece
        if chance.random() < 0.5:
            _sealed(image, at)
    if chance.random() < 0.1:
        del image[chance.randrange(len(image)) :]

    async def main(loop: SimulatedLoop) -> None:
        files = SimulatedFiles(SimulatedRandom(1))
        files.make_directory("/d")
        file = files.open("/d/store", create=True)
        file.write(0, [image])
        file.sync_now()
        file.close()

        def opened() -> EmbeddedStore:
            return EmbeddedStore.open(files, SimulatedClock(loop), SimulatedRandom(1), "/d/store")

        try:
            store = opened()
        except Damaged:
            return
        if chance.random() < 0.8:  # what follows takes longest
            return
        await store.transact([], [Put("volumes/1", b"new")])
        before = (await store.range("")).entries
        await store.close()
        store = opened()
        assert (await store.range("")).entries == before
        await store.close()

    simulate(main)


def slices(chance: Random) -> None:
    data = mutated(encode(sample(hosting.Slice, chance)), chance)
    try:
        read = hosting.decode_slice(data)
    except PeerError:
        return
    assert hosting.decode_slice(encode(read)) == read


class _Wires:
    """An interconnect that nobody is at the other end of."""

    node = NodeId(1)

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def serve(self, service: str, handler: Handler) -> None:
        self.handlers[service] = handler


class _Gateway:
    """Has no session of anybody's, and no group."""

    def end_session(self, number: int, user: str) -> bool:
        assert 0 <= number < 1 << 64 and isinstance(user, str)
        return False

    def forget(self, node: int, connection: int | None = None) -> None:
        assert connection is not None and 0 <= connection < 1 << 64


@cache
def _services() -> tuple[Handler, ...]:
    wires = cast(Any, _Wires())
    neighbours.Neighbours(cast(Any, None), wires, cast(Any, None)).serve(_Gateway())
    home = homes.Homes(cast(Any, None), cast(Any, SimpleNamespace(me=(NodeId(1), Incarnation(1)))), wires, cast(Any, None))
    home._gateway = cast(Any, SimpleNamespace(groups=_Gateway()))

    async def hand_over(id: int, node: NodeId, incarnation: int) -> None:
        assert 0 <= id < 1 << 64

    home._hand_over = hand_over  # type: ignore[method-assign]
    wires.serve(homes.CLOSED, home._closed)
    wires.serve(homes.RELEASE, home._asked_to_release)
    return tuple(wires.handlers.values())


def services(chance: Random) -> None:
    """Whatever a node asks is answered, or that node's fault."""
    handler = chance.choice(_services())
    data = mutated(chance.choice((chance.randbytes(8), chance.randbytes(8) + "Zo\u00eb".encode(), chance.randbytes(24))), chance)
    try:
        outcome = handler(Asked(NodeId(2), Incarnation(2), memoryview(data), memoryview(b"")))
        if not isinstance(outcome, Answer):
            asyncio.run(_awaited(outcome))
    except PeerError:
        pass


async def _awaited(outcome: Any) -> Answer:
    return cast(Answer, await outcome)


def forwarded_headers(chance: Random) -> None:
    whole = forwarding.pack_header(chance.getrandbits(16), chance.getrandbits(40), chance.getrandbits(16), chance.choice(("10.0.0.1", "fe80::1")))
    try:
        group, number, port, peer = forwarding.read_header(mutated(whole, chance))
    except PeerError:
        return
    assert forwarding.pack_header(group, number, port, peer)


@cache
def _requests() -> list[Any]:
    return [kind for kind, _ in map(api.kinds, api.operations()) if kind is not None] + [api.CheckRequest]


def admin_requests(chance: Random) -> None:
    """What an operator sends is a request, or is refused as the server's guard expects it."""
    kind = chance.choice(_requests())
    data = mutated(msgspec.json.encode(sample(kind, chance)), chance)
    try:
        read = msgspec.json.decode(data, type=kind)
    except (msgspec.ValidationError, *UNREADABLE):
        return
    assert msgspec.json.decode(msgspec.json.encode(read), type=kind) == read


TARGETS = (
    Target("store-files", store_files, (journal.__name__, embedded.__name__)),
    Target("hosting-slices", slices, ("sofs.encoding",)),
    Target("node-services", services, (neighbours.__name__, homes.__name__)),
    Target("forwarded-headers", forwarded_headers, (forwarding.__name__,)),
    Target("admin-requests", admin_requests, (server.__name__, api.__name__)),
)
