"""Opens that outlive their connection, and requests that are sent twice: the SMB gateway over a real volume, driven message by message."""

from __future__ import annotations

import asyncio
import struct
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateways.smb import contexts
from gateways.smb.commands import reopen
from gateways.smb.crypto import Dialect
from gateways.smb.exchange import Exchange
from gateways.smb.handle import Handle
from gateways.smb.header import FLAG_REPLAY, Command
from gateways.smb.leases import LEVEL_BATCH, LEVEL_II, LEVEL_LEASE, LEVEL_NONE
from gateways.smb.service import SmbService
from gateways.smb.status import Status
from sofs.locks import HANDLE, READ, WRITE
from sofs.types import OpenId
from sofs.volume.api import Binding, Bound, Close, Opened, Reconnect, Reply, Volume
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client, FileId
from tests.protocol.smb_scenes import created, run, started
from tests.served_smb import smb_on

RH, RWH = READ | HANDLE, READ | WRITE | HANDLE
GUID, OTHER, KEY = b"create".ljust(16, b"\0"), b"other".ljust(16, b"\0"), b"key".ljust(16, b"\0")
NOT_FOUND = Status.OBJECT_NAME_NOT_FOUND

made = partial(created, level=LEVEL_BATCH)


def cut(client: Client) -> None:
    client.core.closed("the test cut it")


# Coming back


def test_a_durable_open_of_version_1_is_come_back_to(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service, dialect=Dialect.SMB_2_1)
        file, told = await made(client, "x", (b"DHnQ", bytes(16)))
        assert (told.level, told.contexts) == (LEVEL_BATCH, {b"DHnQ": bytes(8)})
        assert (await client.ask(Command.LOCK, smb.lock(file, (0, 10, 0x12)))).status == 0
        back = (b"DHnC", struct.pack("<QQ", *file))
        other = await started(service, dialect=Dialect.SMB_2_1)
        await made(other, "x", back, status=NOT_FOUND)  # it is not away
        cut(client)
        stranger = await started(service, dialect=Dialect.SMB_2_1, user="bob", password="hidden")
        reply = await stranger.ask(Command.CREATE, smb.create("x", extras=contexts.encode([back])))
        assert reply.status == Status.ACCESS_DENIED
        again, told = await made(other, "x", back)
        assert (told.level, told.contexts) == (LEVEL_BATCH, {})
        assert again == file
        assert (await other.ask(Command.WRITE, smb.write(again, 0, b"under my own lock"))).status == 0
        await made(other, "x", back, status=NOT_FOUND)

    run(tmp_path, test)


def test_a_durable_open_of_version_2_knows_its_client_and_create_guid(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file, told = await made(client, "x", smb.lease(KEY, RWH), smb.durable(GUID, 10_000), level=LEVEL_LEASE)
        assert told.lease == RWH and told.contexts[b"DH2Q"] == struct.pack("<II", 10_000, 0)
        cut(client)
        other = await started(service, b"2" * 16)
        await made(other, "x", smb.comes_back(file, GUID), smb.lease(KEY, RWH), level=LEVEL_LEASE, status=NOT_FOUND)
        client = await started(service)
        await made(client, "x", smb.comes_back(file, OTHER), smb.lease(KEY, RWH), level=LEVEL_LEASE, status=NOT_FOUND)
        await made(client, "x", smb.comes_back(file, GUID), smb.lease(OTHER, RWH), level=LEVEL_LEASE, status=NOT_FOUND)
        await made(client, "x", smb.comes_back(file, GUID), status=NOT_FOUND)
        await made(client, "y", smb.comes_back(file, GUID), smb.lease(KEY, RWH), level=LEVEL_LEASE, status=Status.INVALID_PARAMETER)
        again, told = await made(client, "x", smb.comes_back(file, GUID), smb.lease(KEY, 0), level=LEVEL_LEASE)
        assert (told.lease, sorted(told.contexts)) == (RWH, [b"RqLs"])
        assert (await client.ask(Command.CLOSE, smb.close(again))).status == 0
        await made(client, "x", smb.comes_back(file, GUID), smb.lease(KEY, RWH), level=LEVEL_LEASE, status=NOT_FOUND)

    run(tmp_path, test)


@pytest.mark.parametrize(("level", "lasts"), [(LEVEL_NONE, False), (LEVEL_II, False), (8, False), (LEVEL_BATCH, True)])
def test_only_who_caches_the_handle_gets_a_durable_open(tmp_path: Path, level: int, lasts: bool) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file, told = await made(client, "x", smb.durable(GUID), level=level)
        assert (b"DH2Q" in told.contexts) is lasts
        cut(client)
        client = await started(service)
        await made(client, "x", smb.comes_back(file, GUID), status=0 if lasts else NOT_FOUND)

    run(tmp_path, test)


def test_an_open_without_a_lease_knows_its_user_only_and_version_1_comes_back_to_either(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file, _ = await made(client, "x", smb.durable(GUID))
        cut(client)
        other = await started(service, b"2" * 16)
        again, _ = await made(other, "", smb.comes_back(file, GUID))
        cut(other)
        third = await started(service, b"3" * 16)
        await made(third, "x", smb.comes_back(again, bytes(16)), status=NOT_FOUND)
        await made(third, "x", (b"DHnC", struct.pack("<QQ", *again)))

    run(tmp_path, test)


def test_a_durable_open_gives_way_and_a_persistent_one_does_not(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        for share, lasts in (("data", False), ("safe", True)):
            client = await started(service, share=share)
            file, told = await made(client, f"{share}-x", smb.durable(GUID, 10_000, True), share=0)
            assert told.contexts[b"DH2Q"] == struct.pack("<II", 10_000, 2 if lasts else 0), "persistent only where it is continuously available"
            cut(client)
            other = await started(service, b"2" * 16, share)
            reply = await other.ask(Command.CREATE, smb.create(f"{share}-x", disposition=1))
            assert reply.status == (Status.FILE_NOT_AVAILABLE if lasts else 0)
            client = await started(service, share=share)
            if lasts:
                await made(client, f"{share}-x", smb.comes_back(file, GUID), status=NOT_FOUND)
            await made(client, f"{share}-x", smb.comes_back(file, GUID, lasts), status=0 if lasts else NOT_FOUND)

    run(tmp_path, test)


def test_a_log_off_and_a_new_session_in_its_place_keep_durable_opens_and_a_tree_disconnect_does_not(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        for how in ("logoff", "previous", "tree"):
            client = await started(service)
            guid = how.encode().ljust(16, b"\0")
            file, _ = await made(client, how, smb.durable(guid))
            new = client
            if how == "logoff":
                assert (await client.ask(Command.LOGOFF, b"\x04\0\0\0")).status == 0
                cut(client)
                new = await started(service)
            elif how == "previous":
                new = Client(service)
                await new.negotiate()
                assert (await new.logon(previous=client.session_id)).status == 0
                assert (await new.connect("data")).status == 0
                assert client.session_id not in service.sessions
            else:
                assert (await client.ask(Command.TREE_DISCONNECT, b"\x04\0\0\0")).status == 0
                assert (await client.connect("data")).status == 0
            await made(new, how, smb.comes_back(file, guid), status=NOT_FOUND if how == "tree" else 0)
            cut(new)

    run(tmp_path, test)


def test_opens_outlive_the_gateway(tmp_path: Path) -> None:
    async def first(service: SmbService) -> tuple[FileId, FileId]:
        client = await started(service)
        leased, _ = await made(client, "leased", smb.lease(KEY, RWH), smb.durable(GUID, 60_000), level=LEVEL_LEASE)
        assert (await client.ask(Command.LOCK, smb.lock(leased, (5, 5, 0x12)))).status == 0
        safe = await started(service, share="safe")
        kept, _ = await made(safe, "kept", smb.durable(OTHER, 60_000, True), level=LEVEL_NONE, share=0)
        return leased, kept

    async def second(service: SmbService, leased: FileId, kept: FileId) -> None:
        other = await started(service, b"2" * 16, "safe")
        assert (await other.ask(Command.CREATE, smb.create("kept"))).status == Status.FILE_NOT_AVAILABLE
        client = await started(service)
        file, told = await made(client, "leased", smb.comes_back(leased, GUID), smb.lease(KEY, RWH), level=LEVEL_LEASE)
        assert told.lease == RWH
        assert (await client.ask(Command.WRITE, smb.write(file, 0, bytes(20)))).status == 0
        reader = await started(service, b"2" * 16)
        waiting = reader.request(Command.CREATE, smb.create("leased"))
        await client.broken()
        assert (await client.ask(Command.OPLOCK_BREAK, smb.lease_break(KEY, RH))).status == 0
        seen = smb.file_id(await reader.final(waiting))
        assert (await reader.ask(Command.READ, smb.read(seen, 5, 5))).status == Status.FILE_LOCK_CONFLICT
        safe = await started(service, share="safe")
        file, _ = await made(safe, "kept", smb.comes_back(kept, OTHER, True), level=LEVEL_NONE)
        cut(safe)  # and once more, though this gateway has not made it
        safe = await started(service, share="safe")
        await made(safe, "kept", smb.comes_back(file, OTHER, True), level=LEVEL_NONE)

    async def main() -> None:
        async with smb_on(tmp_path / "v") as served:
            leased, kept = await first(served.gateway.service)
        async with smb_on(tmp_path / "v", incarnation=2) as served:
            await second(served.gateway.service, leased, kept)

    asyncio.run(main())


# Sent twice


def test_a_repeated_create_is_answered_as_the_first_one_was(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        asked = (smb.lease(KEY, RWH), smb.durable(GUID), (b"MxAc", b""))
        file, told = await made(client, "x", *asked, level=LEVEL_LEASE)
        again, repeated = await made(client, "x", *asked, level=LEVEL_LEASE, flags=FLAG_REPLAY)
        assert (again, repeated) == (file, told)
        await made(client, "x", *asked, level=LEVEL_LEASE, status=Status.DUPLICATE_OBJECTID)
        await made(client, "x", smb.lease(OTHER, RWH), smb.durable(GUID), level=LEVEL_LEASE, flags=FLAG_REPLAY, status=Status.ACCESS_DENIED)
        other = await started(service, b"2" * 16)
        elsewhere, _ = await made(other, "y", smb.durable(GUID), flags=FLAG_REPLAY)
        assert elsewhere != file, "another client's CreateGuid is another one"
        assert (await client.ask(Command.READ, smb.read(file, 0, 1))).status == Status.END_OF_FILE
        third, _ = await made(client, "x", *asked, level=LEVEL_LEASE, flags=FLAG_REPLAY)
        assert third != file, "who uses an open has seen the reply: this is another one"
        assert (await client.ask(Command.CLOSE, smb.close(file))).status == 0
        await made(client, "x", *asked, level=LEVEL_LEASE, status=Status.DUPLICATE_OBJECTID)
        assert (await client.ask(Command.CLOSE, smb.close(third))).status == 0
        await made(client, "x", *asked, level=LEVEL_LEASE)

    run(tmp_path, test)


def test_a_new_create_does_not_get_the_open_of_an_old_one_that_waits_for_its_client(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file, _ = await made(client, "x", smb.durable(GUID))
        assert (await client.ask(Command.READ, smb.read(file, 0, 1))).status == Status.END_OF_FILE
        cut(client)
        client = await started(service)
        await made(client, "x", smb.durable(GUID), status=Status.DUPLICATE_OBJECTID)
        again, _ = await made(client, "x", smb.durable(GUID), flags=FLAG_REPLAY)
        assert again == file, "it comes back by repeating its CREATE"
        assert (await client.ask(Command.CLOSE, smb.close(again))).status == 0

    async def after_a_restart(service: SmbService) -> FileId:
        client = await started(service, share="safe")
        file, _ = await made(client, "y", smb.durable(OTHER, 60_000, True))
        return file

    async def then(service: SmbService, file: FileId) -> None:
        client = await started(service, share="safe")
        await made(client, "y", smb.durable(OTHER, 60_000, True), status=Status.FILE_NOT_AVAILABLE, level=LEVEL_NONE)
        again, _ = await made(client, "y", smb.durable(OTHER, 60_000, True), flags=FLAG_REPLAY)
        assert again[0] == file[0]
        cut(client)

    async def main() -> None:
        async with smb_on(tmp_path / "v") as served:
            await test(served.gateway.service)
            file = await after_a_restart(served.gateway.service)
        async with smb_on(tmp_path / "v", incarnation=2) as served:
            await then(served.gateway.service, file)

    asyncio.run(main())


def test_a_repeated_create_comes_back_to_the_open_of_a_session_that_has_ended_with_its_lease(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service, share="safe")
        asked = (smb.lease(KEY, RWH), smb.durable(GUID, 60_000, True))
        file, _ = await made(client, "x", *asked, level=LEVEL_LEASE)
        cut(client)
        client = await started(service, share="safe")
        wrong = smb.lease(OTHER, RWH), smb.durable(GUID, 60_000, True)
        again, repeated = await made(client, "x", *asked, level=LEVEL_LEASE, flags=FLAG_REPLAY)
        assert again == file and repeated.lease == RWH
        await made(client, "x", *wrong, level=LEVEL_LEASE, flags=FLAG_REPLAY, status=Status.ACCESS_DENIED)

    run(tmp_path, test)


async def unanswered(service: SmbService, disposition: int) -> tuple[bytes, Handle]:
    """A CREATE that the volume has carried out and the gateway has given up with its connection, and what it had made."""
    client = await started(service, share="safe")
    body = smb.create("x", disposition=disposition, extras=contexts.encode([smb.durable(GUID, 60_000, True)]))
    file = smb.file_id(await client.ask(Command.CREATE, body))
    handle = service.sessions[client.session_id].handles.pop(file[1])
    service.durables.ended(handle)
    cut(client)
    return body, handle


def test_a_repeated_create_whose_answer_was_lost_with_its_coordinator_gets_the_open_of_the_session_before(tmp_path: Path) -> None:
    """The volume has it from the log of the coordinator that was lost, connected, and the gateway has given the first one up with its connection."""

    async def test(service: SmbService) -> None:
        body, handle = await unanswered(service, disposition=2)
        client = await started(service, share="safe")
        reply = await client.ask(Command.CREATE, body, FLAG_REPLAY)
        assert reply.status == 0, hex(reply.status)
        assert smb.file_id(reply)[0] == handle.persistent
        assert (await client.ask(Command.WRITE, smb.write(smb.file_id(reply), 0, b"mine"))).status == 0

    run(tmp_path, test)


def test_a_write_to_an_open_that_its_client_has_not_come_back_to_is_refused_and_logged(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service, share="safe")
        body = smb.create("x", disposition=3, extras=contexts.encode([smb.durable(GUID, 60_000, True)]))
        file = smb.file_id(await client.ask(Command.CREATE, body))
        cut(client)
        client = await started(service, share="safe")
        with capture_logs() as logs:
            reply = await client.ask(Command.WRITE, smb.write(file, 0, b"too early"))
        assert reply.status == Status.FILE_CLOSED
        (line,) = [line for line in logs if line["event"] == "open_unknown"]
        assert (line["command"], line["open"]) == ("WRITE", file[0])

    run(tmp_path, test)


def test_a_repeated_create_whose_open_ends_while_it_is_taken_over_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway ends what its lost session had made, and its client repeats the CREATE, at the same time."""
    real = reopen._ask
    ended: list[OpenId] = []

    async def too_late(exchange: Exchange, request: Reconnect, volume: Volume) -> Opened | Bound:
        if not ended:
            ended.append(request.open)
            reply = volume.call(Close(request.open), None, before)
            if not isinstance(reply, Reply):
                await reply
        return await real(exchange, request, volume)

    before = Binding(0, 0)

    async def test(service: SmbService) -> None:
        nonlocal before
        body, handle = await unanswered(service, disposition=3)
        before = handle.session.binding
        monkeypatch.setattr(reopen, "_ask", too_late)
        client = await started(service, share="safe")
        reply = await client.ask(Command.CREATE, body, FLAG_REPLAY)
        assert ended == [handle.id] and reply.status == 0, hex(reply.status)
        assert (await client.ask(Command.WRITE, smb.write(smb.file_id(reply), 0, b"mine"))).status == 0

    run(tmp_path, test)


@pytest.mark.parametrize("leased", [True, False])
def test_a_repeated_create_whose_open_was_lost_with_its_coordinator_is_carried_out(tmp_path: Path, leased: bool) -> None:
    """The volume had carried the first one out, and the gateway knows the open; but the coordinator was lost before anything of it was anywhere else."""

    async def test(service: SmbService) -> None:
        client = await started(service, share="safe")
        extras = [smb.lease(KEY, RWH)] if leased else []
        level = LEVEL_LEASE if leased else LEVEL_BATCH
        asked = (*extras, smb.durable(GUID, 60_000, True))
        file, told = await made(client, "x", *asked, level=level)
        (handle,) = service.sessions[client.session_id].handles.values()
        cut(client)
        await asyncio.sleep(0.05)
        closed = handle.volume.call(Close(handle.id), None, handle.session.binding)
        assert isinstance(closed, Reply)
        client = await started(service, share="safe")
        again, repeated = await made(client, "x", *asked, level=level, flags=FLAG_REPLAY)
        assert again != file and repeated.contexts.keys() == told.contexts.keys()
        assert (await client.ask(Command.WRITE, smb.write(again, 0, b"mine"))).status == 0
        cut(client)
        client = await started(service, share="safe")
        back, _ = await made(client, "x", smb.comes_back(again, GUID, True), *extras, level=level)
        assert (await client.ask(Command.READ, smb.read(back, 0, 10))).status == 0

    run(tmp_path, test)


def test_a_create_is_not_carried_out_twice_while_it_waits(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        holder = await started(service, b"2" * 16)
        held, _ = await made(holder, "x", smb.lease(KEY, RWH), level=LEVEL_LEASE)
        first = await started(service)
        second = Client(service)
        await second.negotiate()
        assert (await second.bind(first)).status == 0
        body = smb.create("x", extras=contexts.encode([smb.durable(GUID)]))
        waiting = first.request(Command.CREATE, body)
        await first.told(waiting)
        assert (await second.ask(Command.CREATE, body, FLAG_REPLAY)).status == Status.FILE_NOT_AVAILABLE
        cut(first)
        assert (await second.ask(Command.CREATE, body, FLAG_REPLAY)).status == Status.FILE_NOT_AVAILABLE
        assert (await holder.ask(Command.CLOSE, smb.close(held))).status == 0
        async with asyncio.timeout(20):
            while (reply := await second.ask(Command.CREATE, body, FLAG_REPLAY)).status == Status.FILE_NOT_AVAILABLE:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert reply.status == 0
        assert (await second.ask(Command.READ, smb.read(smb.file_id(reply), 0, 1))).status == Status.END_OF_FILE
        assert len(service.sessions[first.session_id].handles) == 1

    run(tmp_path, test)


def test_a_repeated_lock_request_is_carried_out_once(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        file, _ = await made(client, "x", smb.durable(GUID))

        def numbered(index: int, number: int, *elements: tuple[int, int, int]) -> bytes:
            body = bytearray(smb.lock(file, *elements))
            struct.pack_into("<I", body, 4, index << 4 | number)
            return bytes(body)

        take, free, more = (0, 10, 0x12), (0, 10, 4), (20, 10, 0x12)
        assert (await client.ask(Command.LOCK, numbered(1, 1, take))).status == 0
        assert (await client.ask(Command.LOCK, numbered(1, 1, take))).status == 0, "the same one again"
        assert (await client.ask(Command.LOCK, numbered(1, 2, take))).status == Status.LOCK_NOT_GRANTED, "another one"
        assert (await client.ask(Command.LOCK, numbered(4, 1, more, take))).status == Status.LOCK_NOT_GRANTED
        assert (await client.ask(Command.LOCK, numbered(2, 1, free))).status == 0
        assert (await client.ask(Command.LOCK, numbered(2, 1, free))).status == 0
        assert (await client.ask(Command.LOCK, numbered(3, 1, free))).status == Status.RANGE_NOT_LOCKED
        assert (await client.ask(Command.LOCK, numbered(4, 1, more, take))).status == 0, "what failed was not carried out, in no part"
        assert (await client.ask(Command.LOCK, numbered(4, 2, (20, 10, 4), free))).status == 0
        assert (await client.ask(Command.LOCK, numbered(65, 1, free))).status == Status.RANGE_NOT_LOCKED

    run(tmp_path, test)


# What is malformed


@pytest.mark.parametrize(
    "extras",
    [
        [(b"DHnQ", bytes(15))],
        [(b"DH2Q", bytes(31))],
        [(b"DHnC", bytes(8))],
        [(b"DH2C", bytes(35))],
        [(b"DHnQ", bytes(16)), (b"DH2Q", bytes(32))],
        [(b"DHnC", bytes(16)), (b"DH2Q", bytes(32))],
        [(b"DHnC", bytes(16)), (b"DH2C", bytes(36))],
        [(b"DHnQ", bytes(16)), (b"DH2C", bytes(36))],
    ],
)
def test_contexts_that_are_malformed_or_do_not_go_together_are_refused(tmp_path: Path, extras: list[tuple[bytes, bytes]]) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        await made(client, "x", *extras, status=Status.INVALID_PARAMETER)
        await made(client, "x")

    run(tmp_path, test)
