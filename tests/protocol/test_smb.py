"""The SMB gateway over a real volume, driven message by message."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import spnego

from gateways.identity import User
from gateways.smb.crypto import CipherId, Dialect, SigningAlgorithm
from gateways.smb.header import Command
from gateways.smb.service import SmbService, SmbSettings
from gateways.smb.status import Status
from sofs.errors import DiskFailed, PeerError
from sofs.types import ROOT, Kind
from sofs.volume.api import Binding, Caller, Changes, Found, Make
from sofs.volume.pages import Done
from sofs.volume.volume import LocalVolume
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import NOBODY, RELATED, Client
from tests.protocol.smb_scenes import run, started
from tests.served_smb import SHARES
from tests.unit.gateways.smb.test_smb_logon_attacks import authenticate

READ_ONLY_ACCESS = 0x120089
DIRECTORY, NON_DIRECTORY, DELETE_ON_CLOSE = 0x1, 0x40, 0x1000


# Setting up


@pytest.mark.parametrize("cipher", [None, *CipherId])
@pytest.mark.parametrize("signing", SigningAlgorithm)
def test_3_1_1_agrees_on_signing_and_encryption(tmp_path: Path, cipher: CipherId | None, signing: SigningAlgorithm) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service, cipher=cipher, signing=signing)
        file = await client.open("x")
        assert (await client.ask(Command.WRITE, smb.write(file, 0, b"hello"))).status == 0
        client.sealed = cipher is not None
        reply = await client.ask(Command.READ, smb.read(file, 0, 100))
        assert reply.body[16:] == b"hello"
        big = bytes(range(256)) * 1024
        assert (await client.ask(Command.WRITE, smb.write(file, 3, big), charge=4)).status == 0
        reply = await client.ask(Command.READ, smb.read(file, 3, len(big)), charge=4)
        assert reply.body[16:] == big

    run(tmp_path, test)


@pytest.mark.parametrize("dialect", [Dialect.SMB_3_0, Dialect.SMB_3_0_2])
def test_older_dialects_sign_and_encrypt_and_validate_their_negotiation(tmp_path: Path, dialect: Dialect) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service, dialect=dialect)
        validate = struct.pack("<I16sHHH", 0x7F, b"guid" * 4, 1, 1, dialect)
        reply = await client.ask(Command.IOCTL, smb.ioctl(NOBODY, 0x00140204, validate))
        assert reply.status == 0
        assert struct.unpack_from("<I16sHH", reply.body, 48)[3] == dialect
        client.sealed = True
        await client.open("x")
        client.sealed = False
        forged = struct.pack("<I16sHHHH", 0x40, b"guid" * 4, 1, 2, dialect, 0x311)
        with pytest.raises(PeerError):
            await client.ask(Command.IOCTL, smb.ioctl(NOBODY, 0x00140204, forged))
            raise PeerError(client.link.closed_for)

    run(tmp_path, test)


def test_clients_of_smb1_are_led_to_smb3_and_those_that_know_nothing_newer_are_refused(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = Client(service)
        dialects = b"\x02NT LM 0.12\0\x02SMB 2.002\0\x02SMB 2.???\0"
        smb1 = b"\xffSMB\x72" + bytes(27) + b"\0" + struct.pack("<H", len(dialects)) + dialects
        client.deliver(smb1)
        (reply,) = client.replies()
        assert struct.unpack_from("<H", reply.body, 4) == (0x2FF,)
        message = client.header(Command.NEGOTIATE, 1) + smb.negotiate(Dialect.SMB_3_1_1)
        client.deliver(message)
        assert struct.unpack_from("<H", (await client.final(1)).body, 4) == (0x311,)

        old = Client(service)
        with pytest.raises(PeerError, match="speaks no dialect"):
            old.deliver(b"\xffSMB\x72" + bytes(27) + b"\0" + struct.pack("<H", 12) + b"\x02NT LM 0.12\0")

    run(tmp_path, test)


def test_wrong_passwords_unknown_users_and_unknown_shares_are_refused(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        for user, password in (("alice", "wrong"), ("nobody", "secret")):
            client = Client(service)
            await client.negotiate()
            assert (await client.logon(user, password)).status == Status.LOGON_FAILURE
        client = await started(service)
        for share in ("nothing", "onlynfs"):
            assert (await client.ask(Command.TREE_CONNECT, smb.tree_connect(share))).status == Status.BAD_NETWORK_NAME

    run(tmp_path, test)


def test_a_session_without_keys_never_becomes_a_users(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = Client(service)
        assert (await client.negotiate()).status == 0
        reply = await client.ask(Command.SESSION_SETUP, smb.session_setup(authenticate("", "", b"")))
        assert reply.status == 0
        client.session_id = reply.session_id
        context = spnego.client("alice", "secret", hostname="test", service="cifs", protocol="ntlm")
        reply = await client.ask(Command.SESSION_SETUP, smb.session_setup(context.step() or b""))
        at, length = struct.unpack_from("<HH", reply.body, 4)
        proof = context.step(reply.message[at : at + length])
        reply = await client.ask(Command.SESSION_SETUP, smb.session_setup(proof or b""))
        assert reply.status == Status.ACCESS_DENIED
        assert (await client.connect("data")).status == Status.USER_SESSION_DELETED

    run(tmp_path, test, SmbSettings(anonymous=True))


def test_a_stranger_has_few_sessions(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = Client(service)
        assert (await client.negotiate()).status == 0
        statuses = []
        for _ in range(40):
            client.session_id = 0
            hello = spnego.client("x", "x", hostname="test", service="cifs", protocol="ntlm").step()
            assert hello is not None
            statuses.append((await client.ask(Command.SESSION_SETUP, smb.session_setup(hello))).status)
        assert statuses[:4] == [Status.MORE_PROCESSING_REQUIRED] * 4
        assert statuses[-1] == Status.INSUFFICIENT_RESOURCES
        assert len(service.sessions) <= 8

    run(tmp_path, test)


def test_unsigned_and_wrongly_signed_requests_are_refused(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        number, client.next_id = client.next_id, client.next_id + 1
        client.deliver(client.header(Command.ECHO, number) + b"\x04\0\0\0")
        assert (await client.final(number)).status == Status.ACCESS_DENIED
        number, client.next_id = client.next_id, client.next_id + 1
        right = client.signed(client.header(Command.CREATE, number) + smb.create("x"), number)
        client.deliver(right[:-2] + b"y\0")
        assert (await client.final(number)).status == Status.ACCESS_DENIED

    run(tmp_path, test)


def test_signing_can_be_left_to_the_client(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        signer, client.signer = client.signer, None
        file = await client.open("x")
        assert not (await client.ask(Command.WRITE, smb.write(file, 0, b"x"))).flags & 8
        client.signer = signer
        assert (await client.ask(Command.READ, smb.read(file, 0, 1))).flags & 8, "a signed request has a signed reply"

    run(tmp_path, test, SmbSettings(signing_required=False))


def test_an_encrypted_share_is_not_to_be_had_in_the_clear(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service, share="sealed")
        assert (await client.ask(Command.CREATE, smb.create("x"))).status == Status.ACCESS_DENIED
        client.sealed = True
        await client.open("x")
        plain = Client(service)
        await plain.negotiate(cipher=None)
        await plain.logon()
        assert (await plain.connect("sealed")).status == Status.ACCESS_DENIED

    run(tmp_path, test)


def test_a_server_can_demand_encryption(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = Client(service)
        await client.negotiate()
        reply = await client.logon()
        assert reply.status == 0
        assert struct.unpack_from("<H", reply.body, 2) == (4,)
        assert client.sealer is not None
        client.sealer._session_id = client.session_id
        assert (await client.ask(Command.TREE_CONNECT, smb.tree_connect("data"))).status == Status.ACCESS_DENIED
        client.sealed = True
        assert (await client.connect("data")).status == 0
        plain = Client(service)
        await plain.negotiate(cipher=None)
        assert (await plain.logon()).status == Status.ACCESS_DENIED

    run(tmp_path, test, SmbSettings(encryption="required"))


def test_a_second_session_can_end_the_first_of_the_same_user(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        first = await started(service)
        await first.open("x", share=0)
        other = Client(service)
        await other.negotiate()
        await other.logon("bob", "hidden", previous=first.session_id)
        assert first.session_id in service.sessions, "another user cannot"
        second = Client(service)
        await second.negotiate()
        await second.logon(previous=first.session_id)
        await second.connect("data")
        await second.open("x", share=0)
        number = first.request(Command.ECHO, b"\x04\0\0\0")
        first.signer = None
        assert (await first.final(number)).status == 0  # ECHO needs no session
        number = first.request(Command.CREATE, smb.create("y"))
        assert (await first.final(number)).status == Status.USER_SESSION_DELETED

    run(tmp_path, test)


def waits_for(room: asyncio.Event, write: Callable[..., Any]) -> Callable[..., Awaitable[Done]]:
    """`Data.write`, where there is no room yet."""

    async def later(*args: Any) -> Done:
        await room.wait()
        done = write(*args)
        return done if isinstance(done, Done) else await done

    return later


@pytest.mark.parametrize("compounded", [False, True])
@pytest.mark.parametrize("how", ["another session", "a lost connection"])
def test_a_write_that_waits_when_its_session_ends_never_comes_over_a_later_one(tmp_path: Path, how: str, compounded: bool) -> None:
    async def test(service: SmbService) -> None:
        first = await started(service)
        file = await first.open("x")
        assert (await first.ask(Command.WRITE, smb.write(file, 0, bytes(8192)))).status == 0
        volume = service.shares.volume(SHARES[0])
        assert isinstance(volume, LocalVolume)
        data = volume.core.data
        write, room = data.write, asyncio.Event()
        data.write = waits_for(room, write)  # type: ignore[assignment]
        old = smb.write(file, 0, b"old" * 1000)
        if compounded:
            first.compound([(Command.WRITE, old, 0), (Command.WRITE, old, 0)])
        else:
            first.request(Command.WRITE, old)
        data.write = write
        second = Client(service)
        await second.negotiate()
        if how == "a lost connection":
            first.core.closed("the network failed")
        await second.logon(previous=first.session_id)
        await second.connect("data")
        again = await second.open("x")
        assert (await second.ask(Command.WRITE, smb.write(again, 0, b"new" * 1000))).status == 0
        room.set()
        await asyncio.sleep(0.05)
        assert (await second.ask(Command.READ, smb.read(again, 0, 3000))).body[16:] == b"new" * 1000

    run(tmp_path, test)


def test_a_close_waits_for_the_writes_before_it(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file = await client.open("x")
        volume = service.shares.volume(SHARES[0])
        assert isinstance(volume, LocalVolume)
        data = volume.core.data
        write, room = data.write, asyncio.Event()
        data.write = waits_for(room, write)  # type: ignore[assignment]
        writing = client.request(Command.WRITE, smb.write(file, 0, b"data" * 1000))
        data.write = write
        closing = client.request(Command.CLOSE, smb.close(file))
        await asyncio.sleep(0.05)
        room.set()
        assert [(await client.final(number)).status for number in (writing, closing)] == [0, 0]
        again = await client.open("x")
        assert (await client.ask(Command.READ, smb.read(again, 0, 4000))).body[16:] == b"data" * 1000

    run(tmp_path, test)


@pytest.mark.parametrize("change", ["deleted", "another password"])
def test_a_user_who_is_deleted_or_gets_another_password_has_no_sessions_left(tmp_path: Path, change: str) -> None:
    async def test(service: SmbService) -> None:
        client, other = await started(service), Client(service)
        await client.open("x", share=0)
        await other.negotiate()
        await other.logon("bob", "hidden")
        users = service.identities.all()
        name = service.sessions[client.session_id].user
        service.identities.replace([msgspec.structs.replace(user, groups=(7,)) for user in users])
        service.refresh_users()
        assert client.session_id in service.sessions
        changed = User.new(name, "another", *next((user.uid, user.gid) for user in users if user.name == name))
        service.identities.replace([user for user in users if user.name != name] + [changed] * (change != "deleted"))
        service.refresh_users()
        assert list(service.sessions) == [other.session_id]
        number = client.request(Command.CREATE, smb.create("y"))
        client.signer = None
        assert (await client.final(number)).status == Status.USER_SESSION_DELETED
        volume = service.shares.volume(SHARES[0])
        assert isinstance(volume, LocalVolume) and not volume.core.by_inode

    run(tmp_path, test)


def test_a_failed_volume_ends_the_connections_to_it_and_later_requests_are_told(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client, other, apart = await started(service), await started(service), Client(service)
        await apart.negotiate()
        await apart.logon("bob", "hidden")
        file = await client.open("x")
        volume = service.shares.volume(SHARES[0])
        assert isinstance(volume, LocalVolume)
        client.request(Command.WRITE, smb.write(file, 0, b"x"))
        volume._log.lose(1, DiskFailed("disk0: input/output error"))  # type: ignore[attr-defined]
        service.give_up(volume)
        assert client.core.busy and client.link.closed_for and other.link.closed_for
        assert not apart.link.closed_for
        number = other.request(Command.CREATE, smb.create("y"))
        assert (await other.final(number)).status == Status.IO_DEVICE_ERROR

    run(tmp_path, test)


# Credits


def test_credits_pay_for_large_requests_and_used_ids_end_the_connection(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file = await client.open("x")
        reply = await client.ask(Command.READ, smb.read(file, 0, 65537))
        assert reply.status == Status.INVALID_PARAMETER
        assert (await client.ask(Command.READ, smb.read(file, 0, 65537), charge=2)).status == Status.END_OF_FILE
        assert (await client.ask(Command.READ, smb.read(file, 0, (8 << 20) + 1), charge=129)).status == Status.INVALID_PARAMETER
        again = client.signed(client.header(Command.ECHO, client.next_id - 1) + b"\x04\0\0\0", client.next_id - 1)
        with pytest.raises(PeerError, match="not granted or is used"):
            client.deliver(again)

    run(tmp_path, test)


def test_8_mib_go_in_one_request(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        client.credits = 512
        await client.ask(Command.ECHO, b"\x04\0\0\0")
        file = await client.open("x")
        data = bytes(range(256)) * (32 << 10)
        reply = await client.ask(Command.WRITE, smb.write(file, 0, data), charge=128)
        assert (reply.status, struct.unpack_from("<I", reply.body, 4)) == (0, (8 << 20,))
        reply = await client.ask(Command.READ, smb.read(file, 0, 8 << 20), charge=128)
        assert reply.message[80:] == data

    run(tmp_path, test)


# Files


def test_compounds_pass_the_file_on(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        replies = await client.ask_all(
            [
                (Command.CREATE, smb.create("x"), 0),
                (Command.WRITE, smb.write(NOBODY, 0, b"data"), RELATED),
                (Command.READ, smb.read(NOBODY, 0, 4), RELATED),
                (Command.QUERY_INFO, smb.query_info(NOBODY, 1, 5), RELATED),
                (Command.CLOSE, smb.close(), RELATED),
            ]
        )
        assert [reply.status for reply in replies] == [0] * 5
        assert replies[2].body[16:20] == b"data"
        failing = await client.ask_all(
            [
                (Command.CREATE, smb.create("none", disposition=1), 0),
                (Command.QUERY_INFO, smb.query_info(NOBODY, 1, 18), RELATED),
                (Command.CLOSE, smb.close(), RELATED),
                (Command.CREATE, smb.create("x", disposition=1), 0),
            ]
        )
        assert [reply.status for reply in failing] == [Status.OBJECT_NAME_NOT_FOUND] * 3 + [0]
        orphans = await client.ask_all(
            [
                (Command.QUERY_INFO, smb.query_info(NOBODY, 1, 5), RELATED),
                (Command.CLOSE, smb.close(), RELATED),
                (Command.CREATE, smb.create("x", disposition=1), 0),
            ]
        )
        assert [reply.status for reply in orphans] == [Status.INVALID_PARAMETER] * 2 + [0]

    run(tmp_path, test)


def test_sharing_deletion_and_rename_as_windows_has_them(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        first = await client.open("a", share=1)
        reply = await client.ask(Command.CREATE, smb.create("A", access=2))
        assert reply.status == Status.SHARING_VIOLATION
        name = "b".encode("utf-16-le")
        rename = struct.pack("<B7xQI", 0, 0, len(name)) + name
        assert (await client.ask(Command.SET_INFO, smb.set_info(first, 1, 10, rename))).status == 0
        assert (await client.ask(Command.CREATE, smb.create("a", disposition=1))).status == Status.OBJECT_NAME_NOT_FOUND
        assert (await client.ask(Command.SET_INFO, smb.set_info(first, 1, 13, b"\x01"))).status == 0
        await client.ask(Command.CLOSE, smb.close(first))
        assert (await client.ask(Command.CREATE, smb.create("b", disposition=1))).status == Status.OBJECT_NAME_NOT_FOUND
        await client.open("d", options=DIRECTORY)
        assert (await client.ask(Command.CREATE, smb.create("d", options=NON_DIRECTORY))).status == Status.FILE_IS_A_DIRECTORY
        assert (await client.ask(Command.CREATE, smb.create("d\\", options=DIRECTORY))).status == 0
        assert (await client.ask(Command.CREATE, smb.create("none\\x"))).status == Status.OBJECT_PATH_NOT_FOUND

    run(tmp_path, test)


def test_a_hard_link_takes_no_name_that_is_there_in_another_case(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file = await client.open("one")
        await client.open("Two.txt")
        name = "TWO.TXT".encode("utf-16-le")
        link = struct.pack("<B7xQI", 0, 0, len(name)) + name
        assert (await client.ask(Command.SET_INFO, smb.set_info(file, 1, 11, link))).status == Status.OBJECT_NAME_COLLISION

    run(tmp_path, test)


def test_listings_come_in_pieces_and_match_patterns(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        for number in range(100):
            await client.ask_all([(Command.CREATE, smb.create(f"File{number:03}.txt"), 0), (Command.CLOSE, smb.close(), RELATED)])
        root = await client.open("", access=READ_ONLY_ACCESS, options=DIRECTORY)
        for kind, fixed in ((1, 64), (2, 68), (3, 94), (12, 12), (37, 104), (38, 80), (60, 88), (63, 114)):
            names: list[str] = []
            flags = 0x10
            while True:
                reply = await client.ask(Command.QUERY_DIRECTORY, smb.query_directory(root, "*", kind, flags, 2000))
                flags = 0
                if reply.status == Status.NO_MORE_FILES:
                    break
                assert reply.status == 0
                names += entries(reply, fixed, 8 if kind == 12 else 60)
            assert sorted(names) == [".", "..", *(f"File{number:03}.txt" for number in range(100))]
        reply = await client.ask(Command.QUERY_DIRECTORY, smb.query_directory(root, "file0?0.TXT", 1, 0x10))
        assert len(entries(reply, 64, 60)) == 10
        reply = await client.ask(Command.QUERY_DIRECTORY, smb.query_directory(root, "FILE007.txt", 1, 0x10))
        assert entries(reply, 64, 60) == ["File007.txt"]
        reply = await client.ask(Command.QUERY_DIRECTORY, smb.query_directory(root, "none*", 1, 0x10))
        assert reply.status == Status.NO_SUCH_FILE

    run(tmp_path, test)


def test_a_search_through_many_names_lets_others_have_their_turn(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        for number in range(2600):
            client.request(Command.CREATE, smb.create(f"{number}", options=0x1000))
            if number % 100 == 0:
                await asyncio.sleep(0)
                client.replies()
        root = await client.open("", access=READ_ONLY_ACCESS, options=DIRECTORY)
        search = client.request(Command.QUERY_DIRECTORY, smb.query_directory(root, "*.none", 37))
        client.request(Command.ECHO, b"\x04\0\0\0")
        first = client.replies()
        assert Command.QUERY_DIRECTORY not in [reply.command for reply in first], "it went through all names at once"
        assert (await client.final(search)).status == Status.NO_SUCH_FILE

    run(tmp_path, test)


def entries(reply: smb.Reply, fixed: int, length_at: int) -> list[str]:
    at, size = struct.unpack_from("<HI", reply.body, 2)
    data = reply.message[at : at + size]
    names = []
    while True:
        following, length = struct.unpack_from("<I", data)[0], struct.unpack_from("<I", data, length_at)[0]
        names.append(data[fixed : fixed + length].decode("utf-16-le"))
        if not following:
            return names
        data = data[following:]


def test_a_waiting_lock_is_told_pending_then_granted_or_cancelled(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        first, second = await client.open("x"), await client.open("x")
        assert (await client.ask(Command.LOCK, smb.lock(first, (0, 10, 2)))).status == 0
        reply = await client.ask(Command.LOCK, smb.lock(second, (5, 1, 0x12)))
        assert reply.status == Status.LOCK_NOT_GRANTED
        assert (await client.ask(Command.WRITE, smb.write(second, 3, b"x"))).status == Status.FILE_LOCK_CONFLICT
        waiting = client.request(Command.LOCK, smb.lock(second, (5, 1, 2)))
        (interim,) = client.replies()
        assert (interim.status, interim.flags & 2) == (Status.PENDING, 2)
        number = client.request(Command.LOCK, smb.lock(first, (0, 10, 4)))
        await asyncio.sleep(0.01)
        statuses = {reply.message_id: reply.status for reply in client.replies()}
        assert statuses == {waiting: 0, number: 0}
        again = client.request(Command.LOCK, smb.lock(first, (5, 1, 2)))
        client.replies()
        client.cancel(again)
        assert (await client.final(again)).status == Status.CANCELLED
        assert (await client.ask(Command.LOCK, smb.lock(second, (5, 1, 4)))).status == 0
        assert (await client.ask(Command.LOCK, smb.lock(second, (5, 1, 4)))).status == Status.RANGE_NOT_LOCKED

    run(tmp_path, test)


def test_information_is_cut_refused_or_whole(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file = await client.open("some name")
        for kind, number in ((1, n) for n in (4, 5, 6, 7, 8, 14, 16, 17, 18, 22, 28, 34, 35, 48, 59)):
            assert (await client.ask(Command.QUERY_INFO, smb.query_info(file, kind, number))).status == 0, number
        for number in (1, 3, 4, 5, 6, 7, 8, 11):
            assert (await client.ask(Command.QUERY_INFO, smb.query_info(file, 2, number))).status == 0, number
        reply = await client.ask(Command.QUERY_INFO, smb.query_info(file, 1, 18, room=106))
        assert reply.status == Status.BUFFER_OVERFLOW
        assert len(reply.body) == 8 + 106
        assert (await client.ask(Command.QUERY_INFO, smb.query_info(file, 1, 18, room=90))).status == Status.INFO_LENGTH_MISMATCH
        assert (await client.ask(Command.QUERY_INFO, smb.query_info(file, 1, 99))).status == Status.INVALID_INFO_CLASS
        small = await client.ask(Command.QUERY_INFO, smb.query_info(file, 3, 0, room=4, parts=7))
        assert small.status == Status.BUFFER_TOO_SMALL
        (needed,) = struct.unpack_from("<I", small.body, 8)
        whole = await client.ask(Command.QUERY_INFO, smb.query_info(file, 3, 0, room=needed, parts=7))
        assert whole.status == 0 and len(whole.body) == 8 + needed

    run(tmp_path, test)


def test_times_sizes_attributes_and_extended_attributes_are_set(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file = await client.open("x")
        when = 133_000_000_000_000_000
        basic = struct.pack("<qqqqI4x", when, when + 1, when + 2, 0, 0x22)
        assert (await client.ask(Command.SET_INFO, smb.set_info(file, 1, 4, basic))).status == 0
        assert (await client.ask(Command.SET_INFO, smb.set_info(file, 1, 20, struct.pack("<Q", 12345)))).status == 0
        assert (await client.ask(Command.SET_INFO, smb.set_info(file, 1, 4, basic))).status == 0
        reply = await client.ask(Command.QUERY_INFO, smb.query_info(file, 1, 34))
        created, accessed, modified, _, _, size, attributes = struct.unpack_from("<QQQQQQI", reply.body, 8)
        assert (created, accessed, modified, size, attributes) == (when, when + 1, when + 2, 12345, 0x22)
        pairs = struct.pack("<IBBH", 16, 0, 2, 3) + b"EA\0one" + bytes(2) + struct.pack("<IBBH", 0, 0, 1, 1) + b"B\0x"
        assert (await client.ask(Command.SET_INFO, smb.set_info(file, 1, 15, pairs))).status == 0
        reply = await client.ask(Command.QUERY_INFO, smb.query_info(file, 1, 15))
        assert reply.status == 0 and b"EA\0one" in reply.body and b"B\0x" in reply.body

    run(tmp_path, test)


def test_holes_clones_and_copies(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        source, target = await client.open("source"), await client.open("target")
        data = bytes(range(256)) * 256
        await client.ask(Command.WRITE, smb.write(source, 0, data))
        for file in (source, target):
            assert (await client.ask(Command.IOCTL, smb.ioctl(file, 0x000900C4))).status == 0
        await client.ask(Command.SET_INFO, smb.set_info(target, 1, 20, struct.pack("<Q", len(data))))
        clone = struct.pack("<QQQQQ", *source, 0, 0, len(data))
        assert (await client.ask(Command.IOCTL, smb.ioctl(target, 0x00098344, clone))).status == 0
        assert (await client.ask(Command.READ, smb.read(target, 0, 65536))).message[80:] == data
        zero = struct.pack("<QQ", 8192, 40960)
        assert (await client.ask(Command.IOCTL, smb.ioctl(target, 0x000980C8, zero))).status == 0
        reply = await client.ask(Command.IOCTL, smb.ioctl(target, 0x000940CF, struct.pack("<QQ", 0, 1 << 40)))
        at, length = struct.unpack_from("<II", reply.body, 32)
        assert struct.unpack_from("<QQQQ", reply.message, at) == (0, 8192, 40960, 24576) and length == 32
        key = await client.ask(Command.IOCTL, smb.ioctl(source, 0x00140078, b"", 32))
        chunk = key.message[112:136] + struct.pack("<IIQQII", 1, 0, 1000, 10, 5000, 0)
        reply = await client.ask(Command.IOCTL, smb.ioctl(target, 0x001480F2, chunk, 12))
        assert (reply.status, struct.unpack_from("<III", reply.message, 112)) == (0, (1, 0, 5000))
        assert (await client.ask(Command.READ, smb.read(target, 10, 5000))).message[80:] == data[1000:6000]
        limits = key.message[112:136] + struct.pack("<II", 1, 0) + struct.pack("<QQII", 0, 0, 2 << 20, 0)
        reply = await client.ask(Command.IOCTL, smb.ioctl(target, 0x001480F2, limits, 12))
        assert (reply.status, struct.unpack_from("<III", reply.message, 112)) == (Status.INVALID_PARAMETER, (256, 1 << 20, 16 << 20))

    run(tmp_path, test)


def test_a_read_only_share_can_be_read_and_nothing_else(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        writer = await started(service)
        file = await writer.open("x")
        await writer.ask(Command.WRITE, smb.write(file, 0, b"data"))
        await writer.ask(Command.CLOSE, smb.close(file))
        client = await started(service, share="fixed")
        readable = await client.open("x", access=READ_ONLY_ACCESS, disposition=1)
        assert (await client.ask(Command.READ, smb.read(readable, 0, 4))).message[80:] == b"data"
        for request in (smb.create("new"), smb.create("x", access=2), smb.create("x", access=1, disposition=5)):
            assert (await client.ask(Command.CREATE, request)).status == Status.ACCESS_DENIED
        everything = await client.open("x", access=0x2000000, disposition=1)
        assert (await client.ask(Command.WRITE, smb.write(everything, 0, b"no"))).status == Status.MEDIA_WRITE_PROTECTED
        reply = await client.ask(Command.IOCTL, smb.ioctl(everything, 0x000980C8, struct.pack("<QQ", 0, 2)))
        assert reply.status == Status.MEDIA_WRITE_PROTECTED

    run(tmp_path, test)


def test_streams_are_files_of_their_own(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file = await client.open("x")
        stream = await client.open("x:Zone.Identifier")
        await client.ask(Command.WRITE, smb.write(stream, 0, b"in the stream"))
        assert (await client.ask(Command.READ, smb.read(file, 0, 10))).status == Status.END_OF_FILE
        reply = await client.ask(Command.QUERY_INFO, smb.query_info(file, 1, 22))
        assert ":Zone.Identifier:$DATA".encode("utf-16-le") in reply.body
        internal = [await client.ask(Command.QUERY_INFO, smb.query_info(each, 1, 6)) for each in (file, stream)]
        assert internal[0].body == internal[1].body

    run(tmp_path, test)


def test_a_lost_connection_closes_its_opens(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        await client.open("x", share=0)
        waiting = await started(service)
        assert (await waiting.ask(Command.CREATE, smb.create("x"))).status == Status.SHARING_VIOLATION
        client.core.closed("gone")
        assert (await waiting.ask(Command.CREATE, smb.create("x"))).status == 0
        assert len(service.sessions) == 1

    run(tmp_path, test)


def test_shares_change_under_their_clients(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file = await client.open("x")
        data = next(share for share in SHARES if share.name == "data")
        service.shares.replace([msgspec.structs.replace(data, read_only=True)])
        service.refresh()
        assert (await client.ask(Command.WRITE, smb.write(file, 0, b"x"))).status == Status.MEDIA_WRITE_PROTECTED
        assert (await client.ask(Command.QUERY_INFO, smb.query_info(file, 1, 5))).status == 0
        service.shares.replace([])
        service.refresh()
        assert (await client.ask(Command.QUERY_INFO, smb.query_info(file, 1, 5))).status == Status.NETWORK_NAME_DELETED
        assert list(service.handles()) == []

    run(tmp_path, test)


def test_a_symbolic_link_on_the_way_is_told_to_the_client(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        volume = service.shares.volume(SHARES[0])
        made = volume.call(Make(Caller(0, 0), ROOT, b"link", Kind.SYMLINK, Changes(mode=0o777), target=b"some/where"), None, Binding(1, 1))
        assert isinstance(made, Found)
        reply = await client.ask(Command.CREATE, smb.create("link\\rest", disposition=1))
        assert reply.status == Status.STOPPED_ON_SYMLINK
        assert reply.body[2] == 1, "an error context"
        length, _, size, magic, tag, _, unparsed, at, count, _, _, flags = struct.unpack_from("<IIIIIHHHHHHI", reply.body, 8)
        assert (magic, tag, unparsed, flags) == (0x4C4D5953, 0xA000000C, 2 * len("\\rest"), 1)
        assert (length, size) == (len(reply.body) - 16, length - 4)
        assert reply.body[44 + at : 44 + at + count] == "some\\where".encode("utf-16-le")
        opened = await client.ask(Command.CREATE, smb.create("link", access=0x80, disposition=1, options=0x200000))
        assert opened.status == 0
        reply = await client.ask(Command.IOCTL, smb.ioctl(smb.file_id(opened), 0x000900A8))
        assert reply.status == 0 and "some\\where".encode("utf-16-le") in reply.body

    run(tmp_path, test)


def test_a_continuously_available_share_tells_changes_when_they_are_stable(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service, share="safe")
        number = client.request(Command.CREATE, smb.create("x"))
        assert client.replies() == [], "the name is not on the disk yet"
        file = smb.file_id(await client.final(number))
        number = client.request(Command.WRITE, smb.write(file, 0, b"x"))
        assert client.replies() == []
        assert (await client.final(number)).status == 0
        client.request(Command.READ, smb.read(file, 0, 1))
        assert len(client.replies()) == 1, "what is committed may be read"

    run(tmp_path, test)


# What no client should send


def samples(file: smb.FileId) -> dict[Command, bytes]:
    """One right request of each kind."""
    name = "n".encode("utf-16-le")
    return {
        Command.LOGOFF: b"\x04\0\0\0",
        Command.TREE_CONNECT: smb.tree_connect("data"),
        Command.TREE_DISCONNECT: b"\x04\0\0\0",
        Command.CREATE: smb.create("some\\name", extras=struct.pack("<IHHHHI", 0, 16, 4, 0, 24, 8) + b"AlSi" + bytes(12)),
        Command.CLOSE: smb.close(file),
        Command.FLUSH: smb.flush(file),
        Command.READ: smb.read(file, 0, 10),
        Command.WRITE: smb.write(file, 0, b"0123456789"),
        Command.LOCK: smb.lock(file, (0, 1, 2)),
        Command.IOCTL: smb.ioctl(file, 0x000940CF, struct.pack("<QQ", 0, 100)),
        Command.ECHO: b"\x04\0\0\0",
        Command.QUERY_DIRECTORY: smb.query_directory(file, "*.txt"),
        Command.QUERY_INFO: smb.query_info(file, 1, 15, data=struct.pack("<IB2sx", 0, 2, b"EA")),
        Command.SET_INFO: smb.set_info(file, 1, 10, struct.pack("<B7xQI", 0, 0, len(name)) + name),
        Command.CHANGE_NOTIFY: smb.change_notify(file),
        Command.OPLOCK_BREAK: struct.pack("<HBBIQQ", 24, 0, 0, 0, *file),
    }


def test_every_request_cut_short_anywhere_is_refused_or_ends_the_connection(tmp_path: Path) -> None:
    """A prefix must never be taken for the whole: either an error status, or the one decode error."""

    async def test(service: SmbService) -> None:
        whole = samples((1, 1))
        for command, body in whole.items():
            # What every request needs beyond its fixed part: lengths name bytes that are then missing.
            needed = {Command.TREE_CONNECT: 8, Command.READ: 48, Command.QUERY_INFO: len(body)}.get(command, len(body))
            for length in range(len(body)):
                client = await started(service)
                file = await client.open("victim")
                cut = samples(file)[command][:length]
                try:
                    number = client.request(command, cut)
                except PeerError:
                    continue
                finally:
                    client.core.closed("done")
                statuses = [reply.status for reply in client.replies() if reply.message_id == number]
                assert (statuses and all(statuses)) or length >= needed, (command.name, length)

    run(tmp_path, test)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xfeSMB",
        b"\xfcSMB" + bytes(60),
        b"\xfdSMB" + bytes(110),
        b"\xffSMB\x72" + bytes(10),
        b"\xffSMB\x25" + bytes(60),
        b"\xfeSMB\x41" + bytes(59),
        b"GET / HTTP/1.0\r\n\r\n" + bytes(60),
    ],
)
def test_strange_messages_end_the_connection(tmp_path: Path, message: bytes) -> None:
    async def test(service: SmbService) -> None:
        client = Client(service)
        with pytest.raises(PeerError):
            client.deliver(message)

    run(tmp_path, test)


def test_what_a_client_can_make_the_server_hold_is_bounded(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = Client(service)
        with pytest.raises(PeerError):
            client.core.size((1 << 20) + 1)  # before a logon
        await client.start()
        with pytest.raises(PeerError):
            client.core.size(9 << 20)
        client.credits = 65535
        for _ in range(10):
            await client.ask(Command.ECHO, b"\x04\0\0\0")
        assert client.core.window._high - client.core.window._low <= 8192
        with pytest.raises(PeerError):
            client.compound([(Command.ECHO, b"\x04\0\0\0", 0)] * 40)

    run(tmp_path, test)
