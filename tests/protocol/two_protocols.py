"""Who meets whom in the cross-protocol matrix: holders and askers of both protocols, over real connections.

A holder holds something of many files at once, one for each cell; it can go away and come back with all of it, and gives way when the server wants a
grant back. An asker asks one thing of one file and says by the protocol's own word what it was told.
"""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Any, NamedTuple

from gateways.nfs.status import Status as Status3
from gateways.nfs.v3 import messages as m
from gateways.nfs.v4.status import Status as Status4
from gateways.smb import contexts
from gateways.smb.header import Command
from gateways.smb.leases import LEVEL_BATCH, LEVEL_LEASE, LEVEL_NONE
from gateways.smb.status import Status as NtStatus
from sofs.locks import HANDLE, READ, WRITE
from tests.protocol import nfs3_results as r3
from tests.protocol import nfs4_ops as op
from tests.protocol import smb_client as smb
from tests.protocol.nfs4_client import Nfs4Client, Transport
from tests.protocol.nfs4_xdr import ANONYMOUS, Op, Stateid
from tests.protocol.nfs_client import RpcClient
from tests.protocol.smb_client import FileId
from tests.protocol.smb_socket import SocketClient
from tests.served_both import Node
from tests.unit.gateways.nfs_link import sys_credential

RH, RWH = READ | HANDLE, READ | WRITE | HANDLE
DATA = b"twenty bytes of data"
READS, WRITES, DELETES, ATTRIBUTES = 0x120089, 0x120116, 0x110000, 0x100080
EXCLUSIVE_NOW, SHARED_NOW = 0x12, 0x11
"""SMB2_LOCKFLAG_*, with FAIL_IMMEDIATELY."""


class Cell(NamedTuple):
    """One question: somebody `holds` something of the file with this number, and `asks` comes from the other side."""

    number: int
    holds: str
    asks: str

    @property
    def name(self) -> str:
        return f"file{self.number}"

    @property
    def other(self) -> str:
        """Another file beside it."""
        return f"other{self.number}"

    @property
    def key(self) -> bytes:
        """Lease key and CreateGuid."""
        return (self.number + 1).to_bytes(16)


# SMB holds


class SmbHolder:
    """A client with any number of opens. `keep`: none of them, durable ones or persistent ones outlive its connection."""

    def __init__(self, client: SocketClient, keep: str) -> None:
        self.client = client
        self.keep = keep
        self.files: dict[int, FileId] = {}
        self._rights: dict[int, int] = {}
        self._breaks: dict[bytes, list[bytes]] = {}
        """By what they are about: the key of a lease or the FileId of an oplock."""

    @classmethod
    async def connect(cls, node: Node, keep: str = "") -> SmbHolder:
        return cls(await SocketClient.reach(node.smb, b"holder".ljust(16), "safe" if keep == "persistent" else "data"), keep)

    async def hold(self, cell: Cell) -> None:
        share = {"shares nothing": 0, "shares reads": 1, "shares reads and writes": 3, "caches all, shares no delete": 3}.get(cell.holds, 7)
        rights = {"caches all": RWH, "caches all, shares no delete": RWH, "caches reads and handles": RH}.get(cell.holds, 0)
        if self.keep == "durable" and not rights:
            rights = RH  # without the right to keep its handle it would not be durable (MS-SMB2 3.3.5.9.10)
        access = READS | WRITES | (DELETES if cell.holds == "will delete it" else 0)
        oplock = cell.holds == "has a batch oplock"
        self._rights[cell.number] = 0 if oplock else rights
        extras = [smb.durable(cell.key, 300_000, self.keep == "persistent")] if self.keep else []
        reply = await self._create(cell, access, share, LEVEL_BATCH if oplock else LEVEL_NONE, extras)
        assert reply.status == 0, NtStatus(reply.status).name
        told = smb.granted(reply)
        assert told.level == LEVEL_BATCH if oplock else (told.lease if rights else 0) == rights, "it has what the row says"
        assert not self.keep or told.contexts[b"DH2Q"][4] == (2 if self.keep == "persistent" else 0)
        self.files[cell.number] = smb.file_id(reply)
        if cell.holds.startswith("locks"):
            flags = EXCLUSIVE_NOW if cell.holds == "locks exclusively" else SHARED_NOW
            assert (await self.client.ask(Command.LOCK, smb.lock(self.files[cell.number], (0, 10, flags)))).status == 0
        if cell.holds == "will delete it":
            assert (await self.client.ask(Command.SET_INFO, smb.set_info(self.files[cell.number], 1, 13, b"\x01"))).status == 0

    async def _create(self, cell: Cell, access: int, share: int, level: int, extras: list[tuple[bytes, bytes]]) -> smb.Reply:
        if self._rights[cell.number]:
            extras, level = [smb.lease(cell.key, self._rights[cell.number]), *extras], LEVEL_LEASE
        encoded = contexts.encode(extras) if extras else b""
        return await self.client.ask(Command.CREATE, smb.create(cell.name, access, 1, 0x40, share, extras=encoded, level=level))

    async def gives_way(self, cell: Cell) -> None:
        """Waits until it is told to, and then keeps no more than it may."""
        key = cell.key if self._rights[cell.number] else struct.pack("<QQ", *self.files[cell.number])
        async with asyncio.timeout(20):
            while not self._breaks.get(key):
                self._sort()
                await asyncio.sleep(0.001)
        body = self._breaks[key].pop()
        if len(body) == 44:
            flags, new = struct.unpack_from("<I", body, 4)[0], struct.unpack_from("<I", body, 28)[0]
            assert flags & 1, "an acknowledgement is waited for"
            answer = smb.lease_break(key, new)
        else:
            answer = smb.oplock_break(self.files[cell.number], body[2])
        assert (await self.client.ask(Command.OPLOCK_BREAK, answer)).status == 0

    def _sort(self) -> None:
        self.client.replies()
        for body in self.client.breaks:
            self._breaks.setdefault(body[8:24], []).append(body)
        self.client.breaks.clear()

    def goes(self) -> None:
        self.client.cut()

    async def returns(self, node: Node) -> None:
        """Another connection, another session of the same client."""
        former, self._breaks = self.client.session_id, {}
        self.client = await SocketClient.reach(node.smb, self.client.guid, "safe" if self.keep == "persistent" else "data", former)

    async def takes_up(self, cell: Cell) -> str:
        """Reconnects to its open: "" or "lost"."""
        level = LEVEL_BATCH if cell.holds == "has a batch oplock" else LEVEL_NONE
        extras = [smb.comes_back(self.files[cell.number], cell.key, self.keep == "persistent")]
        reply = await self._create(cell, 0, 0, level, extras)
        if reply.status == NtStatus.OBJECT_NAME_NOT_FOUND:
            return "lost"
        assert reply.status == 0, NtStatus(reply.status).name
        assert smb.file_id(reply)[0] == self.files[cell.number][0], "it is the same open"
        self.files[cell.number] = smb.file_id(reply)
        return ""


# NFS asks


class NfsAsker:
    """A client of NFSv4.1, and one of NFSv3 beside it."""

    def __init__(self, v4: Nfs4Client, v3: RpcClient) -> None:
        self.v4, self.v3 = v4, v3
        self.root = self.root3 = b""
        self.files: dict[int, bytes] = {}
        self._opens: dict[int, Stateid] = {}

    @classmethod
    async def connect(cls, node: Node, owner: bytes = b"", reclaimed: bool = True) -> NfsAsker:
        v4 = await Nfs4Client.connect(node.nfs, owner, minor=1, persist=True, reclaimed=reclaimed)
        asker = cls(v4, await RpcClient.connect(node.nfs))
        asker.root, asker.root3 = await v4.root(), await asker.v3.mount("/data")
        return asker

    async def make(self, cell: Cell) -> None:
        """The cell's file and the other one beside it, with data."""
        for name in (cell.name, cell.other):
            opening = op.open_(name, clientid=self.v4.clientid, how="unchecked", mode=0o666)
            opened = await self.v4.done(op.putfh(self.root), opening, op.getfh())
            state, handle = opened.value(18).stateid, opened.last
            await self.v4.done(op.putfh(handle), op.write(state, 0, DATA, 0), op.close(state))
            if name == cell.name:
                self.files[cell.number] = handle

    async def prepare(self, cell: Cell) -> None:
        """Opens the file if that is to be done before anybody holds anything."""
        if cell.asks.endswith("by an open") or cell.asks in ("LOCK", "LOCK to share"):
            opening = op.open_(cell.name, clientid=self.v4.clientid)
            self._opens[cell.number] = (await self.v4.done(op.putfh(self.root), opening)).last.stateid

    async def returns(self, node: Node) -> None:
        """The same client and session over another connection, after the server has come back."""
        await self.close()
        self.v4.transport = await _transport(node)
        self.v3 = await RpcClient.connect(node.nfs)

    async def ends(self) -> None:
        """The NFSv4 client is no more: the server waits for nothing from it."""
        for operation in (op.destroy_session(self.v4.session), op.destroy_clientid(self.v4.clientid)):
            assert (await self.v4.transport.compound([operation], 1)).status == 0
        await self.close()

    async def close(self) -> None:
        await self.v4.transport.close()
        await self.v3.close()

    async def ask(self, cell: Cell) -> str:
        if cell.asks.startswith("v3 "):
            name, arguments = self._call(cell)
            return Status3((await self.v3.nfs(name, arguments)).status).name
        return Status4((await self.v4.compound(*self._operations(cell))).status).name

    def _operations(self, cell: Cell) -> list[Op]:
        root, file, client = op.putfh(self.root), op.putfh(self.files[cell.number]), self.v4.clientid
        state = self._opens.get(cell.number, ANONYMOUS)
        table: dict[str, list[Op]] = {
            "OPEN to read": [root, op.open_(cell.name, op.READ, owner=b"second", clientid=client)],
            "OPEN to write": [root, op.open_(cell.name, op.WRITE, owner=b"second", clientid=client)],
            "OPEN, deny writes": [root, op.open_(cell.name, op.READ, op.WRITE, owner=b"second", clientid=client)],
            "READ": [file, op.read(ANONYMOUS, 0, 5)],
            "WRITE": [file, op.write(ANONYMOUS, 0, b"xx")],
            "READ by an open": [file, op.read(state, 0, 5)],
            "WRITE by an open": [file, op.write(state, 0, b"xx")],
            "READ elsewhere by an open": [file, op.read(state, 10, 5)],
            "LOCK": [file, op.lock(op.WRITE_LT, 0, 5, state, b"asker", clientid=client)],
            "LOCK to share": [file, op.lock(op.READ_LT, 0, 5, state, b"asker", clientid=client)],
            "LOCKT": [file, op.lockt(op.WRITE_LT, 0, 5, b"asker", client)],
            "SETATTR size": [file, op.setattr_(size=0)],
            "GETATTR": [file, op.getattr_("size", "change")],
            "LOOKUP": [root, op.lookup(cell.name)],
            "REMOVE": [root, op.remove(cell.name)],
            "RENAME": [root, op.savefh(), op.rename(cell.name, f"new{cell.number}")],
            "RENAME over it": [root, op.savefh(), op.rename(cell.other, cell.name)],
            "LINK": [file, op.savefh(), root, op.link(f"new{cell.number}")],
        }
        return table[cell.asks]

    def _call(self, cell: Cell) -> tuple[str, Any]:
        file = self.files[cell.number]
        here, beside, new = (m.DirectoryName(self.root3, name.encode()) for name in (cell.name, cell.other, f"new{cell.number}"))
        table: dict[str, tuple[str, Any]] = {
            "v3 READ": ("READ", r3.ReadArgs(file, 0, 5)),
            "v3 WRITE": ("WRITE", r3.WriteArgs(file, 0, 2, m.Stable.FILE_SYNC, b"xx")),
            "v3 SETATTR size": ("SETATTR", m.SetAttributesArgs(file, m.NewAttributes(size=0), None)),
            "v3 GETATTR": ("GETATTR", m.GetAttributesArgs(file)),
            "v3 LOOKUP": ("LOOKUP", m.LookupArgs(here)),
            "v3 REMOVE": ("REMOVE", m.RemoveArgs(here)),
            "v3 RENAME": ("RENAME", m.RenameArgs(here, new)),
            "v3 RENAME over it": ("RENAME", m.RenameArgs(beside, here)),
        }
        return table[cell.asks]


async def _transport(node: Node) -> Transport:
    transport = await Transport.connect(node.nfs)
    transport.auth = sys_credential(1000, 1000)
    return transport


# NFS holds


class NfsHolder:
    """A client of NFSv4.1 with any number of opens, locks and delegations."""

    def __init__(self, client: Nfs4Client) -> None:
        self.client = client
        self.root = b""
        self.files: dict[int, bytes] = {}
        self.opens: dict[int, Stateid] = {}
        self.delegations: dict[int, Stateid] = {}
        self._recalled: set[Stateid] = set()

    @classmethod
    async def connect(cls, node: Node) -> NfsHolder:
        holder = cls(await Nfs4Client.connect(node.nfs, os.urandom(8), minor=1, callbacks=True, persist=True))
        holder.root = await holder.client.root()
        return holder

    async def hold(self, cell: Cell) -> None:
        access, deny = _OPENS[cell.holds]
        asked = op.open_(cell.name, access, deny, clientid=self.client.clientid)
        result = await self.client.done(op.putfh(self.root), asked, op.getfh())
        opened, self.files[cell.number] = result.value(18), result.last
        self.opens[cell.number] = opened.stateid
        if "delegation" in cell.holds:
            kind, given = opened.delegation
            assert kind == (2 if "write" in cell.holds else 1), "it has what the row says"
            self.delegations[cell.number] = given[0]
            if "alone" in cell.holds:
                await self.client.done(op.putfh(result.last), op.close(self.opens.pop(cell.number)))
        if cell.holds.startswith("locks"):
            await self._lock(cell)

    async def _lock(self, cell: Cell, reclaim: bool = False) -> None:
        kind = op.WRITE_LT if cell.holds == "locks exclusively" else op.READ_LT
        state = self.opens[cell.number]
        locking = op.lock(kind, 0, 10, state, b"locker", reclaim, self.client.clientid)
        await self.client.done(op.putfh(self.files[cell.number]), locking)

    async def gives_way(self, cell: Cell) -> None:
        """Waits until it is told to, and then returns its delegation."""
        wanted = self.delegations[cell.number]
        while wanted not in self._recalled:
            async with asyncio.timeout(20):
                callback = await self.client.transport.callbacks.get()
            if callback.number == 4:
                assert callback.stateid is not None
                self._recalled.add(callback.stateid)
        await self.client.done(op.putfh(self.files[cell.number]), op.delegreturn(self.delegations.pop(cell.number)))

    async def goes(self) -> None:
        await self.client.transport.close()

    async def returns(self, node: Node) -> None:
        """The same session over another connection, with its callbacks."""
        await self.goes()
        self.client.transport = await _transport(node)
        bound = await self.client.transport.compound([op.bind_conn_to_session(self.client.session, 7)], 1)
        assert bound.status == 0, bound
        await self.client.done(op.putrootfh())

    async def takes_up(self, cell: Cell) -> str:
        """Uses what it holds: it is still there."""
        state = self.opens.get(cell.number) or self.delegations[cell.number]
        await self.client.done(op.test_stateid(state))
        return "" if (await self.client.done(op.test_stateid(state))).last == [0] else "lost"

    async def reclaimed_all(self) -> None:
        await self.client.done(op.reclaim_complete())

    async def reclaims(self, cell: Cell) -> None:
        """What the server has lost, in its grace (CLAIM_PREVIOUS; RFC 8881 9.11)."""
        access, deny = _OPENS[cell.holds]
        kind = 0 if "delegation" not in cell.holds else 2 if "write" in cell.holds else 1
        handle = op.putfh(self.files[cell.number])
        asked = op.open_("", access & 3, deny, clientid=self.client.clientid, claim=op.claim_previous(kind))
        opened = (await self.client.done(handle, asked)).last
        self.opens[cell.number] = opened.stateid
        if kind:
            assert opened.delegation[0] == kind, "its delegation is its again"
            self.delegations[cell.number] = opened.delegation[1][0]
            if "alone" in cell.holds:
                await self.client.done(handle, op.close(self.opens.pop(cell.number)))
        if cell.holds.startswith("locks"):
            await self._lock(cell, reclaim=True)


_WANT_READ, _WANT_WRITE, _WANT_NONE = 0x100, 0x200, 0x400
_OPENS = {
    "denies reads": (op.WRITE | _WANT_NONE, op.READ),
    "denies writes": (op.READ | _WANT_NONE, op.WRITE),
    "reads": (op.READ | _WANT_NONE, 0),
    "writes": (op.WRITE | _WANT_NONE, 0),
    "locks exclusively": (op.BOTH | _WANT_NONE, 0),
    "locks to share": (op.BOTH | _WANT_NONE, 0),
    "a read delegation alone": (op.READ | _WANT_READ, 0),
    "a read delegation, open": (op.READ | _WANT_READ, 0),
    "a write delegation alone": (op.BOTH | _WANT_WRITE, 0),
}
"""Access and denials of each row's OPEN."""


# SMB asks


class SmbAsker:
    def __init__(self, client: SocketClient) -> None:
        self.client = client

    @classmethod
    async def connect(cls, node: Node) -> SmbAsker:
        return cls(await SocketClient.reach(node.smb, b"asker".ljust(16)))

    def ask(self, cell: Cell) -> Asking:
        return Asking(self.client, cell)


class Asking:
    """One SMB request under way, perhaps behind a CREATE."""

    def __init__(self, client: SocketClient, cell: Cell) -> None:
        self._client = client
        self._waits = asyncio.Event()
        self._task = asyncio.create_task(self._run(cell))

    async def first(self) -> str:
        """What came at once: a status, or that it is PENDING."""
        waits = asyncio.create_task(self._waits.wait())
        await asyncio.wait([self._task, waits], return_when=asyncio.FIRST_COMPLETED)
        if self._waits.is_set():
            return "PENDING"
        waits.cancel()
        return await self._task

    async def last(self) -> str:
        return await self._task

    async def _run(self, cell: Cell) -> str:
        access, share, disposition, name, then = self._plan(cell)
        reply = await self._send(Command.CREATE, smb.create(name, access, disposition, 0x40, share))
        if reply.status == 0:
            file = smb.file_id(reply)
            if then is not None:
                command, body = then
                reply = await self._send(command, _on(body, file, command))
            closed = await self._client.ask(Command.CLOSE, smb.close(file))
            assert closed.status == 0
        return "OK" if reply.status == 0 else NtStatus(reply.status).name

    async def _send(self, command: int, body: bytes) -> smb.Reply:
        number = self._client.request(command, body)
        if not await self._client.answered(number):
            self._waits.set()
        return await self._client.final(number)

    @staticmethod
    def _plan(cell: Cell) -> tuple[int, int, int, str, tuple[int, bytes] | None]:
        """Rights, share mode, disposition and name of the CREATE; what follows it."""
        file = smb.NOBODY
        rename = _rename(f"new{cell.number}", False)
        table: dict[str, tuple[int, int, int, str, tuple[int, bytes] | None]] = {
            "CREATE to read": (READS, 7, 1, cell.name, None),
            "CREATE to write": (WRITES, 7, 1, cell.name, None),
            "CREATE alone": (READS, 0, 1, cell.name, None),
            "CREATE, share reads": (READS, 1, 1, cell.name, None),
            "CREATE for attributes": (ATTRIBUTES, 7, 1, cell.name, None),
            "CREATE to overwrite": (WRITES, 7, 5, cell.name, None),
            "READ": (READS, 7, 1, cell.name, (Command.READ, smb.read(file, 0, 5))),
            "WRITE": (WRITES, 7, 1, cell.name, (Command.WRITE, smb.write(file, 0, b"xx"))),
            "READ elsewhere": (READS, 7, 1, cell.name, (Command.READ, smb.read(file, 10, 5))),
            "LOCK": (READS, 7, 1, cell.name, (Command.LOCK, smb.lock(file, (5, 1, EXCLUSIVE_NOW)))),
            "LOCK to share": (READS, 7, 1, cell.name, (Command.LOCK, smb.lock(file, (5, 1, SHARED_NOW)))),
            "rename": (DELETES, 7, 1, cell.name, (Command.SET_INFO, smb.set_info(file, 1, 10, rename))),
            "replace": (DELETES, 7, 1, cell.other, (Command.SET_INFO, smb.set_info(file, 1, 10, _rename(cell.name, True)))),
            "delete": (DELETES, 7, 1, cell.name, (Command.SET_INFO, smb.set_info(file, 1, 13, b"\x01"))),
            "set size": (WRITES, 7, 1, cell.name, (Command.SET_INFO, smb.set_info(file, 1, 20, bytes(8)))),
        }
        return table[cell.asks]


def _rename(name: str, replace: bool) -> bytes:
    encoded = name.encode("utf-16-le")
    return struct.pack("<B7xQI", replace, 0, len(encoded)) + encoded


_FILE_ID_AT = {Command.READ: 16, Command.WRITE: 16, Command.LOCK: 8, Command.SET_INFO: 16}


def _on(body: bytes, file: FileId, command: int) -> bytes:
    at = _FILE_ID_AT[Command(command)]
    return body[:at] + struct.pack("<QQ", *file) + body[at + 16 :]
