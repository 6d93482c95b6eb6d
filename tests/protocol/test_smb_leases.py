"""Leases and oplocks, their breaks and acknowledgements: the SMB gateway over a real volume, driven message by message."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from gateways.smb import contexts
from gateways.smb.crypto import Dialect
from gateways.smb.header import Command
from gateways.smb.leases import LEVEL_BATCH, LEVEL_EXCLUSIVE, LEVEL_II, LEVEL_LEASE, LEVEL_NONE
from gateways.smb.service import SmbService
from gateways.smb.status import Status
from sofs.locks import HANDLE, READ, WRITE
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client, FileId
from tests.protocol.smb_scenes import run, started

RH, RW, RWH = READ | HANDLE, READ | WRITE, READ | WRITE | HANDLE
DIRECTORY = 1
READING, DELETING = 0x120089, 0x110000
ONE, TWO = b"one".ljust(16, b"\0"), b"two".ljust(16, b"\0")


async def leased(client: Client, name: str, key: bytes, state: int, version: int = 2, **options: int) -> tuple[FileId, smb.Granted]:
    extras = contexts.encode([smb.lease(key, state, version)])
    reply = await client.ask(Command.CREATE, smb.create(name, extras=extras, level=LEVEL_LEASE, **options))
    assert reply.status == 0, hex(reply.status)
    return smb.file_id(reply), smb.granted(reply)


async def oplocked(client: Client, name: str, level: int, **options: int) -> tuple[FileId, int]:
    reply = await client.ask(Command.CREATE, smb.create(name, level=level, **options))  # type: ignore[arg-type]
    assert reply.status == 0, hex(reply.status)
    return smb.file_id(reply), smb.granted(reply).level


def oplock_told(body: bytes) -> tuple[int, FileId]:
    size, level, _, _, persistent, volatile = struct.unpack("<HBBIQQ", body)
    assert size == 24
    return level, (persistent, volatile)


def lease_told(body: bytes) -> tuple[int, int, bytes, int, int]:
    """Epoch, flags, key, state, new state."""
    size, epoch, flags, key, state, new, _, _, _ = struct.unpack("<HHI16sIIIII", body)
    assert size == 44
    return epoch, flags, key, state, new


# Oplocks


@pytest.mark.parametrize("dialect", [Dialect.SMB_2_0_2, Dialect.SMB_3_1_1])
def test_a_batch_oplock_is_broken_to_level_ii_when_another_opens_the_file(tmp_path: Path, dialect: Dialect) -> None:
    async def test(service: SmbService) -> None:
        first, second = await started(service, dialect=dialect), await started(service, b"2" * 16, dialect=dialect)
        file, level = await oplocked(first, "x", LEVEL_BATCH)
        assert level == LEVEL_BATCH
        waiting = second.request(Command.CREATE, smb.create("x", level=LEVEL_BATCH))
        await second.told(waiting)
        (body,) = await first.broken()
        assert oplock_told(body) == (LEVEL_II, file)
        assert (await first.ask(Command.OPLOCK_BREAK, smb.oplock_break(file, LEVEL_BATCH))).status == Status.INVALID_PARAMETER
        reply = await first.ask(Command.OPLOCK_BREAK, smb.oplock_break(file, LEVEL_II))
        assert reply.status == 0 and oplock_told(reply.body) == (LEVEL_II, file)
        opened = await second.final(waiting)
        assert opened.status == 0 and smb.granted(opened).level == LEVEL_II
        # A write breaks what others have cached, and does not wait.
        assert (await second.ask(Command.WRITE, smb.write(smb.file_id(opened), 0, b"x"))).status == 0
        (body,) = await first.broken()
        assert oplock_told(body) == (LEVEL_NONE, file)
        reply = await first.ask(Command.OPLOCK_BREAK, smb.oplock_break(file, LEVEL_NONE))
        assert reply.status == Status.INVALID_OPLOCK_PROTOCOL or reply.status == Status.INVALID_DEVICE_STATE

    run(tmp_path, test)


def test_an_oplock_goes_with_the_close_of_its_open_and_the_other_waits_no_longer(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        first, second = await started(service), await started(service, b"2" * 16)
        file, level = await oplocked(first, "x", LEVEL_EXCLUSIVE)
        assert level == LEVEL_EXCLUSIVE
        waiting = second.request(Command.CREATE, smb.create("x"))
        await second.told(waiting)
        assert (await first.ask(Command.CLOSE, smb.close(file))).status == 0
        assert (await second.final(waiting)).status == 0

    run(tmp_path, test)


def test_a_create_that_waits_for_a_break_can_be_cancelled_and_ends_with_its_connection(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        first, second, third = await started(service), await started(service, b"2" * 16), await started(service, b"3" * 16)
        await oplocked(first, "x", LEVEL_BATCH)
        waiting = second.request(Command.CREATE, smb.create("x"))
        gone = third.request(Command.CREATE, smb.create("x"))
        await second.told(waiting)
        await third.told(gone)
        second.cancel(waiting)
        assert (await second.final(waiting)).status == Status.CANCELLED
        third.core.closed("the test cut it")
        first.core.closed("the test cut it")
        await second.open("x", access=DELETING | 0x80, share=0)

    run(tmp_path, test)


# Leases


def test_a_lease_is_shared_by_its_clients_opens_and_broken_for_others(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        first, second = await started(service), await started(service, b"2" * 16)
        _, told = await leased(first, "x", ONE, RWH)
        assert (told.level, told.lease) == (LEVEL_LEASE, RWH)
        _, told = await leased(first, "x", ONE, READ)
        assert told.lease == RWH, "never less than it has"
        assert not first.breaks
        waiting = second.request(Command.CREATE, smb.create("x"))
        await second.told(waiting)
        (body,) = await first.broken()
        epoch, flags, key, state, new = lease_told(body)
        assert (flags, key, state, new) == (1, ONE, RWH, RH)
        assert epoch > struct.unpack_from("<H", told.contexts[b"RqLs"], 48)[0]
        reply = await first.ask(Command.OPLOCK_BREAK, smb.lease_break(TWO, RH))
        assert reply.status == Status.OBJECT_NAME_NOT_FOUND
        reply = await first.ask(Command.OPLOCK_BREAK, smb.lease_break(ONE, RWH))
        assert reply.status == Status.REQUEST_NOT_ACCEPTED
        reply = await first.ask(Command.OPLOCK_BREAK, smb.lease_break(ONE, RH))
        assert reply.status == 0 and struct.unpack("<HHI16sIQ", reply.body) == (36, 0, 0, ONE, RH, 0)
        reply = await first.ask(Command.OPLOCK_BREAK, smb.lease_break(ONE, RH))
        assert reply.status == Status.UNSUCCESSFUL
        assert (await second.final(waiting)).status == 0

    run(tmp_path, test)


def test_a_lease_key_belongs_to_one_file(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        await leased(client, "x", ONE, RWH)
        extras = contexts.encode([smb.lease(ONE, RWH)])
        reply = await client.ask(Command.CREATE, smb.create("y", extras=extras, level=LEVEL_LEASE))
        assert reply.status == Status.INVALID_PARAMETER
        reply = await client.ask(Command.CREATE, smb.create("y", disposition=1))
        assert reply.status == Status.OBJECT_NAME_NOT_FOUND, "nothing was made"
        other = await started(service, b"2" * 16)
        _, told = await leased(other, "y", ONE, RWH)
        assert told.lease == RWH, "another client's key is another key"

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("dialect", "version", "level"),
    [
        (Dialect.SMB_2_0_2, 1, LEVEL_NONE),
        (Dialect.SMB_2_1, 1, LEVEL_LEASE),
        (Dialect.SMB_2_1, 2, LEVEL_NONE),
        (Dialect.SMB_3_0, 1, LEVEL_LEASE),
        (Dialect.SMB_3_0, 2, LEVEL_LEASE),
    ],
)
def test_each_dialect_knows_its_leases(tmp_path: Path, dialect: Dialect, version: int, level: int) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service, dialect=dialect)
        _, told = await leased(client, "x", ONE, RWH, version)
        assert told.level == level
        assert {name: len(data) for name, data in told.contexts.items()} == ({b"RqLs": 32 if version == 1 else 52} if level else {})

    run(tmp_path, test)


def test_a_directory_lease_is_broken_by_what_others_do_in_the_directory(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        first, second = await started(service), await started(service, b"2" * 16)
        await first.open("d", disposition=2, options=DIRECTORY)
        _, told = await leased(first, "d", ONE, RWH, access=READING, options=DIRECTORY)
        assert told.lease == RH
        extras = contexts.encode([smb.lease(TWO, RWH, parent=ONE)])
        reply = await first.ask(Command.CREATE, smb.create("d\\mine", extras=extras, level=LEVEL_LEASE))
        assert reply.status == 0
        first.replies()
        assert not first.breaks, "the holder's own change, by its parent key"
        waiting = second.request(Command.CREATE, smb.create("d\\other"))
        (body,) = await first.broken()
        assert lease_told(body)[2:] == (ONE, RH, READ) or lease_told(body)[2:] == (ONE, RH, 0)
        await first.ask(Command.OPLOCK_BREAK, smb.lease_break(ONE, lease_told(body)[4]))
        assert (await second.final(waiting)).status == 0

    run(tmp_path, test)


# Channels


def test_a_break_goes_to_another_channel_when_the_first_has_failed(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        first, other = await started(service), await started(service, b"2" * 16)
        second = Client(service)
        await second.negotiate()
        assert (await second.bind(first)).status == 0
        await leased(first, "x", ONE, RWH)
        file, _ = await oplocked(first, "y", LEVEL_BATCH)
        waits = [other.request(Command.CREATE, smb.create(name)) for name in "xy"]
        for number in waits:
            await other.told(number)
        lost, left = (first, second) if await _any(first, second) is first else (second, first)
        await lost.broken(2)
        lost.core.closed("the test cut it")
        bodies = await left.broken(2)
        assert {len(body) for body in bodies} == {24, 44}
        assert (await left.ask(Command.OPLOCK_BREAK, smb.lease_break(ONE, RH))).status == 0
        assert (await left.ask(Command.OPLOCK_BREAK, smb.oplock_break(file, LEVEL_II))).status == 0
        for number in waits:
            assert (await other.final(number)).status == 0

    run(tmp_path, test)


async def _any(*clients: Client) -> Client:
    """The first of them that was sent a break."""
    async with asyncio.timeout(20):
        while True:
            for client in clients:
                client.replies()
                if client.breaks:
                    return client
            await asyncio.sleep(0.001)


# What is malformed


def test_strange_lease_contexts_are_refused_or_mean_nothing(tmp_path: Path) -> None:
    async def test(service: SmbService) -> None:
        client = await started(service)
        for data in (b"", b"short", bytes(33), bytes(53)):
            extras = contexts.encode([(b"RqLs", data)])
            reply = await client.ask(Command.CREATE, smb.create("x", extras=extras, level=LEVEL_LEASE))
            assert reply.status == Status.INVALID_PARAMETER
        _, told = await leased(client, "x", bytes(16), RWH)
        assert (told.level, told.contexts) == (LEVEL_NONE, {}), "no key, no lease"
        for state in (WRITE, HANDLE, WRITE | HANDLE, 0):
            file, told = await leased(client, "x", ONE, state)
            assert (told.level, told.lease) == (LEVEL_LEASE, 0)
            await client.ask(Command.CLOSE, smb.close(file))

    run(tmp_path, test)
