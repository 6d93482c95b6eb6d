"""The disks of this node, as other nodes ask for them: the interconnect's service `disk`.

Each request becomes a call of a `LocalDisk`, whatever the state in which the pool has the disk here: the asker's pool has been told of it, and decides. Only
new extents are refused where the disk takes none: it may be retired before the asker hears that it is drained.
What the disk answers wrong on is told to this node's pool as well, which probes, condemns or retires it.

Whoever asks may be a coordinator that was deposed while its message was on its way; the chapter (`sofs.pool`) says why none of these
requests does harm then. What has begun to change a disk is finished even if nobody waits for the answer any more.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from sofs.cluster import Answer, Asked, Interconnect
from sofs.encoding import encode
from sofs.errors import DiskFailed, NotFound, SofsError, Unavailable
from sofs.pool import messages
from sofs.pool.fragments import Fetched
from sofs.pool.local_disk import LocalDisk
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import Member, Members
from sofs.pool.messages import SERVICE
from sofs.pool.states import Event, State
from sofs.runtime.ports import Buffer
from sofs.types import DiskId, VolumeId

KEPT = 64 << 10
"""A payload of at least so many bytes lies in a buffer of its own (`sofs.cluster.Asked`)."""
_DONE = Answer(b"")
T = TypeVar("T")
M = TypeVar("M")


class DiskService:
    """Answers for the disks that are open here. `pools` may change while it serves."""

    def __init__(self, interconnect: Interconnect, pools: Mapping[str, LocalPool], record: Callable[[], Awaitable[None]] | None = None) -> None:
        """`record` keeps what an operator wants of a disk for the next start, before he is answered."""
        self._pools = pools
        self._record = record
        self._duties: dict[type, Callable[[Any, LocalPool, LocalDisk, Buffer], Answer | Awaitable[Answer]]] = {
            messages.Read: self._read,
            messages.Write: self._write,
            messages.Delete: self._delete,
            messages.Describe: self._describe,
            messages.Mend: self._mend,
            messages.MendHeader: self._mend_header,
            messages.Revoke: self._revoke,
            messages.Find: self._find,
            messages.Check: self._check,
            messages.Probe: self._probe,
        }
        interconnect.serve(SERVICE, self.handle)

    def handle(self, asked: Asked) -> Answer | Awaitable[Answer]:
        """Raises `PeerError`, and as the disk does; `Unavailable` for a disk that is not open here."""
        request = messages.decode_request(asked.body)
        if isinstance(request, messages.Hear):
            return self._hear(request)
        pool, member = self._member(DiskId(request.disk))
        if isinstance(request, messages.Drain):
            pool.members.drain(member.spec.id, request.on)
            return self._drained(pool, member)
        if not isinstance(member.disk, LocalDisk):
            raise Unavailable(f"{pool.members.describe(member.spec.id)} at its node")
        return self._duties[type(request)](request, pool, member.disk, asked.payload)

    def _member(self, id: DiskId) -> tuple[LocalPool, Member]:
        for pool in self._pools.values():
            if pool.members.is_own(id):
                return pool, pool.members.get(id)
        raise Unavailable(f"disk {id:016x} is not at this node")

    def _hear(self, request: messages.Hear) -> Answer:
        pool = self._pools.get(request.pool)
        if pool is None:
            raise NotFound(f"there is no pool {request.pool} at this node")
        own = [told(pool.members, member) for member in pool.members.own]
        return Answer(encode(messages.Heard(own, pool.claimed)))

    # What does not change the disk

    def _read(self, request: messages.Read, pool: LocalPool, disk: LocalDisk, payload: Buffer) -> Answer | Awaitable[Answer]:
        into = memoryview(bytearray(request.length))
        try:
            fetched = disk.fetch(request.slot, request.id, request.offset, into, request.headless)
        except DiskFailed as error:
            pool.members.failed(disk, Event.READ_ERROR, error)
            raise
        if isinstance(fetched, Fetched):
            return _got(fetched, into)
        return self._read_rest(fetched, pool, disk, into)

    async def _read_rest(self, fetching: Awaitable[Fetched], pool: LocalPool, disk: LocalDisk, into: memoryview) -> Answer:
        return _got(await _watched(pool, disk, Event.READ_ERROR, fetching), into)

    async def _describe(self, request: messages.Describe, pool: LocalPool, disk: LocalDisk, payload: Buffer) -> Answer:
        described = await _watched(pool, disk, Event.READ_ERROR, disk.describe(request.slot, request.id))
        return Answer(messages.described(*described))

    async def _find(self, request: messages.Find, pool: LocalPool, disk: LocalDisk, payload: Buffer) -> Answer:
        ids = range(request.first, request.stop)
        return Answer(messages.found(*await disk.find_some(VolumeId(request.volume), ids, request.start, messages.FOUND_AT_ONCE)))

    async def _check(self, request: messages.Check, pool: LocalPool, disk: LocalDisk, payload: Buffer) -> Answer:
        return Answer(encode(messages.Checked(await disk.check(request.slot, request.id, request.length))))

    async def _drained(self, pool: LocalPool, member: Member) -> Answer:
        if self._record is not None:
            await self._record()
        return Answer(encode(told(pool.members, member)))

    # What does

    def _write(self, request: messages.Write, pool: LocalPool, disk: LocalDisk, payload: Buffer) -> Awaitable[Answer]:
        part = request.taken(_kept(payload))

        async def write() -> Answer:
            return Answer(encode(messages.Slot(await pool.members.write(disk, part))))

        return self._change(pool, disk, write())

    def _delete(self, request: messages.Delete, pool: LocalPool, disk: LocalDisk, payload: Buffer) -> Awaitable[Answer]:
        async def delete() -> Answer:
            await disk.delete(request.slot, request.id)
            pool.freed(disk)
            return _DONE

        return self._change(pool, disk, delete())

    def _mend(self, request: messages.Mend, pool: LocalPool, disk: LocalDisk, payload: Buffer) -> Awaitable[Answer]:
        data = _kept(request.taken(payload))

        async def mend() -> Answer:
            await disk.mend(request.slot, request.id, request.first, data)
            return _DONE

        return self._change(pool, disk, mend())

    def _mend_header(self, request: messages.MendHeader, pool: LocalPool, disk: LocalDisk, payload: Buffer) -> Awaitable[Answer]:
        sums = request.taken()

        async def mend() -> Answer:
            await disk.mend_header(request.slot, request.id, sums, request.names)
            return _DONE

        return self._change(pool, disk, mend())

    def _revoke(self, request: messages.Revoke, pool: LocalPool, disk: LocalDisk, payload: Buffer) -> Awaitable[Answer]:
        async def revoke() -> Answer:
            await disk.revoke_all([(VolumeId(volume), start, stop) for volume, start, stop in request.ranges])
            return _DONE

        return self._change(pool, disk, revoke())

    def _probe(self, request: messages.Probe, pool: LocalPool, disk: LocalDisk, payload: Buffer) -> Awaitable[Answer]:
        async def probe() -> Answer:
            await disk.probe()
            return _DONE

        return self._change(pool, disk, probe())

    def _change(self, pool: LocalPool, disk: LocalDisk, work: Coroutine[Any, Any, Answer]) -> Awaitable[Answer]:
        """Carries out `work` to its end, whatever becomes of whoever asked."""
        return pool.finish(_watched(pool, disk, Event.WRITE_ERROR, work))


async def _watched(pool: LocalPool, disk: LocalDisk, event: Event, work: Awaitable[T]) -> T:
    """Tells the pool if the disk fails on it."""
    try:
        return await work
    except SofsError as error:
        pool.members.failed(disk, event, error)
        raise


def told(members: Members, member: Member) -> messages.Told:
    """A disk, as other nodes are told of it."""
    usage, spec = members.usage(member), member.spec
    # Asking for its usage may have shown that it is gone.
    state: State = member.state
    return messages.Told(spec.id, spec.path, state, member.reason, usage.total, usage.free)


def _kept(payload: Buffer) -> Buffer:
    """The payload, to be used behind the handler: the interconnect lets go of large ones."""
    return payload if len(payload) >= KEPT else bytes(payload)


def _got(fetched: Fetched, into: memoryview) -> Answer:
    return Answer(messages.got(fetched.sums), (into[: fetched.size],))
