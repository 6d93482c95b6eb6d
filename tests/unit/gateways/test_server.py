"""The connection shell, over real sockets on loopback."""

import asyncio
import contextlib
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import gateways.parting
import gateways.server
from gateways.buffers import CHUNK, SLACK, Buffers
from gateways.server import HIGH, Connection, Link, Server, origin_of
from sofs.errors import PeerError
from sofs.runtime.system_clock import SystemClock


class Echo:
    """Answers every message with itself; keeps what it was told to keep."""

    def __init__(self, link: Link, keep: bool = False) -> None:
        self.link = link
        self.keep = keep
        self.kept: list[tuple[memoryview, bytes]] = []
        self.busy = False
        self.reason = ""

    def size(self, header: int) -> int:
        if header >> 24:
            raise PeerError(f"header {header:#x}")
        return header

    def received(self, header: int, message: memoryview) -> None:
        assert len(message) == header
        if bytes(message[:4]) == b"BUG!":
            raise RuntimeError("a bug")
        if self.keep:
            self.kept.append((message, bytes(message)))
        self.link.send([struct.pack(">I", header), message if self.keep else bytes(message)])

    def closed(self, reason: str) -> None:
        assert not self.reason
        self.reason = reason


def record(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def serve(test: Callable[[Server, int, list[Echo]], Awaitable[None]], keep: bool = False) -> list[Echo]:
    cores: list[Echo] = []

    def accept(link: Link) -> Echo:
        cores.append(Echo(link, keep))
        return cores[-1]

    async def main() -> None:
        server = Server("echo", asyncio.get_running_loop(), accept)
        port = server.listen("127.0.0.1", 0)
        await test(server, port, cores)
        await server.stop()
        assert not server.connections

    asyncio.run(main())
    return cores


def test_messages_of_all_sizes_arrive_whole_however_the_stream_is_cut() -> None:
    chance = random.Random(5)
    sizes = [0, 1, 3, 100, 4096, CHUNK - 4, CHUNK - 3, CHUNK, CHUNK + 1, 1 << 20, (1 << 20) + 116, 50, 3 << 20, 7]
    messages = [chance.randbytes(size) for size in sizes * 2 + [chance.randrange(9000) for _ in range(300)]]
    for keep in (False, True):

        async def test(server: Server, port: int, cores: list[Echo]) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=8 << 20)
            stream = b"".join(map(record, messages))

            async def feed() -> None:
                at = 0
                while at < len(stream):
                    step = chance.choice([1, 3, 5000, 70_000, 400_000])
                    writer.write(stream[at : at + step])
                    await writer.drain()
                    at += step

            feeder = asyncio.create_task(feed())
            for message in messages:
                (size,) = struct.unpack(">I", await reader.readexactly(4))
                assert await reader.readexactly(size) == message
            await feeder
            writer.close()

        cores = serve(test, keep)
        for view, copy in cores[0].kept:
            assert view == copy, "a kept view was overwritten"


@pytest.mark.parametrize("size", [CHUNK + 1, 300 << 10, 1 << 20, (1 << 20) + 116, 3 << 20])
def test_the_loop_is_not_woken_for_every_piece_of_a_large_message_nor_left_waiting_for_its_last(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    woken = 0
    receive = Connection._receive

    def counted(self: Connection) -> int:
        nonlocal woken
        woken += 1
        return receive(self)

    monkeypatch.setattr(Connection, "_receive", counted)

    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        nonlocal woken
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=8 << 20)
        message = random.Random(1).randbytes(size)
        for payload in (message, b"small", message, message, b"again"):
            woken, stream = 0, record(payload)
            for at in range(0, len(stream), 20_000):
                writer.write(stream[at : at + 20_000])
                await writer.drain()
                await asyncio.sleep(0.001)
            async with asyncio.timeout(10):
                assert await reader.readexactly(4) == stream[:4]
                assert await reader.readexactly(len(payload)) == payload
            # The first piece, which tells the size, and the last, which is shorter, are woken for, too.
            assert woken <= 3 + len(payload) // gateways.server.AWAITED
        writer.write(record(message)[: size // 2])
        await writer.drain()
        writer.close()
        async with asyncio.timeout(10):
            while not cores[0].reason:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    serve(test)


def test_a_peer_that_does_not_read_is_not_read_from_and_then_served_completely() -> None:
    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        payload = bytes(1 << 20)
        total = 64
        sender = asyncio.create_task(loop.sock_sendall(sock, record(payload) * total))
        before = -1
        while server.received_bytes != before:
            before = server.received_bytes
            await asyncio.sleep(0.2)
        assert before < total << 20
        assert not sender.done()
        (connection,) = server.connections
        assert connection._unsent < HIGH + (3 << 20)
        left = total * (len(payload) + 4)
        while left:
            left -= len(await loop.sock_recv(sock, 1 << 20))
        await sender
        sock.close()

    serve(test)


def test_who_acknowledges_nothing_is_given_up_after_a_time() -> None:
    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        server.unacknowledged_s = 0.3
        # A peer whose machine is gone looks like one that takes nothing for ever.
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        sender = asyncio.create_task(loop.sock_sendall(sock, record(bytes(1 << 20)) * 64))
        async with asyncio.timeout(60):
            while not cores or not cores[0].reason:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert "failed" in cores[0].reason
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        sock.close()

    serve(test)


def test_what_is_answered_behind_the_end_of_a_connection_is_not_sent() -> None:
    """Also while the peer has yet to take what was answered before."""

    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64 << 20)
        writer.write(record(b"first"))
        assert await reader.readexactly(9) == record(b"first")
        (core,) = cores
        before = bytes(8 << 20)
        core.link.send([record(before)])
        core.link.close("its volume has failed")
        core.link.send([record(b"it has failed")])
        assert await reader.read() == record(before)
        writer.close()

    serve(test)


def test_a_connection_that_is_closed_does_not_wait_for_ever_for_its_peer_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateways.server.CLOSING_S", 0.3)

    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(record(b"x"))
            while not cores:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            cores[0].link.send([bytes(64 << 20)])
            cores[0].link.close("enough")
            async with asyncio.timeout(60):
                while not cores[0].reason:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert cores[0].reason == "enough; the peer did not take its last replies"

    serve(test)


def test_who_sends_while_the_address_is_given_up_is_not_reset() -> None:
    """Linux's SMB client loses the WRITE that it is just sending when the connection is reset, and none when it is ended."""

    async def scenario(server: Server, port: int, cores: list[Echo]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(record(b"first"))
        assert await reader.readexactly(9) == record(b"first")
        cores[0].link.pause()
        writer.write(record(bytes(1 << 16)))
        await asyncio.sleep(0.05)  # until it lies in the server's socket
        parting = asyncio.create_task(server.part("127.0.0.1"))
        assert await reader.read() == b""
        assert cores[0].reason and not server.connections
        for _ in range(20):  # what is on its way when the end is heard of
            writer.write(record(bytes(1 << 16)))
            await writer.drain()
            await asyncio.sleep(0.005)
        assert not parting.done()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(0.3):
            await parting
        server.leave("127.0.0.1")

    serve(scenario)


def test_who_comes_while_the_address_is_given_up_waits_for_its_next_holder() -> None:
    """Linux's SMB client tries again after three seconds when it is refused."""

    async def scenario(server: Server, port: int, cores: list[Echo]) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        parting = asyncio.create_task(server.part("127.0.0.1"))
        await asyncio.sleep(0.01)
        early, _ = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.05)
        assert len(cores) == 1 and not parting.done()
        writer.close()
        await parting
        server.leave("127.0.0.1")
        with pytest.raises(ConnectionResetError):
            await early.read()

    serve(scenario)


def lasting(port: int) -> list[str]:
    """The states (include/net/tcp_states.h) of what the kernel keeps of connections to a port, but for TIME_WAIT, and the listener."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [line[3] for line in lines if line[1].endswith(f":{port:04X}") and line[3] not in ("06", "0A")]


async def hoarder(port: int) -> socket.socket:
    """A client that has asked for more than it takes: replies, and whatever comes behind them, wait in the server's socket."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    await asyncio.get_running_loop().sock_sendall(sock, record(bytes(1 << 17)))
    await asyncio.sleep(0.1)
    return sock


def test_who_has_not_taken_its_replies_is_told_that_the_address_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end waits behind the replies, and never leaves once the address has gone; a reset does not wait."""
    monkeypatch.setattr(gateways.parting, "PARTING_S", 0.05)

    async def scenario(server: Server, port: int, cores: list[Echo]) -> None:
        with await hoarder(port) as sock:
            await server.part("127.0.0.1")
            assert lasting(port)
            server.leave("127.0.0.1")
            assert not lasting(port), "what is left would answer for whoever has the address and the port after it"
            with pytest.raises(ConnectionResetError):
                while await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
                    pass

    serve(scenario)


KILLED = """
import asyncio
from gateways.server import Server
from tests.unit.gateways.test_server import Echo
async def main():
    server = Server("nfs", asyncio.get_running_loop(), Echo)
    server.abrupt = True
    print(server.listen("127.0.0.1", 0), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_process_that_dies_leaves_nothing_behind_that_answers_for_its_successor() -> None:
    """NFS clients use their ports again, and two ends that know nothing of each other acknowledge each other for minutes."""

    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with asyncio.run(hoarder(port)) as sock:
            process.kill()
            process.wait()
            assert not lasting(port)
            with pytest.raises(ConnectionResetError):
                while sock.recv(1 << 16):
                    pass


def test_what_a_batch_has_put_off_is_done_before_its_replies_leave() -> None:
    class Late(Echo):
        def received(self, header: int, message: memoryview) -> None:
            clock.call_soon(lambda: self.link.send([record(b"late")]))

    clock = SystemClock()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = Server("late", loop, Late, clock=clock)
        port = server.listen("127.0.0.1", 0)
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setblocking(False)
            sends: list[int] = []
            transmit = Connection._transmit
            with pytest.MonkeyPatch.context() as patch:

                def counted(connection: Connection) -> None:
                    sends.append(len(connection._out))
                    transmit(connection)

                patch.setattr(Connection, "_transmit", counted)
                await loop.sock_sendall(sock, record(b"a") + record(b"b"))
                answer = b""
                while len(answer) < 16:
                    answer += await loop.sock_recv(sock, 100)
            assert answer == record(b"late") * 2 and sends == [2]
        await server.stop()

    asyncio.run(main())


def test_a_broken_message_ends_its_connection_and_no_other() -> None:
    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        good_reader, good_writer = await asyncio.open_connection("127.0.0.1", port)
        for evil in (b"\xff\0\0\1x", record(b"BUG! of ours")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(record(b"first") + evil + record(b"never"))
            assert await reader.read() == record(b"first")
            writer.close()
        good_writer.write(record(b"still here"))
        assert await good_reader.readexactly(14) == record(b"still here")
        good_writer.close()

    cores = serve(test)
    assert "broke the protocol: header 0xff000001" in cores[1].reason
    assert "bug" in cores[2].reason


def test_a_stop_waits_for_requests_in_progress() -> None:
    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(record(b"one"))
        await reader.readexactly(7)
        cores[0].busy = True

        def answer() -> None:
            cores[0].link.send([record(b"late")])
            cores[0].busy = False

        asyncio.get_running_loop().call_later(0.05, answer)
        await server.stop()
        assert await reader.read() == record(b"late")
        writer.close()
        with contextlib.suppress(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
            raise AssertionError("still listening")

    serve(test)


def test_a_buffer_is_used_again_only_when_nobody_looks_at_it() -> None:
    buffers = Buffers()
    first = buffers.take(100_000)
    view = memoryview(first)[10:20]
    del first
    second = buffers.take(100_000)
    assert view.obj is not second
    del view
    third = buffers.take(100_000)
    assert third is not second
    del third
    assert len(buffers._classes[len(second)]) == 2


class Generous:
    """Answers a request of four bytes with a mebibyte; may pause itself at the third request of every batch."""

    def __init__(self, link: Link, pausing: bool) -> None:
        self.link = link
        self.pausing = pausing
        self.busy = False
        self.handled = 0
        self.payload = bytes(1 << 20)

    def size(self, header: int) -> int:
        return header

    def received(self, header: int, message: memoryview) -> None:
        self.handled += 1
        if self.pausing:
            self.link.send([message])
            if self.handled % 3 == 0:
                self.link.pause()
        else:
            self.link.send([self.payload])

    def closed(self, reason: str) -> None:
        pass


def test_a_batch_of_requests_with_large_replies_does_not_make_us_hold_them_all() -> None:
    async def main() -> None:
        cores: list[Generous] = []

        def accept(link: Link) -> Generous:
            cores.append(Generous(link, False))
            return cores[0]

        server = Server("generous", asyncio.get_running_loop(), accept)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.listen("127.0.0.1", 0), limit=1 << 16)
        writer.write(record(b"more") * 400)
        await asyncio.sleep(0.3)
        assert HIGH >> 20 <= cores[0].handled < (HIGH >> 20) + 40
        for _ in range(400):
            await reader.readexactly(1 << 20)
        assert cores[0].handled == 400
        writer.close()
        await server.stop()

    asyncio.run(main())


def test_a_core_that_pauses_gets_no_further_message_of_the_same_batch() -> None:
    async def main() -> None:
        cores: list[Generous] = []

        def accept(link: Link) -> Generous:
            cores.append(Generous(link, True))
            return cores[0]

        server = Server("pausing", asyncio.get_running_loop(), accept)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.listen("127.0.0.1", 0))
        messages = [number.to_bytes(4) for number in range(20)]
        writer.write(b"".join(map(record, messages)))
        seen = b""
        for round in range(1, 7):
            seen += await reader.readexactly(12)
            await asyncio.sleep(0.02)
            assert cores[0].handled == 3 * round
            cores[0].link.resume()
        seen += await reader.readexactly(8)
        assert seen == b"".join(messages)
        writer.close()
        await server.stop()

    asyncio.run(main())


def test_announced_messages_get_no_more_memory_than_the_budget_and_are_received_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways.server, "UNDER_WAY", 5 << 19)

    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        payload = bytes(1 << 20)
        clients = [await asyncio.open_connection("127.0.0.1", port, limit=2 << 20) for _ in range(6)]
        for _, writer in clients:
            writer.write(record(payload)[:4])
        while server.received_bytes < 4 * len(clients):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        large = [connection for connection in server.connections if len(connection._buffer) > 1 << 20]
        assert len(large) == 2
        small_reader, small_writer = await asyncio.open_connection("127.0.0.1", port)
        small_writer.write(record(b"small"))
        assert await small_reader.readexactly(9) == record(b"small")
        small_writer.close()

        async def serve_rest(number: int) -> None:
            reader, writer = clients[number]
            writer.write(payload)
            assert await reader.readexactly(4 + len(payload)) == record(payload)
            writer.close()

        await asyncio.gather(*(serve_rest(number) for number in range(6)))

    serve(test)


@pytest.mark.parametrize("size", [CHUNK - 3, CHUNK, CHUNK + 100, CHUNK + SLACK - 4, CHUNK + SLACK, CHUNK + SLACK + 1, 1 << 20])
def test_messages_of_every_size_give_their_room_back(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways.server, "UNDER_WAY", 5 << 19)

    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        payload = bytes(size)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2 << 20)
        async with asyncio.timeout(20):
            for _ in range(60):
                before = server.received_bytes
                writer.write(record(payload)[:100])
                while server.received_bytes == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                writer.write(record(payload)[100:])
                assert await reader.readexactly(4 + size) == record(payload)
            writer.write(record(b"small"))
            assert await reader.readexactly(9) == record(b"small")
        assert server.budget.taken == 0
        writer.close()

    serve(test)


def test_who_holds_room_without_using_it_is_disconnected_when_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways.server, "UNDER_WAY", 3 << 20)
    monkeypatch.setattr("gateways.buffers.PATIENCE_S", 0.2)

    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(9)]
        for _, writer in strangers:
            writer.write(record(bytes(1 << 20))[:4])
        while server.received_bytes < 4 * len(strangers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 << 20)
        writer.write(record(bytes(2 << 20)))
        assert await reader.readexactly(4 + (2 << 20)) == record(bytes(2 << 20))
        writer.close()
        for _, stranger in strangers:
            stranger.close()

    serve(test)


def test_one_address_cannot_take_all_connections() -> None:
    async def test(server: Server, port: int, cores: list[Echo]) -> None:
        server.per_peer = 3
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        sock = socket.socket()
        sock.bind(("127.0.0.2", 0))
        sock.connect(("127.0.0.1", port))
        other_reader, other_writer = await asyncio.open_connection(sock=sock)
        other_writer.write(record(b"another host"))
        assert await other_reader.readexactly(16) == record(b"another host")
        other_writer.close()
        clients[0][1].close()
        while len(server.connections) > 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(record(b"again"))
        assert await reader.readexactly(9) == record(b"again")
        for _, open_writer in (*clients, (reader, writer)):
            open_writer.close()

    serve(test)
    assert origin_of("2001:db8:0:1::5") == origin_of("2001:db8::1:ffff:0:0:1%eth0") != origin_of("2001:db8:0:2::5")


def test_what_is_put_off_is_done_behind_each_batch_of_a_lone_connection_and_together_for_several() -> None:
    clock, events = SystemClock(), []

    class Puts(Echo):
        def received(self, header: int, message: memoryview) -> None:
            name = bytes(message).decode()
            events.append(f"got {name}")
            clock.call_soon(lambda: events.append(f"done {name}"))
            clock.call_soon(lambda: self.link.send([record(b"ok")]))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = Server("puts", loop, Puts, clock=clock)
        port = server.listen("127.0.0.1", 0)
        one, other = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))

        async def ask(*names: str) -> None:
            for sock, name in zip((one, other), names, strict=False):
                sock.sendall(record(name.encode()))
            for sock in (one, other)[: len(names)]:
                sock.setblocking(False)
                assert await loop.sock_recv(sock, 100) == record(b"ok")
                sock.setblocking(True)

        for name in "abc":
            await ask(name)
        assert events[-4:] == ["got b", "done b", "got c", "done c"]
        for _ in range(2):
            await ask("d", "e")
        assert sorted(events[-4:-2]) == ["got d", "got e"] and sorted(events[-2:]) == ["done d", "done e"]
        one.close()
        other.close()
        await server.stop()

    asyncio.run(main())
