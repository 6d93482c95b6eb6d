"""Whole COMPOUNDs of NFSv4.1 and 4.2 at a gateway with a real volume under it: random operations with real and wrong handles, names, stateids and
attributes, some of their bytes changed. Every COMPOUND that is accepted must be answered with results of their types, as the tests' own XDR has them.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import structlog

from gateways.nfs.v4.table import OPERATIONS
from gateways.nfs.xdr import encode
from tests.protocol import nfs4_ops as op
from tests.protocol.fuzz import Target, mutated
from tests.protocol.fuzz_nfs import sample
from tests.protocol.fuzzed_server import FuzzedServer
from tests.protocol.nfs4_client import NFS, Result, compound_bytes, read_result, read_results
from tests.protocol.nfs4_xdr import ANONYMOUS, ATTRIBUTES, BYPASS, CURRENT, Ace, Op, Stateid, words
from tests.unit.gateways.nfs_link import call_bytes, sys_credential

NAMES = [b"a", b"b", b"c", b"d", b"A", b"data", b"\xff\xfe", b"", b".", b"..", b"x" * 300, b"a/b", b"n\0l"]
NUMBERS = [0, 1, 4095, 4096, 4097, 1 << 20, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
LENGTHS = [0, 1, 5000, 65536, (1 << 64) - 1]
WHO = [b"OWNER@", b"GROUP@", b"EVERYONE@", b"0", b"1000", b"S-1-5-32-544", b"nobody@x", b"somebody@x", b""]
SLOTS = 8


class Bench(FuzzedServer):
    """The server that all inputs go to, and the client that they come from, as long as it gets on with the server."""

    def __init__(self) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR), processors=[_bugs_are_raised])
        super().__init__()
        self.stateids: list[Stateid] = [ANONYMOUS, BYPASS, CURRENT]
        self.clientid = 0
        self.session = bytes(16)
        self.sequences = [0] * SLOTS
        self._starts = 0

    async def begin(self) -> None:
        """The client has restarted (RFC 8881 18.35.4, case 5), and has a new session; what it had before ends."""
        self._starts += 1
        (exchanged,) = await self.give([[op.exchange_id(b"fuzz", self._starts.to_bytes(8))]])
        assert exchanged is not None and exchanged.status == 0, exchanged
        self.clientid = exchanged.last.clientid
        fore = op.ChannelAttributes(max_requests=SLOTS)
        (created,) = await self.give([[op.create_session(self.clientid, exchanged.last.sequence, 0, fore)]])
        assert created is not None and created.status == 0, created
        self.session, self.sequences = created.last.session, [0] * SLOTS
        way = [self.next_sequence(0, False), op.reclaim_complete(), op.putrootfh(), op.getfh(), op.lookup("data"), op.getfh()]
        await self.give([way])
        del self.stateids[3:]

    def next_sequence(self, slot: int, cache: bool) -> Op:
        self.sequences[slot] += 1
        return op.sequence(self.session, self.sequences[slot], slot, SLOTS - 1, cache)

    async def give(
        self, compounds: list[list[Op]], uid: int = 0, minor: int = 2, change: Callable[[bytes], bytes] | None = None
    ) -> list[Result | None]:
        """COMPOUNDs on one connection, until all are answered. Gives their results; None for one that was refused or is unreadable."""
        records: list[bytes] = []
        for xid, operations in enumerate(compounds):
            arguments = compound_bytes(operations, minor)
            records.append(call_bytes(NFS, 4, 1, change(arguments) if change else arguments, xid=xid, auth=sys_credential(uid, uid)))
        results: list[Result | None] = [None] * len(compounds)
        for reply in await self.answered(records):
            xid, kind, denied, accepted = struct.unpack_from(">3I8xI", reply)
            if kind == 0 or denied or accepted:
                continue
            results[xid] = self._read(reply[24:], compounds[xid], change is not None)
        return results

    def _read(self, results: bytes, asked: list[Op], changed: bool) -> Result | None:
        """The reply, which must be well-formed. If the bytes asked were changed, the operations are those that the reply names."""
        if changed:
            result = read_results(results, lambda place, number: PROTOTYPES.get(number, Op(number, b"")))
        else:
            result = read_result(results, asked)
        for number, status, value in result.operations:
            if status == 0:
                self._learn(number, value)
        return result

    def _learn(self, number: int, value: Any) -> None:
        if number == 10:
            self.remember(value)
        state = value.stateid if number == 18 else value if isinstance(value, Stateid) else None
        if state is not None:
            self.stateids.append(state)
            if len(self.stateids) > 100:
                del self.stateids[3]


def _bugs_are_raised(logger: Any, method: str, event: Any) -> Any:
    """A handler's bug is logged, and its client told SERVERFAULT: here it counts as the crash that it is."""
    raise AssertionError(event)


# Operations with arguments that mean something


class Maker:
    """Makes operations from chance."""

    def __init__(self, bench: Bench, chance: Random) -> None:
        self.bench = bench
        self.chance = chance

    @property
    def name(self) -> bytes:
        return self.chance.choice(NAMES)

    @property
    def state(self) -> Stateid:
        state = CURRENT if self.chance.random() < 0.4 else self.chance.choice(self.bench.stateids)
        if self.chance.random() < 0.1:
            state = state._replace(sequence=self.chance.choice((0, 1, 2, state.sequence + 1 & 0xFFFFFFFF, 0xFFFFFFFF)))
        return state

    @property
    def at(self) -> int:
        return self.chance.choice(NUMBERS)

    @property
    def length(self) -> int:
        return self.chance.choice(LENGTHS)

    @property
    def short(self) -> int:
        return self.chance.choice((0, 1, 300, 65536, 1 << 20, 0xFFFFFFFF))

    def names(self) -> list[int]:
        numbers = [number for number, _ in ATTRIBUTES.values()] + [24, 38, 80, 127]
        return self.chance.sample(numbers, self.chance.randrange(len(numbers)))

    def values(self) -> dict[str, Any]:
        chance = self.chance
        ace = Ace(chance.choice((0, 0, 1, 2, 9)), chance.randrange(256), chance.getrandbits(21), chance.choice(WHO))
        moment = chance.choice((None, (0, 0), (1 << 40, 5), (-(1 << 62), 999_999_999), (5, 1_000_000_000)))
        possible: dict[str, Any] = {
            "size": chance.choice((0, 1, 5000, 1 << 30, 1 << 63)), "acl": [ace] * chance.randrange(3), "archive": chance.randrange(2),
            "hidden": chance.randrange(2), "mode": chance.choice((0, 0o644, 0o777, 0o4755, 0o10000)), "owner": chance.choice(WHO),
            "owner_group": chance.choice(WHO), "system": chance.randrange(3), "time_access_set": moment, "time_create": moment or (0, 0),
            "time_modify_set": moment, "dacl": (chance.randrange(8), [ace]), "mode_set_masked": (chance.randrange(0o1000), 0o777),
        }  # fmt: skip
        return {name: possible[name] for name in chance.sample(sorted(possible), chance.choice((0, 1, 1, 2, 3)))}

    def read_numbers(self) -> Op:
        return op.getattr_numbers(self.names())

    def listing(self) -> Op:
        asked = op.readdir(0, maxcount=self.chance.choice((0, 30, 500, 65536, 0xFFFFFFFF)))
        return asked._replace(arguments=self.chance.choice((0, 0, 1, 5, 1 << 63)).to_bytes(8) + asked.arguments[8:24] + words(self.names()))

    def opening(self) -> Op:
        chance = self.chance
        how = chance.choice(("open", "open", "unchecked", "unchecked", "guarded", "exclusive", "exclusive_41"))
        claims = (None, None, None, op.CLAIM_FH, op.claim_previous(chance.randrange(4)), chance.randrange(9).to_bytes(4))
        share = chance.choice((1, 2, 3, 3, 0, 0x103, 0x203, 0xFF03, 0x401))
        return op.open_(
            self.name, share, chance.choice((0, 0, 0, 1, 2, 3, 4)), owner=chance.choice((b"o", b"p", b"")), clientid=self.bench.clientid,
            how=how, claim=chance.choice(claims), values=self.values() if how in ("unchecked", "guarded", "exclusive_41") else None,
        )  # fmt: skip

    def locking(self) -> Op:
        owner = self.chance.choice((None, None, b"l", b"m"))
        return op.lock(self.chance.randrange(6), self.at, self.length, self.state, owner, self.chance.random() < 0.1)

    def sampled(self) -> Op:
        """Any operation of the table, with arguments of its type and no meaning."""
        number = self.chance.choice([number for number in OPERATIONS if number not in _NOT_SAMPLED])
        arguments = OPERATIONS[number].arguments
        prototype = PROTOTYPES.get(number, Op(number, b""))
        data = encode(sample(arguments, self.chance)) if isinstance(arguments, type) else self.chance.randbytes(4 * self.chance.randrange(12))
        return prototype._replace(arguments=data)

    def start(self) -> list[Op]:
        """Most COMPOUNDs begin where something can be done."""
        chance, way = self.chance, [op.putfh(self.chance.choice(self.bench.handles)), op.savefh()]
        if chance.random() < 0.2:
            return []
        if chance.random() < 0.4:
            return [*way, op.putfh(chance.choice(self.bench.handles))]
        root = self.bench.handles[min(2, len(self.bench.handles) - 1)]
        name = chance.choice(NAMES[:5])
        return [*way, op.putfh(root), op.open_(name, op.BOTH, owner=b"o", clientid=self.bench.clientid, how="unchecked"), op.getfh()]

    def one(self) -> Op:
        chance = self.chance
        if chance.random() < 0.08:
            return self.sampled()
        if chance.random() < 0.01:
            return Op(chance.choice((0, 2, 76, 127, 10044, 0xFFFFFFFF)), b"")
        return chance.choice(_MAKERS)(self)


_NOT_SAMPLED = {42, 43, 44, 53, 57}
"""EXCHANGE_ID, CREATE_SESSION, DESTROY_SESSION, SEQUENCE and DESTROY_CLIENTID would only be in the wrong place, or end the fun."""

_MAKERS: tuple[Callable[[Maker], Op], ...] = (
    lambda m: op.putfh(m.chance.choice(m.bench.handles)),
    lambda m: op.putfh(m.chance.choice(m.bench.handles)),
    lambda m: op.putfh(m.chance.choice(m.bench.handles)),
    lambda m: op.putrootfh(),
    lambda m: op.getfh(),
    lambda m: op.getfh(),
    lambda m: op.savefh(),
    lambda m: op.savefh(),
    lambda m: op.restorefh(),
    lambda m: op.lookup(m.name),
    lambda m: op.lookup(m.name),
    lambda m: op.lookupp(),
    Maker.read_numbers,
    lambda m: op.setattr_(m.state, **m.values()),
    lambda m: op.setattr_(m.state, **m.values()),
    lambda m: op.verify(**m.values()),
    lambda m: op.nverify(size=m.at, mode=0o644),
    lambda m: op.access(m.chance.getrandbits(32)),
    Maker.listing,
    Maker.listing,
    lambda m: op.readlink(),
    lambda m: op.create(m.chance.randrange(9), m.name, target=m.name, device=(1, 2), **m.values()),
    lambda m: op.create(2, m.name),
    lambda m: op.link(m.name),
    lambda m: op.remove(m.name),
    lambda m: op.rename(m.name, m.name),
    lambda m: op.read(m.state, m.at, m.short),
    lambda m: op.read(m.state, 0, 5000),
    lambda m: op.write(m.state, m.at, m.chance.randbytes(m.chance.choice((0, 3, 5000))), m.chance.randrange(3)),
    lambda m: op.write(m.state, 0, bytes(5000), m.chance.randrange(4)),
    lambda m: op.commit(m.at, m.short),
    lambda m: op.seek(m.state, m.at, m.chance.randrange(3)),
    lambda m: op.allocate(m.state, m.at, m.length),
    lambda m: op.deallocate(m.state, m.at, m.length),
    lambda m: op.copy(m.state, m.state, m.at, m.at, m.length, m.chance.choice((0, 0, 0, 1))),
    lambda m: op.clone(m.state, m.state, m.at, m.at, m.length),
    lambda m: op.read_plus(m.state, m.at, m.short),
    lambda m: op.io_advise(m.state, m.at, m.length, m.names()),
    lambda m: op.offload_status(m.state),
    lambda m: op.getxattr(m.name.decode("latin-1")),
    lambda m: op.setxattr(m.name.decode("latin-1"), m.chance.randbytes(m.chance.choice((0, 3, 5000))), m.chance.randrange(4)),
    lambda m: op.listxattrs(m.chance.choice((0, 0, 1, 5, 1 << 63)), m.short),
    lambda m: op.removexattr(m.name.decode("latin-1")),
    Maker.opening,
    Maker.opening,
    Maker.opening,
    lambda m: op.close(m.state),
    lambda m: op.close(m.state),
    lambda m: op.open_downgrade(m.state, m.chance.randrange(5), m.chance.randrange(5)),
    Maker.locking,
    Maker.locking,
    lambda m: op.lockt(m.chance.randrange(6), m.at, m.length, b"l"),
    lambda m: op.locku(m.chance.randrange(6), m.at, m.length, m.state),
    lambda m: op.delegreturn(m.state),
    lambda m: op.test_stateid(*(m.state for _ in range(m.chance.randrange(4)))),
    lambda m: op.free_stateid(m.state),
    lambda m: op.reclaim_complete(m.chance.random() < 0.5),
    lambda m: op.secinfo(m.name),
    lambda m: op.secinfo_no_name(m.chance.randrange(3)),
)


class _Nowhere:
    """In place of a bench, for operations that are never sent."""

    handles = (b"",)
    stateids = (ANONYMOUS,)
    clientid = 0


_nowhere = Maker(_Nowhere(), Random(1))  # type: ignore[arg-type]
PROTOTYPES = {made.number: made for made in (make(_nowhere) for make in _MAKERS)} | {
    made.number: made
    for made in (
        op.sequence(bytes(16), 0, 0, 0, False), op.exchange_id(b"", bytes(8)), op.create_session(0, 0), op.bind_conn_to_session(bytes(16)),
        op.offload_cancel(ANONYMOUS), op.putpubfh(),
    )
}  # fmt: skip
"""One operation of each number, which knows how its results are read."""

SEQUENCE_END = 12 + 4 + 32
"""Bytes of a COMPOUND up to and with its SEQUENCE."""


def compounds(chance: Random) -> None:
    """A few COMPOUNDs at once, over different slots of one session."""
    bench = Bench.get()
    bench.loop.run_until_complete(_compounds(bench, chance))


async def _compounds(bench: Bench, chance: Random) -> None:
    maker = Maker(bench, chance)
    if not bench.clientid or chance.random() < 0.002:
        await bench.begin()
    made = []
    for slot in chance.sample(range(SLOTS), chance.choice((1, 1, 2, 4))):
        if chance.random() < 0.01:
            bench.sequences[slot] += chance.choice((-1, 1))
        operations = maker.start() + [maker.one() for _ in range(chance.choice((1, 2, 3, 8)))]
        made.append([bench.next_sequence(slot, chance.random() < 0.3), *operations])

    def change(data: bytes) -> bytes:
        kept = 0 if chance.random() < 0.05 else SEQUENCE_END
        return data[:kept] + mutated(data[kept:], chance)

    changed = chance.random() < 0.3
    results = await bench.give(made, chance.choice((0, 0, 1)), chance.choices((1, 2, 3), (20, 79, 1))[0], change if changed else None)
    if any(result is None or not result.operations or result.operations[0][1] for result in results):
        await bench.begin()  # the slots are no longer where the client believes them


def clients(chance: Random) -> None:
    """What stands outside sessions: EXCHANGE_ID, CREATE_SESSION, BIND_CONN_TO_SESSION and the ends of both."""
    bench = Bench.get()
    owner = chance.choice((b"x", b"y", b""))
    operations = chance.choice(
        (
            op.exchange_id(owner, chance.choice((bytes(8), b"verifier")), chance.choice((0, 1, 0x40000000, chance.getrandbits(32)))),
            op.create_session(chance.choice((bench.clientid, 0, 1)), chance.randrange(4), chance.randrange(8)),
            op.bind_conn_to_session(chance.choice((bench.session, bytes(16))), chance.randrange(5)),
            op.destroy_session(chance.choice((bytes(16), b"x" * 16))),
            op.destroy_clientid(chance.choice((0, 1, chance.getrandbits(64)))),
            op.sequence(bench.session, chance.choice((0, 1, 0xFFFFFFFF)), chance.choice((0, 7, 8, 0xFFFFFFFF)), 0, True),
            op.getfh(),
        )
    )
    tail = [op.putrootfh()] if chance.random() < 0.2 else []
    change = (lambda data: mutated(data, chance)) if chance.random() < 0.5 else None
    bench.loop.run_until_complete(bench.give([[operations, *tail]], 0, chance.choice((1, 2)), change))


_MODULES = (
    "acls", "attributes", "copying", "data", "directories", "facts", "filehandles", "metadata", "names", "owners", "settable", "sparse", "xattrs",
    "compound", "exchange", "locking", "opening", "program", "security", "sessions", "slots", "stateids", "states", "table",
)  # fmt: skip
TARGETS = (
    Target("nfs4", compounds, tuple(f"gateways.nfs.v4.{module}" for module in _MODULES)),
    Target("nfs4-clients", clients, tuple(f"gateways.nfs.v4.{module}" for module in ("exchange", "sessions", "program", "clients"))),
)
