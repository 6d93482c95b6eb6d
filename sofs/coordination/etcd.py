"""The coordination store in etcd.

Through aetcd's generated API rather than its client class: that one neither tells an interrupted transaction from one that was never sent,
nor resumes watches. No grpc error leaves this module.

Calls go to one member of the cluster until it fails them, then to the next. Reads are repeated until their time is over.
A transaction is sent once: it is `Unavailable` while no member can be reached, and `OutcomeUnknown` when it was sent and not answered.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import grpc
from aetcd import rpc

from sofs.coordination.store import Change, Condition, Entry, Health, Listing, OutcomeUnknown, Put, Seen, Transacted
from sofs.errors import NoSpace, NotFound, SofsError, Unavailable

T = TypeVar("T")

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A dead member is noticed within 13 s even by a watch that only listens. Below 5 s etcd would object.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.max_receive_message_length", 64 << 20),
)
_HEALTH_S = 2.0
_RETRY_AFTER = 0.1
_UNREAD = 100
"""How far a watch reads ahead of its user."""


class Credentials(NamedTuple):
    """For TLS with etcd, as PEM."""

    authority: bytes
    """Who signed its members' certificates."""
    certificate: bytes | None = None
    """This node's, with its key, if etcd asks for one."""
    key: bytes | None = None


class EtcdStore:
    """`Store` in an etcd cluster. To be made on a running loop."""

    def __init__(
        self, endpoints: Sequence[tuple[str, int]], root: str = "sofs/", timeout: float = 5.0, credentials: Credentials | None = None
    ) -> None:
        """`root` is put before every key, so that several clusters can share an etcd; `timeout` bounds every call, in seconds."""
        self._root = root
        self.timeout = timeout
        self._names = [f"{_bracketed(host)}:{port}" for host, port in endpoints]
        self._channels = [_channel(name, credentials) for name in self._names]
        self._current = 0
        self._closed = False
        self._watches: set[EtcdWatch] = set()

    # The port

    async def get(self, key: str) -> Entry | None:
        entries = (await self._range(rpc.RangeRequest(key=self._wire(key)))).entries
        return entries[0] if entries else None

    async def range(self, prefix: str) -> Listing:
        start = self._wire(prefix)
        return await self._range(rpc.RangeRequest(key=start, range_end=_behind(start), sort_order=1))

    async def transact(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> Transacted:
        assert len({change.key for change in changes}) == len(changes), "each key is changed at most once"
        request = rpc.TxnRequest(
            compare=[
                rpc.Compare(key=self._wire(condition.key), target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=condition.revision)
                for condition in conditions
            ],
            success=[self._operation(change) for change in changes],
        )
        answer = await self._change(lambda channel: rpc.KVStub(channel).Txn(request, timeout=self.timeout))
        return Transacted(answer.succeeded, answer.header.revision)

    async def lease(self, duration: float) -> "EtcdLease":
        request = rpc.LeaseGrantRequest(TTL=math.ceil(duration))
        try:
            answer = await self._change(lambda channel: rpc.LeaseStub(channel).LeaseGrant(request, timeout=self.timeout))
        except OutcomeUnknown as error:
            # A lease that nobody knows of ends by itself.
            raise Unavailable(str(error)) from error
        return EtcdLease(self, answer.ID, float(answer.TTL))

    def watch(self, prefix: str, after: int = 0) -> "EtcdWatch":
        watch = EtcdWatch(self, prefix, after)
        self._watches.add(watch)
        return watch

    async def close(self) -> None:
        self._closed = True
        for watch in list(self._watches):
            await watch.close()
        for channel in self._channels:
            await channel.close()

    # For operators

    async def health(self) -> list[Health]:
        """How each member is that this node has been told of. Never raises: what is the matter is in the answer."""
        return list(await asyncio.gather(*(self._health(name, channel) for name, channel in zip(self._names, self._channels, strict=True))))

    async def _health(self, name: str, channel: Any) -> Health:
        try:
            answer = await rpc.MaintenanceStub(channel).Status(rpc.StatusRequest(), timeout=_HEALTH_S)
        except rpc.AioRpcError as error:
            return Health(name, f"unreachable: {error.details()}")
        if answer.errors:
            return Health(name, "; ".join(answer.errors), answer.dbSize)
        if not answer.leader:
            return Health(name, "without a leader", answer.dbSize)
        return Health(name, "leader" if answer.leader == answer.header.member_id else "follower", answer.dbSize, True)

    # For leases and watches

    async def keep_lease(self, id: int) -> bool:
        async def once(channel: Any) -> bool:
            call = rpc.LeaseStub(channel).LeaseKeepAlive(timeout=self.timeout)
            await call.write(rpc.LeaseKeepAliveRequest(ID=id))
            answer = await call.read()
            call.cancel()
            if not hasattr(answer, "TTL"):
                raise ConnectionResetError("etcd ended the stream")
            return bool(answer.TTL > 0)

        return await self._read(once)

    async def revoke_lease(self, id: int) -> None:
        request = rpc.LeaseRevokeRequest(ID=id)
        try:
            await self._change(lambda channel: rpc.LeaseStub(channel).LeaseRevoke(request, timeout=self.timeout))
        except NotFound:
            pass

    async def listen(self, prefix: str, after: int | None) -> AsyncIterator[tuple[Seen | None, int]]:
        """What one connection sees below `prefix` behind `after`, each with the revision up to which everything is known then.

        Ends when the connection does, or the changes behind `after` are gone (then the last revision is 0).
        """
        if after is None:
            listing = await self.range(prefix)
            after = listing.revision
            yield Seen(listing.revision, listing.entries, complete=True), after
        start = self._wire(prefix)
        call = rpc.WatchStub(await self._ready()).Watch()
        try:
            create = rpc.WatchCreateRequest(key=start, range_end=_behind(start), start_revision=after + 1, progress_notify=True)
            await call.write(rpc.WatchRequest(create_request=create))
            while hasattr(answer := await call.read(), "events"):
                if answer.compact_revision:
                    yield None, 0
                if answer.compact_revision or answer.canceled:
                    return
                if answer.created and answer.header.revision < after:
                    # It has lost its data, or was restored from a copy: its revisions up to there are other ones.
                    yield None, 0
                    return
                for seen in self._seen(answer.events):
                    after = seen.revision
                    yield seen, after
                if not answer.events and not answer.created:
                    yield None, max(after, answer.header.revision)  # progress: nothing happened up to there
        except rpc.AioRpcError:
            return  # the watch begins again elsewhere
        finally:
            call.cancel()

    def fail_over(self, channel: Any = None) -> None:
        """Goes on with the next member (if `channel` is still the current one)."""
        if channel is None or channel is self._channels[self._current]:
            self._current = (self._current + 1) % len(self._channels)

    def forget(self, watch: "EtcdWatch") -> None:
        self._watches.discard(watch)

    # Calls

    async def _range(self, request: rpc.RangeRequest) -> Listing:
        answer = await self._read(lambda channel: rpc.KVStub(channel).Range(request, timeout=self.timeout))
        return Listing(answer.header.revision, tuple(self._entry(kv) for kv in answer.kvs))

    async def _read(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """A call that may be repeated, until the time is over."""
        try:
            async with asyncio.timeout(self.timeout):
                while True:
                    channel = await self._ready()
                    try:
                        return await self._send(call, channel)
                    except (rpc.AioRpcError, ConnectionResetError) as error:
                        if isinstance(error, rpc.AioRpcError) and not _passing(error):
                            raise _meaning(error) from error
                        self.fail_over(channel)
                    except asyncio.CancelledError:
                        # Nobody has waited so long for a member that is well: whoever asks next asks another.
                        self.fail_over(channel)
                        raise
                    await asyncio.sleep(_RETRY_AFTER)
        except TimeoutError as error:
            raise Unavailable("etcd does not answer") from error

    async def _change(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """A call that must be sent at most once."""
        try:
            async with asyncio.timeout(self.timeout):
                channel = await self._ready()
        except TimeoutError as error:
            raise Unavailable("etcd cannot be reached") from error
        try:
            return await self._send(call, channel)
        except asyncio.CancelledError:
            self.fail_over(channel)
            raise
        except ConnectionResetError as error:
            raise OutcomeUnknown(str(error)) from error
        except rpc.AioRpcError as error:
            if not _passing(error):
                raise _meaning(error) from error
            self.fail_over(channel)
            raise OutcomeUnknown(f"etcd: {error.details()}") from error

    async def _send(self, call: Callable[[Any], Awaitable[T]], channel: Any) -> T:
        try:
            return await call(channel)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                # Not the caller: a closing channel cancels what is under way in it.
                raise ConnectionResetError("the coordination store was closed meanwhile") from None
            raise

    async def _ready(self) -> Any:
        """A channel that is connected; waits until there is one."""
        while True:
            if self._closed:
                raise Unavailable("the coordination store is closed")
            channel = self._channels[self._current]
            try:
                async with asyncio.timeout(self.timeout / len(self._channels)):
                    await channel.channel_ready()
                return channel
            except TimeoutError:
                self.fail_over(channel)

    # Forms

    def _wire(self, key: str) -> bytes:
        return (self._root + key).encode("ascii")

    def _entry(self, kv: Any) -> Entry:
        return Entry(kv.key.decode("ascii")[len(self._root) :], kv.value, kv.mod_revision, kv.lease)

    def _operation(self, change: Change) -> rpc.RequestOp:
        key = self._wire(change.key)
        if isinstance(change, Put):
            return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=change.value, lease=change.lease))
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))

    def _seen(self, events: Sequence[Any]) -> list[Seen]:
        """Events by revision: what one transaction changed is seen at once."""
        revisions: dict[int, tuple[list[Entry], list[str]]] = {}
        for event in events:
            puts, removed = revisions.setdefault(event.kv.mod_revision, ([], []))
            if event.type == rpc.Event.PUT:
                puts.append(self._entry(event.kv))
            else:
                removed.append(self._entry(event.kv).key)
        return [Seen(revision, tuple(puts), tuple(removed)) for revision, (puts, removed) in revisions.items()]


class EtcdLease:
    """`Lease` of etcd."""

    def __init__(self, store: EtcdStore, id: int, duration: float) -> None:
        self._store = store
        self.id = id
        self.duration = duration

    async def keep(self) -> bool:
        return await self._store.keep_lease(self.id)

    async def revoke(self) -> None:
        await self._store.revoke_lease(self.id)


class EtcdWatch:
    """`Watch` over any number of connections, one after another."""

    def __init__(self, store: EtcdStore, prefix: str, after: int) -> None:
        self._store = store
        self._prefix = prefix
        self._known = after or None
        self._seen: deque[Seen] = deque()
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._listen())
        self._task.add_done_callback(lambda _: self._changed.set())

    def __aiter__(self) -> "EtcdWatch":
        return self

    async def __anext__(self) -> Seen:
        while not self._seen:
            if self._task.cancelled():
                raise StopAsyncIteration
            if self._task.done():
                self._task.result()  # raises what ended it: a fault of this program
            self._changed.clear()
            await self._changed.wait()
        self._taken.set()
        return self._seen.popleft()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._seen.clear()
        self._store.forget(self)

    async def _listen(self) -> None:
        while True:
            try:
                async for seen, known in self._store.listen(self._prefix, self._known):
                    self._known = known or None
                    if seen is not None:
                        await self._keep(seen)
            except SofsError:
                pass  # down: it is tried again
            self._store.fail_over()
            await asyncio.sleep(_RETRY_AFTER)

    async def _keep(self, seen: Seen) -> None:
        self._seen.append(seen)
        self._changed.set()
        while len(self._seen) > _UNREAD:
            self._taken.clear()
            await self._taken.wait()


def _channel(name: str, credentials: Credentials | None) -> Any:
    if credentials is None:
        return rpc.insecure_channel(name, options=_OPTIONS)
    authority, certificate, key = credentials
    return rpc.secure_channel(name, grpc.ssl_channel_credentials(authority, key, certificate), options=_OPTIONS)


def _passing(error: rpc.AioRpcError) -> bool:
    """Whether another attempt, perhaps elsewhere, may go better."""
    return error.code() in (
        rpc.StatusCode.UNAVAILABLE,
        rpc.StatusCode.DEADLINE_EXCEEDED,
        rpc.StatusCode.CANCELLED,
        rpc.StatusCode.INTERNAL,
        rpc.StatusCode.UNKNOWN,
    )


def _meaning(error: rpc.AioRpcError) -> SofsError:
    text = f"etcd: {error.details()}"
    if error.code() == rpc.StatusCode.NOT_FOUND:
        return NotFound(text)
    if error.code() == rpc.StatusCode.RESOURCE_EXHAUSTED:
        return NoSpace(f"{text} (compact and defragment it, or raise its quota)")
    return Unavailable(text)


def _behind(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`."""
    assert prefix and prefix[-1] < 0xFF
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
