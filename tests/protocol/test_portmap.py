"""The portmapper, by its own clients' requests and beside a real rpcbind."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import sys
import textwrap

import pytest

from gateways.nfs import portmap
from gateways.nfs.portmap import Mapping4, Portmap, PortMapper, Registration, registrations
from gateways.nfs.xdr import decode, encode
from sofs.errors import Unavailable
from tests.protocol.nfs_client import RpcClient
from tests.unit.gateways.nfs_link import call_bytes

PMAP, NFS, MOUNT, TCP, UDP = 100000, 100003, 100005, 6, 17
CORE = Portmap(registrations(20490))


def ask(version: int, procedure: int, arguments: bytes = b"", program: int = PMAP) -> bytes:
    answer = CORE.datagram(call_bytes(program, version, procedure, arguments, xid=7))
    assert answer is not None
    assert answer[:20] == struct.pack(">5I", 7, 1, 0, 0, 0)
    return answer[20:]


def port(program: int, version: int, protocol: int = TCP) -> int:
    results = ask(2, 3, encode(Registration(program, version, protocol, 0)))
    return int.from_bytes(results[4:])


def test_getport_names_the_gateways_port() -> None:
    assert port(NFS, 3) == port(MOUNT, 3) == port(MOUNT, 1) == 20490
    assert port(PMAP, 2, UDP) == 111


def test_what_is_not_offered_has_no_port() -> None:
    assert port(100021, 4) == 0
    assert port(NFS, 3, UDP) == 0


def test_a_version_that_is_not_offered_has_the_programs_port_where_the_range_is_told() -> None:
    assert port(NFS, 4) == 20490


@pytest.mark.parametrize("version", [3, 4])
def test_getaddr_gives_a_universal_address(version: int) -> None:
    wanted = Mapping4(NFS, 3, b"tcp", b"", b"")
    assert decode(portmap.Address, ask(version, 3, encode(wanted)), 4).address == b"0.0.0.0.80.10"
    assert decode(portmap.Address, ask(version, 3, encode(wanted._replace(network=b"tcp6"))), 4).address == b"::.80.10"
    assert decode(portmap.Address, ask(version, 3, encode(wanted._replace(program=5))), 4).address == b""


def test_dumps_list_everything() -> None:
    old = decode(portmap.RegistrationList, ask(2, 4), 4).all
    assert Registration(NFS, 3, TCP, 20490) in old
    new = decode(portmap.MappingList, ask(4, 4), 4).all
    assert Mapping4(NFS, 3, b"tcp", b"0.0.0.0.80.10", b"superuser") in new
    assert len(old) == len(new) == 10


def test_nobody_can_register_or_unregister() -> None:
    for procedure in (1, 2):
        assert ask(2, procedure, encode(Registration(NFS, 3, TCP, 666)))[4:] == bytes(4)
        assert ask(4, procedure, encode(Mapping4(NFS, 3, b"tcp", b"1.2.3.4.5.6", b"me")))[4:] == bytes(4)
    assert port(NFS, 3) == 20490


def test_datagrams_that_cannot_be_served_are_refused() -> None:
    assert ask(2, 0) == bytes(4)
    assert ask(2, 5)[:4] == struct.pack(">I", 3)  # CALLIT would make us an amplifier
    assert ask(2, 3)[:4] == struct.pack(">I", 4)
    assert ask(5, 0) == struct.pack(">3I", 2, 2, 4)
    assert ask(2, 0, program=NFS) == struct.pack(">I", 1)
    assert CORE.datagram(b"") is None
    assert CORE.datagram(bytes(10)) is None


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number: int = sock.getsockname()[1]
        return number


def test_it_answers_over_tcp_and_udp() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        number = free_port()
        mapper = PortMapper(loop, registrations(2049), number)
        assert await mapper.start("127.0.0.1") == f"answering at port {number}"
        wanted = encode(Registration(NFS, 3, TCP, 0))
        async with await RpcClient.connect(number) as client:
            assert await client.results(PMAP, 2, 3, wanted) == (2049).to_bytes(4)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(("127.0.0.1", number))
            sock.send(call_bytes(PMAP, 2, 3, wanted, xid=9))
            async with asyncio.timeout(10):
                reply = await loop.sock_recv(sock, 100)
        assert reply == struct.pack(">6I", 9, 1, 0, 0, 0, 0) + (2049).to_bytes(4)
        await mapper.stop()

    asyncio.run(scenario())


def test_a_port_that_another_program_has_is_reported_with_the_remedy() -> None:
    async def scenario() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            mapper = PortMapper(asyncio.get_running_loop(), registrations(2049), taken.getsockname()[1])
            with pytest.raises(Unavailable, match="leave the portmapper off"):
                await mapper.start("127.0.0.1")

    asyncio.run(scenario())


BESIDE_RPCBIND = """
import asyncio, subprocess, uvloop
from gateways.nfs.portmap import PortMapper, registrations

def listing():
    return subprocess.run(["rpcinfo", "-p", "127.0.0.1"], capture_output=True, text=True).stdout

async def main():
    for _ in range(2):  # what the first run left behind does not disturb the second
        mapper = PortMapper(asyncio.get_running_loop(), registrations(20490))
        print(await mapper.start("127.0.0.1"))
    print(listing())
    await mapper.stop()
    assert "20490" not in listing()

uvloop.run(main())
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(shutil.which("rpcbind") is None, reason="needs rpcbind")
def test_it_registers_with_a_real_rpcbind() -> None:
    script = 'ip link set lo up && mount -t tmpfs none /run && rpcbind -w && exec "$0" -c "$1"'
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*namespaces, "sh", "-c", script, sys.executable, textwrap.dedent(BESIDE_RPCBIND)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[:2] == ["registered with the rpcbind at port 111"] * 2
    assert any(line.split()[:4] == ["100003", "3", "tcp", "20490"] for line in lines)
    assert any(line.split()[:4] == ["100005", "3", "tcp", "20490"] for line in lines)
