"""What every `Network` promises."""

import asyncio

import pytest

from sofs.errors import Unavailable
from sofs.runtime.ports import Connection
from tests.contracts.conftest import Host


class Recorder:
    """A receiver that keeps what it is told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ends: list[str] = []
        self.changed = asyncio.Event()
        self.connection: Connection | None = None

    def received(self, data: memoryview) -> None:
        assert not self.ends, "no bytes follow the end"
        self.data += data
        self.changed.set()

    def closed(self, reason: str) -> None:
        self.ends.append(reason)
        self.changed.set()

    async def until(self, length: int = 0, ends: int = 0) -> None:
        while len(self.data) < length or len(self.ends) < ends:
            self.changed.clear()
            await self.changed.wait()


class Server:
    def __init__(self) -> None:
        self.recorders: list[Recorder] = []

    def accept(self, connection: Connection) -> Recorder:
        recorder = Recorder()
        recorder.connection = connection
        self.recorders.append(recorder)
        return recorder


def test_bytes_arrive_in_order_both_ways(host: Host) -> None:
    async def main() -> None:
        server, client = Server(), Recorder()
        listener = await host.network.listen(host.address, 0, server.accept)
        connection = await host.network.connect(host.address, listener.port, client)
        sent = bytearray()
        for n in range(200):
            piece = bytes([n]) * (n * 7 % 300 + 1)
            sent += piece
            connection.send([piece[:1], memoryview(piece)[1:]])
        while not server.recorders:
            await host.clock.sleep(0.001)
        far = server.recorders[0]
        await far.until(len(sent))
        assert far.data == sent
        assert far.connection is not None and far.connection.peer[0] == host.address
        far.connection.send([b"answer"])
        await client.until(6)
        assert client.data == b"answer"
        connection.close()
        await far.until(ends=1)
        await client.until(ends=1)
        listener.close()

    host.run(main())


def test_each_side_is_told_of_the_end_once_and_after_the_last_byte(host: Host) -> None:
    async def main() -> None:
        server, client = Server(), Recorder()
        listener = await host.network.listen(host.address, 0, server.accept)
        connection = await host.network.connect(host.address, listener.port, client)
        connection.send([b"x" * 100_000])
        connection.close()
        connection.close()
        connection.send([b"too late"])
        while not server.recorders:
            await host.clock.sleep(0.001)
        far = server.recorders[0]
        await far.until(100_000, ends=1)
        await client.until(ends=1)
        await host.clock.sleep(0.01)
        assert len(far.data) == 100_000
        assert len(far.ends) == 1 and len(client.ends) == 1
        listener.close()

    host.run(main())


def test_nobody_listening_is_unavailable(host: Host) -> None:
    async def main() -> None:
        listener = await host.network.listen(host.address, 0, Server().accept)
        port = listener.port
        with pytest.raises(Unavailable):
            await host.network.listen(host.address, port, Server().accept)
        listener.close()
        await host.clock.sleep(0.01)
        with pytest.raises(Unavailable):
            await host.network.connect(host.address, port, Recorder())

    host.run(main())


def test_a_connection_is_congested_until_the_peer_takes_what_was_sent(host: Host) -> None:
    async def main() -> None:
        server, client = Server(), Recorder()
        listener = await host.network.listen(host.address, 0, server.accept)
        connection = await host.network.connect(host.address, listener.port, client)
        while not server.recorders:
            await host.clock.sleep(0.001)
        far = server.recorders[0]
        assert far.connection is not None
        far.connection.pause()
        await host.clock.sleep(0.01)
        relieved: list[bool] = []
        connection.on_relief(lambda: relieved.append(connection.congested))
        assert not connection.congested
        for _ in range(48):
            connection.send([bytes(1 << 20)])
        await host.clock.sleep(0.05)
        assert connection.congested and not relieved and len(far.data) < 8 << 20
        far.connection.resume()
        await far.until(48 << 20)
        await host.clock.sleep(0.01)
        assert relieved == [False]
        connection.close()
        await far.until(ends=1)
        listener.close()

    host.run(main())
