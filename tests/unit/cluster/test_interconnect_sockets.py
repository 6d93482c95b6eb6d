"""Calls between nodes over the loopback's own sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from sofs.cluster import Answer, Asked, NodeId, Priority
from sofs.errors import Unavailable
from sofs.runtime.ports import Connection
from sofs.runtime.system_network import SystemNetwork
from tests.contracts.test_network import Recorder
from tests.simulation.cluster_net import on_loopback

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
def test_large_and_small_messages_come_whole_and_in_order(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        one, two = await on_loopback(2)
        seen: list[int] = []
        kept: list[memoryview] = []

        def take(asked: Asked) -> Answer:
            seen.append(int(bytes(asked.body)))
            if len(asked.payload) >= 64 << 10:
                kept.append(asked.payload)
            return Answer(asked.body.tobytes(), (bytes(asked.payload),))

        two.serve("take", take)
        peer = one.peer(NodeId(2))
        sizes = [(number * 7919) % 300_000 for number in range(100)] + [16 << 20]
        payloads = [bytes([number]) * size for number, size in enumerate(sizes)]
        calls = [peer.call("take", b"%d" % number, (payload,), priority=Priority.REPLICATION) for number, payload in enumerate(payloads)]
        answers = await asyncio.gather(*calls)
        assert seen == list(range(len(sizes)))
        assert [b"".join(answer.payload) for answer in answers] == payloads
        assert kept == [payload for payload in payloads if len(payload) >= 64 << 10], "large payloads may be kept"
        for node in (one, two):
            await node.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def test_strangers_are_disconnected() -> None:
    async def main() -> None:
        one, two = await on_loopback(2)
        (_, port) = one._addresses(NodeId(2))[0]
        for data in (b"GET / HTTP/1.0\r\n\r\n" * 10, bytes(100), b"\x01\x00\x00\x00\xff\xff\xff\x7f" + bytes(12)):
            stranger = Recorder()
            connection: Connection = await SystemNetwork().connect("127.0.0.1", port, stranger)
            connection.send([data])
            await stranger.until(ends=1)
            assert not stranger.data
        for node in (one, two):
            await node.close()

    asyncio.run(main())


def test_a_process_that_is_gone_is_noticed_at_once() -> None:
    async def main() -> None:
        one, two = await on_loopback(2)

        arrived = asyncio.Event()

        async def never(asked: Asked) -> Answer:
            arrived.set()
            await asyncio.Event().wait()
            raise AssertionError

        two.serve("never", never)
        call = asyncio.ensure_future(one.peer(NodeId(2)).call("never", b"", deadline_s=60))
        await arrived.wait()
        await two.close()
        with pytest.raises(Unavailable):
            await call
        await one.close()

    asyncio.run(main())
