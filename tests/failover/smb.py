"""SMB 3.1.1 with persistent handles: what has no answer is sent again as a replay, after the session and the open were taken up again.

As Windows does (MS-SMB2 3.2.4.3.1, 3.2.5.7, 3.2.7.1), at whichever node is there: the new session names the former one as its predecessor, a CREATE is
replayed with its CreateGuid, an open is reconnected with it, and every later request of the open bears the next ChannelSequence.
"""

from __future__ import annotations

import asyncio
import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from gateways.smb import contexts
from gateways.smb.header import Command
from gateways.smb.service import SmbService
from tests.failover import CONNECT_S, REPLY_S
from tests.failover.retrying import LOST, Diary, Forgotten, Patience, Trouble, Turns
from tests.interop.ledger import Files
from tests.protocol.smb_client import FileId, Reply, close, comes_back, create, durable, file_id, lock, query_directory, read, write
from tests.protocol.smb_socket import SocketClient, _Remote

REPLAY = 0x20000000
OPEN_IT, MAKE_IT, OPEN_OR_MAKE = 1, 2, 3
DIRECTORY, NOT_DIRECTORY = 0x1, 0x40
EXCLUSIVE_AT_ONCE, SHARED_AT_ONCE, UNLOCK = 0x12, 0x11, 0x4
ALL, READ_ONLY = 0x1F01FF, 0x120089
RENAME, DISPOSITION, END_OF_FILE = 10, 13, 20
CHUNK = 64 << 10

OK, NO_MORE_FILES, NOT_FOUND, COLLISION = 0, 0x80000006, 0xC0000034, 0xC0000035
END, LOCK_REFUSED = 0xC0000011, 0xC0000055
SESSION_GONE = (0xC0000203, 0xC00000C9, 0xC000020C, 0xC000035C, 0xC00000B0)
"""USER_SESSION_DELETED, NETWORK_NAME_DELETED, CONNECTION_DISCONNECTED, NETWORK_SESSION_EXPIRED, PIPE_DISCONNECTED: it has to be begun anew."""
LATER = (0xC0000467, 0xC00000B5, 0xC000026E)
"""FILE_NOT_AVAILABLE, IO_TIMEOUT, VOLUME_DISMOUNTED: asked again after a while."""


class SessionGone(ConnectionError):
    pass


@dataclass
class Open:
    name: str
    guid: bytes
    file: FileId
    sequence: int = 0
    """Its ChannelSequence."""
    session: int = 0
    """The number of the session, of this client's, in which it is connected."""


class SmbDirectory:
    def __init__(self, addresses: Sequence[str], port: int, share: str, name: str, user: str, password: str) -> None:
        self._turns = Turns(addresses)
        self._port, self._share, self._name = port, share, name
        self._user, self._password = user, password
        self._guid = uuid.uuid4().bytes
        self._client: SocketClient | None = None
        self._former = 0
        """The SessionId of the session before."""
        self._sessions = 0
        self._held: Open | None = None
        self.diary = Diary()
        self.resent = 0
        self.cautious = False
        """Says nothing here: a continuously available share answers when all is stable."""
        self.rewritten = 0

    async def open(self) -> None:
        made = await self._create(self._name, OPEN_OR_MAKE, DIRECTORY, persistent=False, access=READ_ONLY)
        await self._close(made)

    async def leave(self) -> None:
        await self.close()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.cut()

    # Sessions

    async def _connected(self) -> SocketClient:
        if self._client is not None:
            return self._client
        self.diary.asks(f"connecting to {self._turns.address}")
        async with asyncio.timeout(CONNECT_S):
            streams = await asyncio.open_connection(self._turns.address, self._port)
        remote = _Remote(*streams)
        client = SocketClient(cast(SmbService, remote), self._guid)
        client.remote = remote
        try:
            async with asyncio.timeout(REPLY_S):
                _good(await client.negotiate(), "NEGOTIATE")
                _good(await client.logon(self._user, self._password, previous=self._former), "SESSION_SETUP")
                _good(await client.connect(self._share), "TREE_CONNECT")
        except AssertionError as error:  # what the client makes of a connection that has ended
            client.cut()
            raise ConnectionError(str(error)) from None
        except BaseException:
            client.cut()
            raise
        self.diary.told("a session")
        self._client, self._former = client, client.session_id
        self._sessions += 1
        return client

    async def _lost(self, error: BaseException) -> None:
        self.diary.told(repr(error))
        self.resent += 1
        await self.close()
        self._turns.turn()

    async def _ask(self, client: SocketClient, command: int, body: bytes, flags: int = 0) -> Reply:
        charge = max(1, -(-len(body) // 65536))
        self.diary.asks(f"{self._turns.address} {Command(command).name}{' again' if flags else ''} {client.sequence}")
        number = client.request(command, body, flags, charge)
        try:
            async with asyncio.timeout(REPLY_S):
                reply = await client.final(number)
        except AssertionError as error:  # what the client makes of a connection that has ended
            raise ConnectionError(str(error)) from None
        self.diary.told(f"{reply.status:#x}")
        if reply.status in SESSION_GONE:
            raise SessionGone(hex(reply.status))
        return reply

    async def _take_up(self, client: SocketClient, open: Open) -> None:
        """Reconnects a persistent open in a new session. Raises `NotThere` if there is no such open any more."""
        patience = Patience(f"reconnecting {open.name}")
        body = create(open.name, extras=contexts.encode([comes_back(open.file, open.guid, True)]))
        while True:
            client.sequence = 0
            reply = await self._ask(client, Command.CREATE, body)
            if reply.status == OK:
                break
            if reply.status not in LATER:
                raise NotThere(f"reconnecting {open.name} was answered {reply.status:#x}: {self.diary}")
            await patience.wait(0.2, hex(reply.status))
        open.file = file_id(reply)
        open.session = self._sessions
        open.sequence += 1

    # Requests

    async def _create(self, name: str, disposition: int, options: int, persistent: bool = True, access: int = ALL) -> Open:
        guid = uuid.uuid4().bytes
        extras = contexts.encode([durable(guid, 0, True)]) if persistent else b""
        body = create(name, access, disposition, options, extras=extras)
        patience = Patience(f"CREATE {name}")
        replay = 0
        while True:
            try:
                client = await self._connected()
                client.sequence = 0
                reply = await self._ask(client, Command.CREATE, body, replay)
            except LOST as error:
                await self._lost(error)
                replay = REPLAY if persistent else 0
                await patience.wait(0.05, error)
                continue
            if reply.status in LATER:
                await patience.wait(0.2, hex(reply.status))
                continue
            if reply.status != OK:
                raise Trouble(f"CREATE {name} was answered {reply.status:#x}: {self.diary}")
            return Open(name, guid, file_id(reply), 0, self._sessions)

    async def _on(self, open: Open, command: int, body: Callable[[FileId], bytes], accepted: Sequence[int] = (OK,)) -> Reply:
        """A request about an open, sent until it is answered."""
        what = f"{Command(command).name} of {open.name}"
        patience = Patience(what)
        replay = 0
        while True:
            try:
                client = await self._connected()
                if open.session != self._sessions:
                    await self._take_up(client, open)
                client.sequence = open.sequence
                reply = await self._ask(client, command, body(open.file), replay)
            except LOST as error:
                await self._lost(error)
                replay = REPLAY
                await patience.wait(0.05, error)
                continue
            if reply.status in LATER:
                replay = REPLAY
                await patience.wait(0.2, hex(reply.status))
                continue
            if reply.status not in accepted:
                raise Trouble(f"{what} was answered {reply.status:#x}: {self.diary}")
            return reply

    async def _close(self, open: Open) -> None:
        sent = self.resent
        try:
            await self._on(open, Command.CLOSE, close)
        except NotThere:
            # The CLOSE that had no answer was carried out.
            if self.resent == sent:
                raise

    def _path(self, name: str) -> str:
        return f"{self._name}\\{name}"

    async def create(self, name: str) -> None:
        await self._close(await self._create(self._path(name), MAKE_IT, NOT_DIRECTORY))

    async def write(self, name: str, offset: int, data: bytes) -> None:
        """Under a lock of the range."""
        open = await self._create(self._path(name), OPEN_IT, NOT_DIRECTORY)
        await self._on(open, Command.LOCK, lambda file: _numbered(lock(file, (offset, len(data), EXCLUSIVE_AT_ONCE)), 1))
        for at in range(0, len(data), CHUNK):
            await self._on(open, Command.WRITE, lambda file, at=at: write(file, offset + at, data[at : at + CHUNK]))  # type: ignore[misc]
        await self._on(open, Command.LOCK, lambda file: _numbered(lock(file, (offset, len(data), UNLOCK)), 2))
        await self._close(open)

    async def _set(self, name: str, kind: int, data: bytes) -> None:
        open = await self._create(self._path(name), OPEN_IT, NOT_DIRECTORY)
        await self._on(open, Command.SET_INFO, lambda file: _set_info(file, kind, data))
        await self._close(open)

    async def truncate(self, name: str, size: int) -> None:
        await self._set(name, END_OF_FILE, struct.pack("<Q", size))

    async def rename(self, old: str, new: str) -> None:
        target = self._path(new).encode("utf-16-le")
        await self._set(old, RENAME, struct.pack("<B7xQI", 1, 0, len(target)) + target)

    async def remove(self, name: str) -> None:
        await self._set(name, DISPOSITION, b"\1")

    async def settle(self, names: Iterable[str]) -> None:
        """All is stable."""

    async def hold(self, name: str) -> None:
        held = await self._create(self._path(name), OPEN_OR_MAKE, NOT_DIRECTORY)
        await self._on(held, Command.LOCK, lambda file: _numbered(lock(file, (0, 100, EXCLUSIVE_AT_ONCE)), 1))
        self._held = held

    async def touch(self) -> None:
        if self._held is not None:
            await self._on(self._held, Command.READ, lambda file: read(file, 0, 10), (OK, END))

    async def is_locked(self, name: str) -> bool:
        """Whether somebody else holds a lock of the first bytes."""
        open = await self._create(self._path(name), OPEN_IT, NOT_DIRECTORY, persistent=False, access=READ_ONLY)
        body = lock(open.file, (0, 10, SHARED_AT_ONCE))
        reply = await self._on(open, Command.LOCK, lambda file: body, (OK, LOCK_REFUSED))
        await self._close(open)
        return reply.status == LOCK_REFUSED

    # Reading, all at one node that lives

    async def read_all(self) -> Files:
        listed = await self._create(self._name, OPEN_IT, DIRECTORY, persistent=False, access=READ_ONLY)
        names: list[str] = []
        while True:
            reply = await self._on(listed, Command.QUERY_DIRECTORY, lambda file: query_directory(file, "*", 12), (OK, NO_MORE_FILES))
            if reply.status == NO_MORE_FILES:
                break
            names += _names(reply)
        await self._close(listed)
        return {name: await self._read(name) for name in names if name not in (".", "..")}

    async def _read(self, name: str) -> bytes:
        open = await self._create(self._path(name), OPEN_IT, NOT_DIRECTORY, persistent=False, access=READ_ONLY)
        content = b""
        while True:
            at = len(content)
            reply = await self._on(open, Command.READ, lambda file, at=at: read(file, at, CHUNK), (OK, END))  # type: ignore[misc]
            if reply.status == END:
                break
            start, length = struct.unpack_from("<2xBxI", reply.body)
            content += reply.message[start : start + length]
        await self._close(open)
        return content


class NotThere(Forgotten):
    """The server knows of no such open."""


def _good(reply: Reply, what: str) -> None:
    if reply.status in SESSION_GONE or reply.status in LATER:
        raise SessionGone(f"{what}: {reply.status:#x}")
    if reply.status != OK:
        raise Trouble(f"{what} was answered {reply.status:#x}")


def _numbered(body: bytes, number: int) -> bytes:
    """A LOCK with a LockSequence: bucket 1, and a number that differs from one request to the next (MS-SMB2 2.2.26)."""
    return body[:4] + struct.pack("<I", 1 << 4 | number) + body[8:]


def _set_info(file: FileId, kind: int, data: bytes) -> bytes:
    return struct.pack("<HBBIHHIQQ", 33, 1, kind, len(data), 96, 0, 0, *file) + data


def _names(reply: Reply) -> list[str]:
    """Of FileNamesInformation (MS-FSCC 2.4.28)."""
    at, length = struct.unpack_from("<2xHI", reply.body)
    listing = reply.message[at : at + length]
    names = []
    while listing:
        following, _, size = struct.unpack_from("<III", listing)
        names.append(listing[12 : 12 + size].decode("utf-16-le"))
        if not following:
            break
        listing = listing[following:]
    return names
