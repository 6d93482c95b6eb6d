"""Inputs for what nodes say of themselves and ask of each other: records of the coordination store, join tokens, a node's own small files, and the
messages about logs and about the hosting of volumes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, get_args

import msgspec

from gateways.exports import Share
from gateways.identity import User
from sofs.cluster import authority as authorities
from sofs.cluster import founding, own, recovery, running
from sofs.cluster import records as cluster_records
from sofs.cluster.authority import Authority, expires, node_of
from sofs.cluster.founding import Token
from sofs.cluster.records import ClusterRecord, DeadRecord, MemberRecord, NodeRecord, TokenRecord
from sofs.cluster.vips.records import HolderRecord, VipRecord
from sofs.coordination import keys
from sofs.encoding import Record, encode
from sofs.errors import ConfigError, InvalidArgument, PeerError
from sofs.hosting import messages as hosting
from sofs.hosting.recovering import Known
from sofs.log import messages as logs
from sofs.log.configuration import Mark
from sofs.records import ConfigurationRecord, DiskRecord, GroupRecord, PoolRecord, VolumeRecord
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedRandom
from sofs.types import Time
from tests.protocol.fuzz import Target, mutated

RECORDS: list[type[Record]] = [
    ClusterRecord, MemberRecord, NodeRecord, DeadRecord, TokenRecord, GroupRecord, DiskRecord, PoolRecord, VolumeRecord, ConfigurationRecord, Known,
    VipRecord, HolderRecord, Share, User,
]  # fmt: skip
NOW = Time(133_000_000_000_000_000)
AUTHORITY = Authority.make("00c1a57e", NOW)
CERTIFICATE = AUTHORITY.issue("00c1a57e", own.OwnIdentity(7).node, NOW).certificate


def sample(kind: Any, chance: Random) -> Any:
    """A value as msgspec makes it plain, of a type that messages and records are made of."""
    arguments = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {field.encode_name: sample(field.type, chance) for field in msgspec.structs.fields(kind)}
    if kind is Mark or kind == tuple[int, int, int]:
        return [chance.getrandbits(40) for _ in get_args(kind) or Mark._fields]
    if arguments and type(None) in arguments:
        return None if chance.random() < 0.3 else sample(arguments[0], chance)
    if arguments and kind.__origin__ in (tuple, list):
        several = len(arguments) == 1 or arguments[-1] is ...
        return [sample(each, chance) for each in (arguments[:1] * chance.randrange(4) if several else arguments)]
    if arguments and kind.__origin__ is dict:
        return {f"k{number}": sample(arguments[1], chance) for number in range(chance.randrange(3))}
    if arguments:
        return chance.choice([each for each in arguments if not isinstance(each, type)] or [0])
    if kind is bool:
        return chance.random() < 0.5
    if kind is str:
        return chance.choice(("", "a", "node-1", "127.0.0.1:4700", "[::1]:4700", "\u00e4", "x" * 90, "none", "/"))
    if kind is bytes:
        return chance.randbytes(chance.randrange(40))
    return chance.choice((0, 1, 5, 65535, 1 << 32, (1 << 63) - 1, chance.getrandbits(62)))


def records(chance: Random) -> None:
    """What is read is what is written again; whatever else it is, it is refused."""
    kind = chance.choice(RECORDS)
    data = mutated(msgspec.json.encode(sample(kind, chance)), chance)
    try:
        read = kind.decode(data)
    except ConfigError:
        return
    assert kind.decode(read.encode()) == read


def tokens(chance: Random) -> None:
    whole = Token("c", ("10.0.0.1:2379",) * chance.randrange(4), "sofs/", chance.getrandbits(63), chance.randbytes(24), "f" * 64).encode()
    changed = mutated(whole.encode(), chance).decode(errors="replace")
    try:
        read = Token.decode(changed)
    except InvalidArgument:
        return
    assert Token.decode(read.encode()) == read


def credentials(chance: Random) -> None:
    """The authority of the store, and certificates of nodes."""
    for whole, read in ((AUTHORITY.encode(), Authority.decode), (CERTIFICATE, expires)):
        changed = mutated(whole, chance)
        try:
            read(changed)
        except ConfigError:
            pass
    names = tuple(mutated(b"sofs://00c1a57e/%016x" % chance.getrandbits(63), chance).decode(errors="replace") for _ in range(2))
    node_of("00c1a57e", names)


def files(chance: Random) -> None:
    """A node's own files, as a loss of power or somebody's editor may leave them."""
    place = SimulatedFiles(SimulatedRandom(1))
    place.make_directory("/d")
    entries = [(key, chance.randbytes(20)) for key in (keys.CLUSTER, keys.member(1), keys.configuration(2))]
    stored = recovery._Stored(chance.getrandbits(30), entries)
    line = running._line(running.Ran(own.OwnIdentity(chance.getrandbits(63)).node, chance.getrandbits(62)))  # type: ignore[arg-type]
    for name, whole in ((own.FILE, msgspec.json.encode(own.OwnIdentity(5, "c"))), (recovery.FILE, encode(stored)), (running.FILE, line)):
        file = place.open(f"/d/{name}", create=True)
        file.write(0, [mutated(whole, chance)])
        file.close()
    readers: list[Callable[[], object]] = [lambda: own.load(place, "/d"), lambda: recovery.read_copy(place, "/d"), lambda: running.ended(place, "/d")]
    for read in readers:
        try:
            read()
        except ConfigError:
            pass


def _messages(kinds: tuple[Any, ...], decode: Callable[[bytes], Any]) -> Callable[[Random], None]:
    """What is read is what is written again; all else is the peer's fault."""

    def one(chance: Random) -> None:
        kind = chance.choice(kinds)
        fields = [sample(field.type, chance) for field in msgspec.structs.fields(kind)]
        tag = kind.__struct_config__.tag
        data = mutated(encode(fields if tag is None else [tag, *fields]), chance)
        try:
            read = decode(data)
        except PeerError:
            return
        assert decode(encode(read)) == read

    return one


TARGETS = (
    Target("store-records", records, (cluster_records.__name__, "sofs.encoding")),
    Target("join-tokens", tokens, (founding.__name__,)),
    Target("credentials", credentials, (authorities.__name__,)),
    Target("node-files", files, (own.__name__, recovery.__name__, running.__name__)),
    Target("log-questions", _messages(get_args(logs.Message), logs.decode_message), ("sofs.encoding",)),
    Target("log-answers", _messages((logs.Ack,), logs.decode_ack), ("sofs.encoding",)),
    Target("log-states", _messages((logs.Status,), logs.decode_status), ("sofs.encoding",)),
    Target("hosting-questions", _messages(get_args(hosting.Message), hosting.decode_message), ("sofs.encoding",)),
    Target("hosting-answers", _messages((hosting.Described,), hosting.decode_described), ("sofs.encoding",)),
)
