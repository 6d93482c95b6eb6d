"""How a cluster begins, and how nodes come to it and go: changes of the store that a command makes while its node does not run.

The first node's records are copied from its embedded store (`found`). Every step can be repeated: until the key `cluster` is there, which is written
last, nothing else counts, and what an interrupted attempt left is replaced. The embedded store is marked before that, so that nobody goes on with it.

A join token carries where the store is, the fingerprint of the cluster's authority, and a secret of which the store knows the hash: who has the token
trusts that authority only, and proves to have been asked to come. It is used up by the first node, or good for any number until it expires.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec
import structlog

from sofs.cluster import NodeId
from sofs.cluster.authority import Authority
from sofs.cluster.membership import ACTIVE, EVICTED, LEVEL
from sofs.cluster.records import ClusterRecord, DeadRecord, MemberRecord, NodeRecord, TokenRecord
from sofs.coordination import Change, Condition, Delete, Entry, OutcomeUnknown, Put, Store, keys
from sofs.errors import AccessDenied, Busy, ConfigError, Exists, InvalidArgument, NotFound, Unavailable
from sofs.runtime.ports import Random
from sofs.types import UNIX_EPOCH, Time

AUTHORITY = keys.secret("authority")
BATCH = 64
"""Changes in one transaction: etcd takes 128."""
TRIES = 8
TOKEN_START = "sofs1-"

log = structlog.get_logger("cluster")

Translate = Callable[[Entry], bytes]


class Token(msgspec.Struct, array_like=True):
    """What `sofs cluster token` prints, taken apart."""

    cluster: str
    endpoints: tuple[str, ...]
    prefix: str
    id: int
    secret: bytes
    fingerprint: str

    def encode(self) -> str:
        return TOKEN_START + base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Token:
        """Raises `InvalidArgument`."""
        text = text.strip()
        try:
            if not text.startswith(TOKEN_START):
                raise ValueError
            data = text.removeprefix(TOKEN_START)
            return msgspec.msgpack.decode(base64.urlsafe_b64decode(data + "=" * (-len(data) % 4)), type=cls)
        except (ValueError, msgspec.MsgspecError):
            raise InvalidArgument("this is no join token; `sofs cluster token` on a member prints one") from None


async def cluster_of(store: Store) -> ClusterRecord:
    """Raises `ConfigError` when there is no cluster in this store, `Unavailable`."""
    entry = await store.get(keys.CLUSTER)
    if entry is None:
        raise ConfigError(
            "there is no cluster in this etcd under this prefix: `sofs cluster init` founds one; if there was one, coordination.prefix is wrong, "
            "or etcd has lost its data, which `sofs cluster recover` puts back"
        )
    return ClusterRecord.decode(entry.value)


async def authority_of(store: Store) -> Authority:
    """Raises `ConfigError`, `Unavailable`."""
    entry = await store.get(AUTHORITY)
    if entry is None:
        raise ConfigError("the coordination store has no authority under secrets/; `sofs cluster recover` restores it from a node's copy")
    return Authority.decode(entry.value)


# The first node


async def found(
    store: Store,
    member: MemberRecord,
    cluster: str,
    now: Time,
    records: Iterable[Entry],
    translate: Translate,
    copied: Callable[[], Awaitable[None]] | None = None,
) -> Authority:
    """Makes the cluster with this id, its authority and its first member, and copies `records` into it, each as `translate` has it. `copied` is called when
    all of them are there, before the cluster comes to be: whoever had them until now must not change them any more.

    Answers the authority. Repeating it after an interruption is harmless. Raises `Exists` when another cluster, or something else, is there, `Unavailable`.
    """
    entry = await store.get(keys.CLUSTER)
    if entry is not None:
        present = ClusterRecord.decode(entry.value)
        if present.id != cluster:
            raise Exists(f"cluster {present.id} uses this etcd under this prefix already; join it, or choose another with --prefix")
        return await authority_of(store)
    old = await store.get(AUTHORITY)
    authority = Authority.decode(old.value) if old is not None else Authority.make(cluster, now)
    wanted = {entry.key: translate(entry) for entry in records}
    wanted[AUTHORITY] = authority.encode()
    wanted[keys.member(member.id)] = member.encode()
    wanted[LEVEL] = b"%d" % member.features
    await _make_equal(store, wanted)
    if copied is not None:
        await copied()
    await _change(store, [Condition(keys.CLUSTER, 0)], [Put(keys.CLUSTER, ClusterRecord(id=cluster).encode())], f"cluster {cluster}")
    return authority


async def _make_equal(store: Store, wanted: dict[str, bytes]) -> None:
    """Puts what is missing or different, deletes what is too much, and looks whether all of it is there then."""
    for _ in range(TRIES):
        present = {entry.key: entry for entry in (await store.range("")).entries}
        if strange := [key for key in present if not keys.is_known(key)]:
            raise Exists(f"something else lies under this prefix in etcd already, such as {strange[0]!r}; choose a prefix of its own with --prefix")
        changes: list[Change] = [Put(key, value) for key, value in wanted.items() if key not in present or present[key].value != value]
        changes += [Delete(key) for key in present if key not in wanted]
        if not changes:
            return
        for start in range(0, len(changes), BATCH):
            try:
                done = await store.transact([Condition(keys.CLUSTER, 0)], changes[start : start + BATCH])
            except OutcomeUnknown:
                break  # looked at again
            if not done.done:
                raise Exists(
                    "somebody has founded a cluster in this etcd under this prefix at the same time; join it, or choose another with --prefix"
                )
    raise Unavailable("the records could not be copied: they do not stay as they were written; is another command at work?")


# Further nodes


async def invite(store: Store, random: Random, now: Time, endpoints: Sequence[str], prefix: str, *, valid_s: float, reusable: bool) -> Token:
    """Makes a token. Raises `ConfigError`, `Unavailable`."""
    cluster, authority = await cluster_of(store), await authority_of(store)
    token = Token(cluster.id, tuple(endpoints), prefix, random.number(63), random.bytes(24), authority.fingerprint)
    record = TokenRecord(digest=_digest(token.secret), expires=_seconds(now) + int(valid_s), reusable=reusable)
    key = keys.token(token.id)
    expired = [Delete(entry.key) for entry in (await store.range(keys.TOKENS)).entries if TokenRecord.decode(entry.value).expires < _seconds(now)]
    await _change(store, [Condition(key, 0)], [Put(key, record.encode()), *expired[:BATCH]], "the token")
    return token


async def admit(store: Store, token: Token, member: MemberRecord, now: Time) -> Authority:
    """Makes a member of whoever shows the token, and answers the authority, whose fingerprint is right.

    Repeating it for the same member is harmless. Raises `AccessDenied`, `ConfigError`, `Unavailable`.
    """
    cluster, authority = await cluster_of(store), await authority_of(store)
    if cluster.id != token.cluster or not hmac.compare_digest(authority.fingerprint, token.fingerprint):
        raise AccessDenied("the token is of another cluster than the one in this etcd; make a new one with `sofs cluster token`")
    level = await store.get(LEVEL)
    if level is not None and int(level.value) > member.features:
        raise ConfigError(f"this release knows feature level {member.features}, the cluster is at {int(level.value)}; install a newer release")
    key = keys.member(member.id)
    present = await store.get(key)
    if present is not None:
        if MemberRecord.decode(present.value).state == EVICTED:
            raise AccessDenied("this node was evicted from the cluster; join as a new one, with an empty data directory")
        return authority
    await _take_name(store, member)
    entry = await store.get(keys.token(token.id))
    record = None if entry is None else TokenRecord.decode(entry.value)
    if entry is None or record is None or not hmac.compare_digest(record.digest, _digest(token.secret)):
        raise AccessDenied("this token was used, or taken back; make a new one with `sofs cluster token`")
    if record.expires < _seconds(now):
        raise AccessDenied(
            f"this token has expired, {_seconds(now) - record.expires} s ago by this host's clock; make a new one with `sofs cluster token`, or set the clock"
        )
    changes: list[Change] = [Put(key, member.encode())]
    if not record.reusable:
        changes.append(Delete(entry.key))
    await _change(store, [Condition(key, 0), Condition(entry.key, entry.revision)], changes, "the token")
    return authority


async def _take_name(store: Store, wanted: MemberRecord) -> None:
    """Raises `Exists` when another member has the name."""
    for entry in (await store.range(keys.MEMBERS)).entries:
        member = MemberRecord.decode(entry.value)
        if member.name == wanted.name and member.id != wanted.id and member.state != EVICTED:
            raise Exists(f"another member of the cluster is called {member.name}; give this one a name with --name")


# Those who go


async def leave(store: Store, node: NodeId, held: Sequence[str]) -> None:
    """Takes a member away that does not run and holds nothing; `held` is what it still holds, in words. Raises `Busy`, `Unavailable`."""
    members = [MemberRecord.decode(entry.value) for entry in (await store.range(keys.MEMBERS)).entries]
    if held:
        raise Busy(f"the node still has {', '.join(held)}; drain it first (`sofs node drain`), then remove its disks")
    if not any(member.id != node and member.state == ACTIVE for member in members):
        raise Busy("it is the last node of the cluster")
    # Its group of NFS clients has another home by now, and lives on.
    changes = [Delete(key) for key in (keys.member(node), keys.node(node), keys.dead(node))]
    await _change(store, [], changes, f"node {node:016x}")


async def evict(store: Store, node: NodeId, by: str, *, force: bool, incarnations: Sequence[int] = ()) -> MemberRecord:
    """Bars a member that is lost for good. With `force`, `by` vouches that its last process has ended and reaches nothing any more.

    Without that nothing is said of its process: that no record shows it running proves nothing, it may live, cut off from the store. So what it did is
    taken over when its promises have run out, and its gateways are fenced. `incarnations` are those that are named elsewhere, for a node without a
    record of its own process. Raises `NotFound`, `Busy` (it seems to run, and is not known to have ended), `Unavailable`.
    """
    key = keys.member(node)
    for _ in range(TRIES):
        entry = await store.get(key)
        if entry is None:
            raise NotFound(f"node {node:016x} is no member of the cluster")
        member = MemberRecord.decode(entry.value)
        present, proof = await store.get(keys.node(node)), await store.get(keys.dead(node))
        running = None if present is None else NodeRecord.decode(present.value).incarnation
        dead = None if proof is None else DeadRecord.decode(proof.value).incarnation
        if running not in (None, dead) and not force:
            raise Busy(
                f"node {member.name} says that it runs. Stop it, or see to it that it never again reaches disks and network, and repeat this with "
                "--force; if it lives all the same, clients may lose what they were told is written"
            )
        barred = MemberRecord(id=member.id, name=member.name, host=member.host, addresses=member.addresses, state=EVICTED, features=member.features)
        changes: list[Change] = [Put(key, barred.encode()), Delete(keys.node(node))]
        named = [running] if running is not None else list(incarnations)
        if force and named and dead not in named:
            changes.append(Put(keys.dead(node), DeadRecord(incarnation=named[0], by=by).encode()))
        try:
            if (await store.transact([Condition(key, entry.revision)], changes)).done:
                return barred
        except OutcomeUnknown:
            continue
    raise Unavailable(f"the record of node {node:016x} is being changed by others; try again")


async def _change(store: Store, conditions: Sequence[Condition], changes: Sequence[Change], what: str) -> None:
    """One transaction that must take effect. Raises `Unavailable` when it does not, or nobody knows."""
    try:
        if (await store.transact(conditions, changes)).done:
            return
    except OutcomeUnknown:
        first = changes[0]
        entry = await store.get(first.key)
        if (entry.value if entry else None) == (first.value if isinstance(first, Put) else None):
            return
    raise Unavailable(f"{what} was changed by somebody else at the same time; repeat the command")


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _seconds(now: Time) -> int:
    return (now - UNIX_EPOCH) // 10_000_000
