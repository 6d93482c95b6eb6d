"""Inputs for the SMB gateway: strangers' first messages, requests of logged-on clients to a real volume, and the small decoders below them."""

from __future__ import annotations

import asyncio
import atexit
import logging
import shutil
import struct
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import TypeVar

import spnego
import structlog
from spnego._context import GSSMech
from spnego._spnego import NegTokenInit, NegTokenResp

from gateways.smb import contexts, durable
from gateways.smb.auth import Logon
from gateways.smb.crypto import CipherId, Dialect, GmacSigner, Sealer
from gateways.smb.handle import Tree
from gateways.smb.header import FLAG_REPLAY, Command
from gateways.smb.info import extended
from gateways.smb.names import from_wire, parse_path, to_wire
from gateways.smb.patterns import matcher
from gateways.smb.rpc.pipe import Pipe, open_pipe
from gateways.smb.service import SmbService
from gateways.smb.status import Failure
from sofs.errors import PeerError
from tests.protocol import smb_client as smb
from tests.protocol.fuzz import Target, mutated
from tests.protocol.smb_client import NOBODY, RELATED, Client, FileId
from tests.served_smb import USERS, smb_on

T = TypeVar("T")
LAST_TOKEN = b""
FIRST_TOKEN = spnego.client("alice", "secret", hostname="h", service="cifs", protocol="ntlm").step() or b""
KEY = bytes(range(16))
KEYS = [bytes([number]) * 16 for number in range(4)]
PATHS = ["", "a", "b", "k", "l", "A", "d", "d\\a", "d\\e", "a:s", "a::$DATA", "d:s", "x" * 300, "a\\b", "..", "a*", "\ud800", "f\uf021", "d\\e\\f\\g"]
PATTERNS = ["*", "a", "*.*", "<", 'a"', "??>", "", "x" * 300, "."]
EDGES = (0, 1, 2, 4095, 4096, 65535, 65536, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
INFORMATION = (1, 3, 4, 5, 6, 7, 8, 11, 14, 15, 16, 17, 18, 21, 22, 23, 24, 28, 34, 35, 48, 59, 70)
CONTROLS = (
    0x00140204, 0x0011C017, 0x00140078, 0x001440F2, 0x001480F2, 0x00098344, 0x000983E8, 0x000900C4, 0x000980C8, 0x000940CF, 0x0009003C,
    0x0009C040, 0x0009027C, 0x00098208, 0x00094264, 0x00098268, 0x000900A8, 0x000900A4, 0x000900AC, 0x000900C0, 0x00060194, 0x001401FC,
)  # fmt: skip


class Bench:
    """The server that all inputs go to; made with the first."""

    instance: Bench | None = None

    def __init__(self) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.stack = AsyncExitStack()
        served = self.loop.run_until_complete(self.stack.enter_async_context(smb_on(self.directory / "v")))
        self.service: SmbService = served.gateway.service
        self.client: Client | None = None
        self.files: list[FileId] = []
        self.left: list[FileId] = []
        """Opens of clients that have gone, some of which may be come back to."""
        atexit.register(self.close)

    @classmethod
    def get(cls) -> Bench:
        if cls.instance is None:
            cls.instance = cls()
        return cls.instance

    def close(self) -> None:
        self.loop.run_until_complete(self.stack.aclose())
        shutil.rmtree(self.directory)

    def run(self, call: Callable[..., T], *arguments: object) -> T:
        """The result of a function that wants a running loop."""

        async def inside() -> T:
            return call(*arguments)

        return self.loop.run_until_complete(inside())

    def known(self, chance: Random) -> Client:
        """A client that has logged on; without the exchange of tokens, which would take most of the time."""
        if self.client is None or self.client.link.closed_for or chance.random() < 0.01:
            if self.client is not None:
                self.client.core.closed("another client")
                self.left = [*self.left, *self.files][-50:]
            self.client = _logged_on(self.service, chance)
            self.files = [NOBODY, *(file for file in map(self._open, ("a", "d", "a:s", "srvsvc")) if file is not None)]
        return self.client

    def _open(self, name: str) -> FileId | None:
        """An open of the new client, unless another's is in the way."""
        assert self.client is not None
        self.client.tree_id = 4 if name == "srvsvc" else 1
        self.client.request(Command.CREATE, smb.create(name, options=1 if name == "d" else 0))
        return next((smb.file_id(reply) for reply in self.client.replies() if not reply.status), None)

    async def settle(self, client: Client) -> None:
        """Until everything that does not wait for others is answered; what does is cancelled."""
        for number in [key for key in client.core.in_progress if key >= 0]:
            client.cancel(number)
        async with asyncio.timeout(15):
            while client.core.busy:  # noqa: ASYNC110
                await asyncio.sleep(0)
        for reply in client.replies():
            if reply.command == Command.CREATE and not reply.status:
                self.files.append(smb.file_id(reply))
                del self.files[5:-12]


def _logged_on(service: SmbService, chance: Random) -> Client:
    client = Client(service)
    core = client.core
    core.dialect, core.cipher, core.authenticated = chance.choice(list(Dialect)[1:]), CipherId.AES_128_GCM, True
    core.client_capabilities, core.client_guid = 0x7F, chance.choice((b"one", b"two")).ljust(16)
    service.leases.came(core)
    channel = service.new_session(core)
    assert channel is not None
    session = channel.session
    session.dialect, session.cipher = core.dialect, core.cipher
    session.ready, session.signing, session.signer = True, True, GmacSigner(KEY)
    channel.ready, channel.signer = True, session.signer
    session.caller = service.identities.caller(USERS[0])
    session.sealer = Sealer(CipherId.AES_128_GCM, KEY, KEY, session.number)
    for number, name in enumerate(("data", "fixed", "safe"), 1):
        share = service.shares.named(name)
        assert share is not None
        session.trees[number] = Tree(number, session, share, service.shares.volume(share))
    session.trees[4] = Tree(4, session, None, None)
    session.next_tree = 5
    client.signer, client.sealer = GmacSigner(KEY), Sealer(CipherId.AES_128_GCM, KEY, KEY, session.number)
    client.session_id, client.tree_id = session.number, 1
    core.window._high = 1 << 40  # credits are another test's matter
    return client


# Requests


def _contexts(asked: list[tuple[bytes, bytes]]) -> bytes:
    """Create contexts whose names may have another length than four bytes."""
    parts = []
    for place, (name, data) in enumerate(asked):
        body = name + bytes(-len(name) & 7) + data
        rest = bytes(-len(body) & 7) if place < len(asked) - 1 else b""
        following = 16 + len(body) + len(rest) if place < len(asked) - 1 else 0
        at = 16 + len(name) + (-len(name) & 7) if data else 0
        parts.append(struct.pack("<IHHHHI", following, 16, len(name), 0, at, len(data)) + body + rest)
    return b"".join(parts)


def _control(chance: Random, file: FileId) -> bytes:
    """The input of some control."""
    link = "a\\b".encode("utf-16-le")
    inputs = (
        struct.pack("<QQQQQ", *chance.choice(((0, 4096, 0, 0, 0), (*file, 0, 0, 4096), (40, *file, 0, 4096)))),
        struct.pack("<IHHHHHHI", 0xA000000C, 12 + 2 * len(link), 0, 0, len(link), len(link), len(link), 1) + link * 2,
        struct.pack("<IHHQII", 0x80000014, 16, 0, chance.choice((0x4F464946, 0x524843, 0x14B4E4C)), 1, 1),
        struct.pack("<IHH", chance.choice((0xA000000C, 0x80000014, 0x80000099)), 0, 0),
        struct.pack("<IIIIQQ", 32, 0, 0, 0, chance.choice(EDGES) & ~511, 4096),
        struct.pack("<IIQQQ", 544, 0, 0, 4096, 0) + struct.pack(">IHH", chance.choice((0x736F6673, 0xFFFF0001)), 0, 504) + chance.randbytes(504),
        struct.pack("<IIQQ", 0, 1, chance.choice(EDGES), chance.choice(EDGES)),
    )
    return chance.choice(inputs)


def _information(chance: Random) -> tuple[int, int, bytes]:
    name = chance.choice(PATHS).encode("utf-16-le", "surrogatepass")
    number = chance.choice(EDGES)
    choices: list[tuple[int, int, bytes]] = [
        (1, 4, struct.pack("<QQQQII", *(chance.choice(EDGES) for _ in range(4)), chance.getrandbits(32), 0)),
        (1, 10, struct.pack("<B7xQI", chance.getrandbits(1), 0, len(name)) + name),
        (1, 11, struct.pack("<B7xQI", chance.getrandbits(1), 0, len(name)) + name),
        (1, 65, struct.pack("<I4xQI", chance.getrandbits(2), 0, len(name)) + name),
        (1, 13, bytes([chance.getrandbits(1)])),
        (1, 64, struct.pack("<I", chance.getrandbits(4))),
        (1, 14, struct.pack("<Q", number)),
        (1, 16, struct.pack("<I", chance.getrandbits(8))),
        (1, 19, struct.pack("<Q", min(number, 1 << 20) if chance.random() < 0.9 else number)),
        (1, 20, struct.pack("<Q", number)),
        (1, 39, struct.pack("<Q", number)),
        (1, 15, extended.encode([(b"A", b"x"), (b"LONG", bytes(50))], 1000)[0]),
        (3, 0, bytes.fromhex("010004801400000000000000000000002400000001020000000000160100000001000000020008000000000000")),
    ]
    return chance.choice(choices)


def _lasting(chance: Random) -> list[tuple[bytes, bytes]]:
    """Contexts of leases and durable opens: granted, refused, malformed, and such as do not go together."""
    bench = Bench.get()
    key, guid = chance.choice(KEYS), chance.choice(KEYS)
    file = chance.choice(bench.left or [NOBODY]) if chance.random() < 0.7 else chance.choice(bench.files)
    choices = (
        smb.lease(key, chance.getrandbits(4), chance.choice((1, 2, 2)), chance.choice((b"", *KEYS)), chance.getrandbits(16)),
        (b"DHnQ", bytes(16)),
        (b"DHnC", struct.pack("<QQ", *file)),
        smb.durable(guid, chance.choice((0, 1, 1000, 0xFFFFFFFF)), chance.random() < 0.5),
        smb.comes_back(file, guid, chance.random() < 0.5),
        (durable.APP_INSTANCE, struct.pack("<HH16s", 20, 0, key)),
    )
    return [(name, mutated(data, chance) if chance.random() < 0.1 else data) for name, data in chance.sample(choices, chance.choice((1, 1, 2, 2, 3)))]


def _kept(chance: Random) -> bytes:
    """A CREATE that is likely to be granted a lease or oplock and to outlive its connection, or to come back to one that did."""
    bench = Bench.get()
    oplock, version = chance.random() < 0.3, chance.choice((1, 2, 2))
    asked = [] if oplock else [smb.lease(KEYS[1], 7, version, chance.choice((b"", KEYS[2])))]
    match chance.randrange(5):
        case 0 if bench.left:
            file = chance.choice(bench.left)
            asked.append(smb.comes_back(file, KEYS[3], chance.random() < 0.3) if chance.random() < 0.7 else (b"DHnC", struct.pack("<QQ", *file)))
        case 1:
            asked.append((b"DHnQ", bytes(16)))
        case 2 | 3:
            asked.append(smb.durable(KEYS[3] if chance.random() < 0.7 else chance.randbytes(16), 60_000, chance.random() < 0.3))
            if chance.random() < 0.3:
                asked.append((durable.APP_INSTANCE, struct.pack("<HH16s", 20, 0, KEYS[2])))
    name = "k" if version == 2 else "l"
    return smb.create(name, level=chance.choice((9, 9, 8, 1)) if oplock else 0xFF, extras=_contexts(asked))


def _body(command: int, chance: Random, file: FileId) -> bytes:
    offset = chance.choice((0, 1, 4096, chance.choice(EDGES)))
    match command:
        case Command.CREATE if chance.random() < 0.3:
            return _kept(chance)
        case Command.CREATE:
            asked = [(b"MxAc", b""), (b"QFid", b""), (b"AlSi", bytes(8)), (b"ExtA", b"")][: chance.randrange(5)]
            extra = _contexts([*asked, *(_lasting(chance) if chance.random() < 0.5 else [])])
            return smb.create(
                chance.choice(PATHS), access=chance.choice((0x1F01FF, 0x2000000, 0x80000000, 1, chance.getrandbits(32))),
                disposition=chance.randrange(7), options=chance.choice((0, 1, 0x40, 0x1000, 0x200000, chance.getrandbits(24))),
                share=chance.randrange(9), attributes=chance.choice((0, 0x80, 0x20, chance.getrandbits(16))), extras=extra,
                level=chance.choice((0, 0, 1, 8, 9, 0xFF, 0xFF, 0xFF, chance.getrandbits(8))),
            )  # fmt: skip
        case Command.CLOSE:
            return smb.close(file, chance.getrandbits(1))
        case Command.FLUSH:
            return smb.flush(file)
        case Command.READ:
            return smb.read(file, offset, chance.choice((0, 1, 4096, 65536, 70000)), chance.choice((0, 0, 1)))
        case Command.WRITE:
            return smb.write(file, min(offset, 1 << 22) if chance.random() < 0.9 else offset, chance.randbytes(chance.choice((0, 1, 4096))))
        case Command.LOCK:
            elements = [(offset, chance.choice(EDGES), chance.choice((1, 2, 4, 0x11, 0x12))) for _ in range(chance.randrange(1, 4))]
            return smb.lock(file, *elements)
        case Command.IOCTL:
            return smb.ioctl(file, chance.choice(CONTROLS), _control(chance, file), chance.choice((0, 12, 32, 65536)))
        case Command.QUERY_DIRECTORY:
            kind = chance.choice((1, 2, 3, 12, 37, 38, 60, 63, 99))
            return smb.query_directory(file, chance.choice(PATTERNS), kind, chance.getrandbits(5), chance.choice((0, 200, 65536)))
        case Command.QUERY_INFO:
            data = chance.choice((b"", struct.pack("<IB2sx", 0, 2, b"EA")))
            kind = chance.choice((1, 1, 2, 3, 4))
            return smb.query_info(file, kind, chance.choice(INFORMATION), chance.choice((0, 40, 120, 65536)), chance.getrandbits(5), data)
        case Command.SET_INFO:
            kind, number, data = _information(chance)
            return smb.set_info(file, kind, number, data, chance.getrandbits(3))
        case Command.TREE_CONNECT:
            return smb.tree_connect(chance.choice(("data", "IPC$", "none", "sealed")))
        case Command.CHANGE_NOTIFY:
            what = chance.choice((0, 3, 0xFFF, chance.getrandbits(32)))
            return smb.change_notify(file, chance.choice((0, 1, 100, 4096, 1 << 20)), what, chance.random() < 0.5)
        case Command.OPLOCK_BREAK:
            if chance.random() < 0.5:
                return smb.lease_break(chance.choice(KEYS), chance.getrandbits(3))
            return smb.oplock_break(file, chance.choice((0, 1, 8, 9, 0xFF)))
        case _:
            return b"\x04\0\0\0"


COMMANDS = [*range(4, 12), 13, 14, 15, 16, 17, 18, 3, 5, 5, 8, 9, 11, 14, 16, 17, 17, 19]


def requests(chance: Random) -> None:
    """One request or compound of a logged-on client; every reply must be well formed and rightly signed."""
    bench = Bench.get()
    client = bench.run(bench.known, chance)
    client.tree_id = chance.choice((1, 1, 1, 1, 2, 3, 4, 9))
    client.sealed = chance.random() < 0.05
    parts = []
    for place in range(chance.choice((1, 1, 1, 1, 2, 3))):
        command = chance.choice(COMMANDS)
        file = chance.choice(bench.files)
        body = mutated(_body(command, chance, file), chance) if chance.random() < 0.4 else _body(command, chance, file)
        replay = FLAG_REPLAY if chance.random() < 0.1 else 0
        parts.append((command, body, replay | (RELATED if place and chance.random() < 0.5 else 0)))
    if chance.random() < 0.05:
        client.sequence = chance.choice((0, 1, 0x7FFF, 0x8000, 0xFFFF))

    async def give() -> None:
        try:
            if len(parts) == 1:
                client.request(*parts[0])
            else:
                client.compound(parts)
        except PeerError as error:
            client.link.close(str(error))
        await bench.settle(client)

    bench.loop.run_until_complete(give())
    assert "bug" not in client.link.closed_for


def strangers(chance: Random) -> None:
    """Whole messages before any logon."""
    bench = Bench.get()
    client = bench.run(Client, bench.service)
    first = client.header(Command.NEGOTIATE, 0) + smb.negotiate(chance.choice((0x300, 0x302, 0x311, 0x210, 0x202)), 2, 2)
    if chance.random() < 0.3:  # binds a session that there is
        client.session_id = bench.run(bench.known, chance).session_id
    logon = client.header(Command.SESSION_SETUP, 1) + smb.session_setup(FIRST_TOKEN, flags=1 if client.session_id else 0)
    names = b"\x02NT LM 0.12\0" + chance.choice((b"\x02SMB 2.???\0", b"\x02SMB 2.002\0"))
    smb1 = b"\xffSMB\x72" + bytes(27) + b"\0" + struct.pack("<H", len(names)) + names
    sealed = b"\xfdSMB" + bytes(48) + first

    async def give() -> None:
        try:
            for message in chance.choice(((first, logon), (first, logon, logon), (smb1, first), (sealed,), (logon,), (first, first))):
                client.deliver(mutated(message, chance))
        except PeerError:
            pass

    bench.loop.run_until_complete(give())
    bench.run(client.core.closed, "done")
    assert "bug" not in client.link.closed_for


# The small ones


def _last_token() -> bytes:
    """The AUTHENTICATE message of some logon. It never proves anything to a later one, whose challenge is another."""
    client = spnego.client("alice", "secret", hostname="h", service="cifs", protocol="ntlm")
    token = client.step(Logon(Bench.get().service.identities, "sofs").step(client.step() or b""))
    assert token
    return token


def logons(chance: Random) -> None:
    """Tokens, bare and within SPNEGO: whatever comes, a logon fails with a status or goes on, and none succeeds."""
    global LAST_TOKEN  # noqa: PLW0603
    LAST_TOKEN = LAST_TOKEN or _last_token()
    logon = Logon(Bench.get().service.identities, "sofs")
    wrapped = chance.random() < 0.5
    first = NegTokenInit([GSSMech.ntlm.value], mech_token=FIRST_TOKEN).pack() if wrapped else FIRST_TOKEN
    last = NegTokenResp(response_token=LAST_TOKEN).pack() if wrapped else LAST_TOKEN
    try:
        logon.step(first if chance.random() < 0.5 else mutated(first, chance))
        logon.step(mutated(last, chance))
    except Failure:
        pass
    assert logon.principal is None or logon.principal.anonymous


def parts(chance: Random) -> None:
    """Create contexts, extended attributes, paths and patterns."""
    good = contexts.encode([(b"MxAc", b"12345678"), (b"SecD", bytes(20)), (b"none", b"")])
    attributes, _ = extended.encode([(b"USER", b"value"), (b"B", b"")], 1000)
    checks: list[Callable[[], object]] = [
        lambda: contexts.decode(memoryview(mutated(good, chance))),
        lambda: extended.decode(memoryview(mutated(attributes, chance))),
        lambda: extended.decode_names(memoryview(mutated(struct.pack("<IB2sx", 8, 2, b"EA") * 2, chance))),
        lambda: parse_path(mutated(chance.choice(PATHS).encode("utf-16-le", "surrogatepass"), chance).decode("utf-16-le", "replace")),
        lambda: matcher("".join(chance.choice('ab.*?<>"') for _ in range(chance.randrange(30))))("ab.ba.a" * chance.randrange(1, 30)),
    ]
    try:
        chance.choice(checks)()
    except Failure:
        pass
    name = chance.randbytes(chance.randrange(1, 20)).replace(b"/", b"a").replace(b"\0", b"b")
    if name not in (b".", b".."):
        assert from_wire(to_wire(name)) == name


BIND = struct.pack("<BBBB4sHHI", 5, 0, 11, 3, b"\x10\0\0\0", 72, 0, 1) + struct.pack("<HHIBxxx", 4280, 4280, 0, 1)
SRVSVC = bytes.fromhex("c84f324b7016d30112785a47bf6ee188")
NDR = bytes.fromhex("045d888aeb1cc9119fe808002b10486002000000")


def pipes(chance: Random) -> None:
    """RPC fragments to srvsvc: answered, or the pipe breaks."""
    bench = Bench.get()
    client = bench.run(bench.known, chance)
    pipe: Pipe = open_pipe(bench.service, client.core.channels[client.session_id].session, "srvsvc")
    bind = BIND + struct.pack("<HBx16sI", 0, 1, SRVSVC, 3) + NDR
    server = struct.pack("<IIII", 0x20000, 4, 0, 4) + "\\\\s\0".encode("utf-16-le")
    stubs = {
        15: server + struct.pack("<IIIIIII", 1, 1, 0x20004, 0, 0, 0xFFFFFFFF, 0),
        16: server + server[4:] + struct.pack("<I", 1),
        21: server + struct.pack("<I", 101),
        28: server,
    }
    operation = chance.choice((15, 16, 21, 28, 99))
    stub = mutated(stubs.get(operation, b""), chance)
    call = struct.pack("<BBBB4sHHI", 5, 0, 0, 3, b"\x10\0\0\0", 24 + len(stub), 0, 2) + struct.pack("<IHH", len(stub), 0, operation) + stub
    try:
        pipe.write(memoryview(bind if chance.random() < 0.9 else mutated(bind, chance)))
        pipe.write(memoryview(call if chance.random() < 0.6 else mutated(call, chance)))
        for _ in range(20):
            pipe.read(65536)
    except Failure:
        pass


_SMB = "gateways.smb."
TARGETS = (
    Target("smb requests", requests, tuple(_SMB + name for name in (
        "connection", "exchange", "admission", "contexts", "leases", "durable", "commands.create", "commands.reopen", "commands.oplock_break",
        "commands.ioctl", "commands.query_info", "commands.set_info", "commands.query_directory", "commands.lock", "commands.change_notify",
        "control.reparse", "control.offload", "control.sparse",
    ))),
    Target("smb strangers", strangers, (_SMB + "commands.negotiate", _SMB + "commands.session_setup", _SMB + "credits")),
    Target("smb logons", logons, (_SMB + "auth",)),
    Target("smb parts", parts, (_SMB + "contexts", _SMB + "info.extended", _SMB + "names", _SMB + "patterns")),
    Target("smb pipes", pipes, (_SMB + "rpc.pdu", _SMB + "rpc.pipe", _SMB + "rpc.srvsvc")),
)  # fmt: skip
