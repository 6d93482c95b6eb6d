"""A small SMB 3 client without sockets: it drives a server's `Connection` directly, and can send what no real client would."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import NamedTuple

import spnego

from gateways.smb import contexts
from gateways.smb.connection import Connection
from gateways.smb.crypto import CipherId, Dialect, Keys, Preauth, Sealer, Signer, SigningAlgorithm, signer
from gateways.smb.header import ANY_FILE, ENCRYPTED, FLAG_RELATED, FLAG_SIGNED, HEADER, PLAIN, UNASKED, Command
from gateways.smb.service import SmbService
from sofs.runtime.ports import Buffer

RELATED = FLAG_RELATED
NOBODY = (ANY_FILE, ANY_FILE)
FileId = tuple[int, int]


class Reply(NamedTuple):
    status: int
    command: int
    flags: int
    credits: int
    message_id: int
    async_id: int
    tree_id: int
    session_id: int
    message: bytes

    @property
    def body(self) -> bytes:
        return self.message[64:]


class MemoryLink:
    """A `Link` that keeps what is sent."""

    def __init__(self) -> None:
        self.peer, self.peer_port, self.local = "192.0.2.9", 5000, "192.0.2.1"
        self.sent = bytearray()
        self.closed_for = ""
        self.paused = 0

    def send(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self.sent += buffer

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.paused -= 1

    def close(self, reason: str) -> None:
        self.closed_for = self.closed_for or reason


class Client:
    """One connection with at most one session, and one tree at a time."""

    def __init__(self, service: SmbService, guid: bytes = b"guid" * 4) -> None:
        self.guid = guid
        self.link = MemoryLink()
        self.core: Connection = service.accept(self.link)
        self.next_id = 0
        self.dialect = Dialect.SMB_3_1_1
        self.signing = SigningAlgorithm.AES_CMAC
        self.cipher: CipherId | None = None
        self.preauth = Preauth()
        self.session_id = 0
        self.tree_id = 0
        self.signer: Signer | None = None
        self._binder: Signer | None = None
        self.sealer: Sealer | None = None
        self.sealed = False
        self.breaks: list[bytes] = []
        """Bodies of the breaks that came."""
        self._finals: dict[int, Reply] = {}
        self.pending: set[int] = set()
        """Message ids that were told PENDING."""
        self.credits = 64
        self.sequence = 0
        """ChannelSequence of what is sent."""

    # Messages

    def header(self, command: int, message_id: int, flags: int = 0, charge: int = 1, following: int = 0) -> bytes:
        return HEADER.pack(
            PLAIN, 64, charge, self.sequence, command, self.credits, flags, following, message_id, 0xFEFF, self.tree_id, self.session_id, bytes(16)
        )

    def signed(self, message: bytes, message_id: int, cancel: bool = False) -> bytes:
        if self.signer is None or self.sealed:
            return message
        (flags,) = struct.unpack_from("<I", message, 16)
        message = message[:16] + struct.pack("<I", flags | FLAG_SIGNED) + message[20:]
        return message[:48] + self.signer.sign(message, message_id, cancel, False) + message[64:]

    def deliver(self, message: bytes) -> None:
        """Gives the server these bytes as one message."""
        if self.sealed:
            assert self.sealer is not None
            message = b"".join(self.sealer.seal(message))
        self.core.received(self.core.size(len(message)), memoryview(bytearray(message)))

    def request(self, command: int, body: bytes, flags: int = 0, charge: int = 1) -> int:
        """Sends one request; gives its message id."""
        number, self.next_id = self.next_id, self.next_id + charge
        self.deliver(self.signed(self.header(command, number, flags, charge) + body, number))
        return number

    def compound(self, parts: Sequence[tuple[int, bytes, int]]) -> list[int]:
        """Sends (command, body, flags)s as one message."""
        whole, numbers = b"", []
        for place, (command, body, flags) in enumerate(parts):
            last = place == len(parts) - 1
            body += bytes(0 if last else -len(body) & 7)
            one = self.header(command, self.next_id, flags, 1, 0 if last else 64 + len(body)) + body
            whole += self.signed(one, self.next_id)
            numbers.append(self.next_id)
            self.next_id += 1
        self.deliver(whole)
        return numbers

    def cancel(self, message_id: int) -> None:
        self.deliver(self.signed(self.header(Command.CANCEL, message_id, charge=0) + b"\x04\0\0\0", message_id, True))

    def replies(self) -> list[Reply]:
        """What the server has sent since, its signatures checked."""
        found = []
        sent, self.link.sent = bytes(self.link.sent), bytearray()
        while sent:
            size = int.from_bytes(sent[:4], "big")
            message, sent = sent[4 : 4 + size], sent[4 + size :]
            sealed = message[:4] == ENCRYPTED
            if sealed:
                assert self.sealer is not None
                message = bytes(self.sealer.open(memoryview(message)))
            while message:
                (following,) = struct.unpack_from("<I", message, 20)
                one, message = (message[:following], message[following:]) if following else (message, b"")
                reply = self._reply(one, sealed)
                if reply.message_id == UNASKED:
                    self.breaks.append(reply.body)
                    continue
                if reply.status == 0x103:
                    self.pending.add(reply.message_id)
                found.append(reply)
        return found

    def _reply(self, message: bytes, sealed: bool) -> Reply:
        magic, size, _, status, command, credits, flags, _, number, low, high, session, given = HEADER.unpack_from(message)
        assert (magic, size) == (PLAIN, 64) and flags & 1
        if flags & FLAG_SIGNED and status != 0xC0000203:
            zeroed = message[:48] + bytes(16) + message[64:]
            # What refuses a binding bears the session's signature, which its other channels have.
            signers = [each for each in (self.signer, self._binder) if each is not None]
            assert any(given == each.sign(zeroed, number) for each in signers), "a wrong signature"
        elif number != UNASKED:
            assert sealed or self.signer is None or status in (0x103, 0xC0000203) or command == Command.SESSION_SETUP, f"not signed: {status:#x}"
        return Reply(status, command, flags, credits, number, low | high << 32 if flags & 2 else 0, high, session, message)

    async def ask(self, command: int, body: bytes, flags: int = 0, charge: int = 1) -> Reply:
        """The final reply to one request."""
        number = self.request(command, body, flags, charge)
        return await self.final(number)

    async def final(self, number: int) -> Reply:
        async with asyncio.timeout(20):
            while True:
                for reply in self.replies():
                    if reply.status != 0x103:
                        self._finals[reply.message_id] = reply
                if (found := self._finals.pop(number, None)) is not None:
                    return found
                assert not self.link.closed_for, self.link.closed_for
                await asyncio.sleep(0.001)

    async def told(self, number: int) -> None:
        """Until the request has been told PENDING."""
        async with asyncio.timeout(20):
            while number not in self.pending:
                self.replies()
                await asyncio.sleep(0.001)

    async def broken(self, count: int = 1) -> list[bytes]:
        """The bodies of the breaks that came since the last call, once there are `count`."""
        async with asyncio.timeout(20):
            while len(self.breaks) < count:
                self.replies()
                await asyncio.sleep(0.001)
        found, self.breaks = self.breaks, []
        return found

    async def ask_all(self, parts: Sequence[tuple[int, bytes, int]]) -> list[Reply]:
        """The replies to a compound."""
        wanted = self.compound(parts)
        found: dict[int, Reply] = {}
        async with asyncio.timeout(20):
            while len(found) < len(wanted):
                found |= {reply.message_id: reply for reply in self.replies() if reply.status != 0x103}
                await asyncio.sleep(0.001)
        return [found[number] for number in wanted]

    # Setting up

    async def negotiate(
        self, dialect: Dialect = Dialect.SMB_3_1_1, signing: SigningAlgorithm = SigningAlgorithm.AES_GMAC,
        cipher: CipherId | None = CipherId.AES_128_GCM,
    ) -> Reply:  # fmt: skip
        self.dialect = dialect
        message = self.header(Command.NEGOTIATE, 0) + negotiate(dialect, signing, cipher, self.guid)
        self.next_id = 1
        self.preauth.add(message)
        self.deliver(message)
        reply = await self.final(0)
        self.preauth.add(reply.message)
        if dialect is Dialect.SMB_3_1_1:
            self.signing, self.cipher = signing, cipher
        elif dialect < Dialect.SMB_3_0:
            self.signing = SigningAlgorithm.HMAC_SHA256
        elif cipher is not None:
            self.cipher = CipherId.AES_128_CCM
        return reply

    async def bind(self, other: Client, user: str = "alice", password: str = "secret") -> Reply:
        """Makes this connection a channel of the other's session."""
        self.session_id, self.tree_id, self.sealer = other.session_id, other.tree_id, other.sealer
        self.signer = other.signer
        return await self.logon(user, password, flags=1)

    async def logon(self, user: str = "alice", password: str = "secret", previous: int = 0, flags: int = 0) -> Reply:
        binder = self.signer
        context = spnego.client(user, password, hostname="test", service="cifs", protocol="ntlm")
        preauth = Preauth(self.preauth.value)
        token = context.step()
        while True:
            number, self.next_id = self.next_id, self.next_id + 1
            message = self.header(Command.SESSION_SETUP, number) + session_setup(token or b"", previous, flags)
            if binder is not None:
                message = self.signed(message, number)
            preauth.add(message)
            self.deliver(message)
            if context.complete:
                self._derive(context.session_key, preauth.value, binder)
            reply = await self.final(number)
            self.session_id = reply.session_id
            if reply.status != 0xC0000016:
                if reply.status:
                    self.signer = self.sealer = None
                return reply
            preauth.add(reply.message)
            at, length = struct.unpack_from("<HH", reply.body, 4)
            token = context.step(reply.message[at : at + length])

    def _derive(self, key: bytes, preauth: bytes, binder: Signer | None) -> None:
        keys = Keys(self.dialect, key, preauth, self.cipher or CipherId.AES_128_GCM)
        self.signer, self._binder = signer(self.signing, keys.signing), binder
        if binder is not None:
            return  # the session's other keys stay
        if self.cipher is not None:
            self.sealer = Sealer(self.cipher, keys.to_server, keys.to_client, 0)

    async def connect(self, share: str) -> Reply:
        reply = await self.ask(Command.TREE_CONNECT, tree_connect(share))
        self.tree_id = reply.tree_id
        return reply

    async def start(self, share: str = "data", user: str = "alice", password: str = "secret", **options: object) -> None:
        """Everything up to a connected share."""
        assert (await self.negotiate(**options)).status == 0  # type: ignore[arg-type]
        assert (await self.logon(user, password)).status == 0
        if self.sealer is not None:
            self.sealer._session_id = self.session_id
        assert (await self.connect(share)).status == 0

    async def open(self, name: str, **options: int) -> FileId:
        reply = await self.ask(Command.CREATE, create(name, **options))  # type: ignore[arg-type]
        assert reply.status == 0, hex(reply.status)
        return file_id(reply)


def file_id(reply: Reply) -> FileId:
    """The FileId that a CREATE reply names."""
    found: FileId = struct.unpack_from("<QQ", reply.body, 64)
    return found


class Granted(NamedTuple):
    """What a CREATE reply grants besides the open."""

    level: int
    contexts: dict[bytes, bytes]

    @property
    def lease(self) -> int:
        """The lease's state."""
        state: int = struct.unpack_from("<I", self.contexts[b"RqLs"], 16)[0]
        return state


def granted(reply: Reply) -> Granted:
    at, length = struct.unpack_from("<II", reply.body, 80)
    found = contexts.decode(memoryview(reply.message)[at : at + length]) if length else {}
    return Granted(reply.body[2], found)


# Bodies of requests


def negotiate(dialect: int, signing: int = 2, cipher: int | None = 2, guid: bytes = b"guid" * 4) -> bytes:
    contexts = [(1, struct.pack("<HHH32s", 1, 32, 1, b"salt" * 8)), (8, struct.pack("<HH", 1, signing))]
    if cipher is not None:
        contexts.append((2, struct.pack("<HH", 1, cipher)))
    contexts.append((5, "test".encode("utf-16-le")))
    modern = dialect == Dialect.SMB_3_1_1
    encoded = b""
    for kind, data in contexts:
        encoded += bytes(-len(encoded) & 7) + struct.pack("<HHI", kind, len(data), 0) + data
    capabilities = 0x3F | (0x40 if cipher is not None else 0)
    head = struct.pack("<HHHHI16sIHH", 36, 1, 1, 0, capabilities, guid, 104 if modern else 0, len(contexts) if modern else 0, 0)
    return head + struct.pack("<H", dialect) + (bytes(2) + encoded if modern else b"")


def session_setup(token: bytes, previous: int = 0, flags: int = 0) -> bytes:
    return struct.pack("<HBBIIHHQ", 25, flags, 1, 0, 0, 88, len(token), previous) + token


def tree_connect(share: str) -> bytes:
    path = f"\\\\server\\{share}".encode("utf-16-le")
    return struct.pack("<HHHH", 9, 0, 72, len(path)) + path


def create(
    name: str, access: int = 0x1F01FF, disposition: int = 3, options: int = 0, share: int = 7, attributes: int = 0,
    extras: bytes = b"", level: int = 0,
) -> bytes:  # fmt: skip
    encoded = name.encode("utf-16-le", "surrogatepass")
    at = 120 + len(encoded) + (-len(encoded) & 7)
    head = struct.pack(
        "<HBBIQQIIIIIHHII", 57, 0, level, 2, 0, 0, access, attributes, share, disposition, options, 120, len(encoded),
        at if extras else 0, len(extras),
    )  # fmt: skip
    return head + (encoded + bytes(-len(encoded) & 7) + extras if extras else encoded or b"\0")


def lease(key: bytes, state: int, version: int = 2, parent: bytes = b"", epoch: int = 0) -> tuple[bytes, bytes]:
    """A create context; keys may be shorter than they will be."""
    data = struct.pack("<16sIIQ", key, state, 4 if parent else 0, 0)
    return b"RqLs", data if version == 1 else data + struct.pack("<16sHH", parent, epoch, 0)


def durable(guid: bytes, timeout: int = 0, persistent: bool = False) -> tuple[bytes, bytes]:
    return b"DH2Q", struct.pack("<II8s16s", timeout, 2 if persistent else 0, b"", guid)


def comes_back(file: FileId, guid: bytes, persistent: bool = False) -> tuple[bytes, bytes]:
    return b"DH2C", struct.pack("<QQ16sI", *file, guid, 2 if persistent else 0)


def oplock_break(file: FileId, level: int) -> bytes:
    return struct.pack("<HBBIQQ", 24, level, 0, 0, *file)


def lease_break(key: bytes, state: int) -> bytes:
    return struct.pack("<HHI16sIQ", 36, 0, 0, key, state, 0)


def close(file: FileId = NOBODY, flags: int = 0) -> bytes:
    return struct.pack("<HHIQQ", 24, flags, 0, *file)


def flush(file: FileId = NOBODY) -> bytes:
    return struct.pack("<HHIQQ", 24, 0, 0, *file)


def read(file: FileId, offset: int, length: int, minimum: int = 0) -> bytes:
    return struct.pack("<HBBIQQQIIIHHB", 49, 80, 0, length, offset, *file, minimum, 0, 0, 0, 0, 0)


def write(file: FileId, offset: int, data: bytes, flags: int = 0) -> bytes:
    return struct.pack("<HHIQQQIIHHI", 49, 112, len(data), offset, *file, 0, 0, 0, 0, flags) + data


def lock(file: FileId, *elements: tuple[int, int, int]) -> bytes:
    head = struct.pack("<HHIQQ", 48, len(elements), 0, *file)
    return head + b"".join(struct.pack("<QQII", *element, 0) for element in elements)


def ioctl(file: FileId, code: int, data: bytes = b"", room: int = 65536) -> bytes:
    return struct.pack("<HHIQQIIIIIIII", 57, 0, code, *file, 120, len(data), 0, 120, 0, room, 1, 0) + (data or b"\0")


def query_directory(file: FileId, pattern: str, kind: int = 37, flags: int = 0, room: int = 65536) -> bytes:
    encoded = pattern.encode("utf-16-le")
    return struct.pack("<HBBIQQHHI", 33, kind, flags, 0, *file, 96, len(encoded), room) + (encoded or b"\0")


def query_info(file: FileId, kind: int, number: int, room: int = 65536, parts: int = 0, data: bytes = b"") -> bytes:
    at = 104 if data else 0
    return struct.pack("<HBBIHHIIIQQ", 41, kind, number, room, at, 0, len(data), parts, 0, *file) + (data or b"\0")


def set_info(file: FileId, kind: int, number: int, data: bytes, parts: int = 0) -> bytes:
    return struct.pack("<HBBIHHIQQ", 33, kind, number, len(data), 96, 0, parts, *file) + data


def change_notify(file: FileId, room: int = 4096, what: int = 0xFF, tree: bool = False) -> bytes:
    return struct.pack("<HHIQQII", 32, tree, room, *file, what, 0)


def changes(reply: Reply) -> list[tuple[int, str]]:
    """The actions and names that a CHANGE_NOTIFY reply tells, MS-FSCC 2.7.1."""
    at, length = struct.unpack_from("<HI", reply.body, 2)
    data = reply.message[at : at + length]
    found, at = [], 0
    while data:
        following, action, size = struct.unpack_from("<III", data, at)
        found.append((action, data[at + 12 : at + 12 + size].decode("utf-16-le")))
        at += following
        if not following:
            break
    return found
