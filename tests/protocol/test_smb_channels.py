"""Dialects, and sessions over several connections: the SMB gateway over a real volume, driven message by message."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from gateways.smb.control.network import offered
from gateways.smb.crypto import CipherId, Dialect, SigningAlgorithm
from gateways.smb.header import FLAG_REPLAY, HEADER, Command
from gateways.smb.service import SmbService, SmbSettings
from gateways.smb.status import Status
from sofs.errors import PeerError
from sofs.runtime.interfaces import Interface, host_interfaces
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import NOBODY, Client
from tests.protocol.smb_scenes import run, started

QUERY_INTERFACES, VALIDATE = 0x001401FC, 0x00140204


async def bound(service: SmbService, first: Client, **options: object) -> Client:
    second = Client(service)
    await second.negotiate(**options)  # type: ignore[arg-type]
    assert (await second.bind(first)).status == 0
    return second


# Dialects


@pytest.mark.parametrize(("dialect", "largest", "capabilities"), [(Dialect.SMB_2_0_2, 1 << 16, 0), (Dialect.SMB_2_1, 8 << 20, 0x6)])
def test_dialect_2_signs_with_hmac_and_cannot_encrypt(tmp_path: Path, dialect: Dialect, largest: int, capabilities: int) -> None:
    async def test(service: SmbService) -> None:
        client = Client(service)
        reply = await client.negotiate(dialect)
        assert struct.unpack_from("<H", reply.body, 4) == (dialect,)
        assert struct.unpack_from("<IIII", reply.body, 24) == (capabilities, largest, largest, largest)
        assert (await client.logon()).status == 0
        assert client.signing is SigningAlgorithm.HMAC_SHA256
        assert (await client.connect("data")).status == 0
        file = await client.open("x")
        assert (await client.ask(Command.WRITE, smb.write(file, 0, b"hello"))).status == 0
        assert (await client.ask(Command.READ, smb.read(file, 0, 9))).body[16:] == b"hello"
        validate = struct.pack("<I16sHHH", 0x7F, b"guid" * 4, 1, 1, dialect)
        reply = await client.ask(Command.IOCTL, smb.ioctl(NOBODY, VALIDATE, validate))
        assert struct.unpack_from("<I16sHH", reply.body, 48)[::3] == (capabilities, dialect)
        assert (await client.connect("sealed")).status == Status.ACCESS_DENIED

    run(tmp_path, test)


def test_dialect_2_0_2_counts_every_request_as_one_message_id(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service, dialect=Dialect.SMB_2_0_2)
        file = await client.open("x")
        number = client.next_id
        body = smb.write(file, 0, bytes(1 << 16))
        client.next_id += 1
        # The field that later tells how many ids a request uses is reserved here, whatever it says.
        client.deliver(client.signed(client.header(Command.WRITE, number, charge=7) + body, number))
        assert (await client.final(number)).status == 0
        reply = await client.ask(Command.WRITE, smb.write(file, 0, bytes((1 << 16) + 1)))
        assert reply.status == Status.INVALID_PARAMETER, "more than one credit's worth"

    run(tmp_path, test)


def test_a_client_of_smb1_that_stops_at_2_0_2_gets_it(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = Client(service)
        names = b"\x02NT LM 0.12\0\x02SMB 2.002\0"
        client.deliver(b"\xffSMB\x72" + bytes(27) + b"\0" + struct.pack("<H", len(names)) + names)
        (reply,) = client.replies()
        assert struct.unpack_from("<H", reply.body, 4) == (Dialect.SMB_2_0_2,)
        client.dialect, client.signing, client.next_id = Dialect.SMB_2_0_2, SigningAlgorithm.HMAC_SHA256, 1
        assert (await client.logon()).status == 0
        assert (await client.connect("data")).status == 0
        await client.open("x")

    run(tmp_path, test)


def test_the_oldest_dialect_can_be_chosen(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = Client(service)
        client.deliver(client.header(Command.NEGOTIATE, 0) + smb.negotiate(Dialect.SMB_3_0))
        assert (await client.final(0)).status == Status.NOT_SUPPORTED
        await started(service, dialect=Dialect.SMB_3_0_2)
        old = Client(service)
        with pytest.raises(PeerError, match="no dialect"):
            old.deliver(b"\xffSMB\x72" + bytes(27) + b"\0" + struct.pack("<H", 11) + b"\x02SMB 2.002\0")

    run(tmp_path, test, SmbSettings(minimum_dialect=Dialect.SMB_3_0_2))


# Channels


@pytest.mark.parametrize("dialect", [Dialect.SMB_3_0, Dialect.SMB_3_0_2, Dialect.SMB_3_1_1])
@pytest.mark.parametrize("cipher", [None, CipherId.AES_128_CCM])
def test_a_session_goes_on_over_the_channel_that_is_left(tmp_path: Path, dialect: Dialect, cipher: CipherId | None) -> None:
    async def test(service: SmbService) -> None:
        first = await started(service, dialect=dialect, cipher=cipher)
        file = await first.open("x")
        second = await bound(service, first, dialect=dialect, cipher=cipher)
        assert second.signer is not first.signer
        assert (await second.ask(Command.WRITE, smb.write(file, 0, b"over the second"))).status == 0
        assert (await first.ask(Command.READ, smb.read(file, 0, 50))).body[16:] == b"over the second"
        assert len(service.sessions[first.session_id].channels) == 2
        first.core.closed("the test cut it")
        assert (await second.ask(Command.READ, smb.read(file, 0, 50))).body[16:] == b"over the second"
        if cipher is not None:
            second.sealed = True
            assert (await second.ask(Command.READ, smb.read(file, 0, 50))).body[16:] == b"over the second"
        second.core.closed("the test cut it")
        assert not service.sessions

    run(tmp_path, test)


def test_a_channel_is_signed_with_its_own_key(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        first = await started(service)
        second = await bound(service, first)
        second.signer = first.signer
        number = second.request(Command.TREE_CONNECT, smb.tree_connect("data"))
        (reply,) = [HEADER.unpack_from(second.link.sent, 4)]
        assert (reply[3], reply[8]) == (Status.ACCESS_DENIED, number)

    run(tmp_path, test)


def test_a_binding_has_to_be_signed_by_the_session_and_asked_for_by_its_user(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        first = await started(service)
        stranger = Client(service)
        await stranger.negotiate()
        stranger.session_id = first.session_id
        assert (await stranger.logon(flags=1)).status == Status.INVALID_PARAMETER, "not signed"
        other = await started(service, user="bob", password="hidden")
        thief = Client(service)
        await thief.negotiate()
        thief.session_id, thief.signer = first.session_id, other.signer
        number = thief.next_id
        with pytest.raises(AssertionError, match="wrong signature"):
            await thief.logon(flags=1)
        assert number < thief.next_id
        confused = Client(service)
        await confused.negotiate()
        assert (await confused.bind(first, "bob", "hidden")).status == Status.ACCESS_DENIED
        failing = Client(service)
        await failing.negotiate()
        assert (await failing.bind(first, "alice", "wrong")).status == Status.LOGON_FAILURE
        assert len(service.sessions[first.session_id].channels) == 1
        await first.open("still there")

    run(tmp_path, test)


def test_a_session_id_alone_is_no_channel(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        first = await started(service)
        second = Client(service)
        await second.negotiate()
        second.session_id, second.tree_id, second.signer = first.session_id, first.tree_id, first.signer
        assert (await second.ask(Command.CREATE, smb.create("x"))).status == Status.USER_SESSION_DELETED

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("first_is", "second_is", "status"),
    [
        ({"dialect": Dialect.SMB_2_1}, {"dialect": Dialect.SMB_2_1}, Status.REQUEST_NOT_ACCEPTED),
        ({"dialect": Dialect.SMB_3_0}, {"dialect": Dialect.SMB_3_0_2}, Status.INVALID_PARAMETER),
        ({"cipher": CipherId.AES_128_GCM}, {"cipher": CipherId.AES_128_CCM}, Status.INVALID_PARAMETER),
        ({"signing": SigningAlgorithm.AES_GMAC}, {"signing": SigningAlgorithm.AES_CMAC}, Status.REQUEST_OUT_OF_SEQUENCE),
        ({"signing": SigningAlgorithm.AES_CMAC}, {"signing": SigningAlgorithm.AES_GMAC}, Status.NOT_SUPPORTED),
    ],
)
def test_connections_of_one_session_are_alike(tmp_path: Path, first_is: object, second_is: object, status: Status) -> None:
    async def test(service: SmbService) -> None:
        first = await started(service, **first_is)  # type: ignore[arg-type]
        second = Client(service)
        await second.negotiate(**second_is)  # type: ignore[arg-type]
        assert (await second.bind(first)).status == status
        await first.open("x")

    run(tmp_path, test)


def test_a_session_that_ends_ends_on_all_channels(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        first = await started(service)
        second = await bound(service, first)
        assert (await second.ask(Command.LOGOFF, struct.pack("<HH", 4, 0))).status == 0
        assert (await first.ask(Command.CREATE, smb.create("x"))).status == Status.USER_SESSION_DELETED
        assert not first.core.channels and not second.core.channels

    run(tmp_path, test)


def test_a_session_expires_and_its_user_logs_on_again(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file = await client.open("x")
        session = service.sessions[client.session_id]
        session.expires = service.clock.monotonic() - 1
        assert (await client.ask(Command.READ, smb.read(file, 0, 1))).status == Status.NETWORK_SESSION_EXPIRED
        assert (await client.ask(Command.CLOSE, smb.close(file))).status == 0
        kept = client.signer
        assert (await client.logon()).status == 0
        client.signer = kept  # a later logon changes no keys
        assert session.expires > service.clock.monotonic()
        await client.open("y")

    run(tmp_path, test, SmbSettings(session_lifetime_s=3600))


# Channel sequence


def test_a_change_that_comes_late_from_a_failed_channel_is_refused(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file = await client.open("x")

        async def write(sequence: int, data: bytes, flags: int = 0) -> int:
            client.sequence = sequence
            return (await client.ask(Command.WRITE, smb.write(file, 0, data), flags)).status

        assert await write(0, b"first") == 0
        assert await write(0x7FFF, b"second") == 0
        assert await write(0x7FFE, b"late") == Status.FILE_NOT_AVAILABLE
        assert await write(0x7FFF, b"again!", FLAG_REPLAY) == 0
        assert await write(3, b"wraps!") == Status.FILE_NOT_AVAILABLE
        assert await write(0xFFFE, b"ahead!") == 0
        assert await write(3, b"wraps!") == 0
        client.sequence = 0xFFFF
        assert (await client.ask(Command.READ, smb.read(file, 0, 9))).body[16:] == b"wraps!", "a READ is never refused for it"

    run(tmp_path, test)


# Interfaces


def test_interfaces_are_listed_where_the_gateway_listens(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        client.link.local = "127.0.0.1"
        reply = await client.ask(Command.IOCTL, smb.ioctl(NOBODY, QUERY_INTERFACES))
        assert reply.status == 0
        following, index, _, _, speed, family, _, address = struct.unpack_from("<IIIIQHH4s", reply.body, 48)
        assert (following, index, family, address) == (0, 1, 2, bytes([127, 0, 0, 1]))
        assert speed > 0 and len(reply.body) == 48 + 152
        old = await started(service, dialect=Dialect.SMB_2_1)
        assert (await old.ask(Command.IOCTL, smb.ioctl(NOBODY, QUERY_INTERFACES))).status == Status.NOT_SUPPORTED

    run(tmp_path, test)


def test_a_client_is_told_only_addresses_that_it_can_reach() -> None:
    def interface(address: str) -> Interface:
        return Interface("x", 1, address, 10**9, 1)

    here = [interface(a) for a in ("127.0.0.1", "::1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "fe80::1")]

    def told(listening: list[str], reached: str) -> list[str]:
        return [each.address for each in offered(here, listening, reached)]

    assert told(["0.0.0.0"], "192.0.2.1") == ["192.0.2.1", "192.0.2.2"]
    assert told(["0.0.0.0", "::"], "192.0.2.1") == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert told(["0.0.0.0"], "127.0.0.1") == ["127.0.0.1", "192.0.2.1", "192.0.2.2"]
    assert told(["192.0.2.2"], "192.0.2.2") == ["192.0.2.2"]
    assert told([], "192.0.2.2") == []


def test_the_kernel_tells_this_hosts_addresses() -> None:
    loopback = [each for each in host_interfaces() if each.address == "127.0.0.1"]
    assert [(each.name, each.receive_queues >= 1, each.bits_per_s > 0) for each in loopback] == [("lo", True, True)]
