"""A disk of another node, through the interconnect.

Data arrives with the fragment's own checksums and is verified here, so that nothing between that disk and this memory can change it unseen.
When the node does not answer, that is `Unavailable`: the disk is as good as it was, and whether a change was made is not known. Nothing is
tried again here: the pool knows other copies and other disks.
"""

from collections.abc import Awaitable, Iterable, Sequence

from sofs.cluster import Answer, Peer, Priority
from sofs.encoding import encode
from sofs.errors import PeerError, Unavailable
from sofs.pool import messages
from sofs.pool.disk import BadPages, Part, Slow
from sofs.pool.extent import ExtentId, Usage
from sofs.pool.fragment import Header, Sums, stored_sums, wrong_pages
from sofs.pool.messages import SERVICE, decode_answer
from sofs.pool.table import Entry
from sofs.runtime.ports import Buffer, Clock
from sofs.types import PAGE, DiskId, VolumeId

READ_S = 3.0
"""A disk that takes longer is not worth waiting for while there are other copies."""
GENTLE_READ_S = 20.0
"""The same for what rebuilding reads: everything else goes first."""
CHANGE_S = 15.0
REVOKED_AT_ONCE = 8192
"""Ranges in one message, of some 20 bytes each."""
LONG_S = 60.0
"""For what reads a whole table, or a fragment from the disk's surface."""


class RemoteDisk:
    """`Disk`, at another node."""

    def __init__(self, peer: Peer, clock: Clock, id: DiskId, path: str) -> None:
        self.id = id
        self._clock = clock
        self.path = f"{path} of node {peer.node:016x}"
        self.peer = peer
        self._sense = _Sense(self.path)
        self.reported = Usage(0, 0)
        """As its node said last, less what has been written from here since."""

    def read(
        self, slot: int, id: ExtentId, offset: int, into: memoryview, sums: Sequence[int] | None = None,
        priority: Priority = Priority.FOREGROUND,
    ) -> Awaitable[None]:  # fmt: skip
        return self._read(slot, id, offset, into, sums, priority)

    async def _read(self, slot: int, id: ExtentId, offset: int, into: memoryview, sums: Sequence[int] | None, priority: Priority) -> None:
        request = encode(messages.Read(self.id, slot, *id, offset, len(into), sums is not None))
        body, payload = await self._ask(request, priority=priority, deadline_s=GENTLE_READ_S if priority is Priority.REBUILD else READ_S)
        with self._sense:
            own = decode_answer(body, messages.Got).own()
            if (own is not None and len(own.pages) != len(into) // PAGE) or (own is None and sums is None):
                raise PeerError("the checksums of what was read are not there")
            at = 0
            for piece in payload:
                if at + len(piece) > len(into):
                    raise PeerError(f"more than {len(into)} bytes")
                into[at : at + len(piece)] = piece
                at += len(piece)
        first = offset // PAGE
        if at < len(into):
            bad = list(range(first + at // PAGE, first + len(into) // PAGE))
        else:
            bad = wrong_pages(into, first, sums, own)
        if bad:
            raise BadPages(
                f"disk {self.path} slot {slot}, extent {id.number} of volume {id.volume:x}: page {bad[0]} does not match its checksum", bad
            )

    async def write(self, part: Part) -> int:
        # After a deadline has passed the data may still be on its way, and the caller's buffer have other contents by then: the fragment will not match its
        # checksums. Nobody ever names it: the extent goes to other disks, and this is a stray until orphans are collected.
        answer = await self._ask(messages.write_of(self.id, part), part.data, priority=part.priority, deadline_s=CHANGE_S)
        self.reported = self.reported._replace(free=max(0, self.reported.free - len(part.sums.pages) * PAGE))
        with self._sense:
            return decode_answer(answer.body, messages.Slot).slot

    async def delete(self, slot: int, id: ExtentId) -> None:
        await self._ask(encode(messages.Delete(self.id, slot, *id)))

    async def describe(self, slot: int, id: ExtentId) -> tuple[Header, Sums, bytes]:
        answer = await self._ask(encode(messages.Describe(self.id, slot, *id)), deadline_s=READ_S)
        with self._sense:
            described = decode_answer(answer.body, messages.Described)
            return described.header(), messages.sums_of(described.sums, described.blocks), described.names

    async def mend(self, slot: int, id: ExtentId, first: int, data: Buffer) -> None:
        await self._ask(encode(messages.Mend(self.id, slot, *id, first)), [data])

    async def mend_header(self, slot: int, id: ExtentId, sums: Sums, names: bytes) -> None:
        request = messages.MendHeader(self.id, slot, *id, stored_sums(sums.pages), stored_sums(sums.blocks), names)
        await self._ask(encode(request))

    async def revoke(self, volume: VolumeId, ids: range) -> None:
        if ids:
            await self.revoke_all([(volume, ids.start, ids.stop)])

    async def revoke_all(self, ranges: Iterable[tuple[VolumeId, int, int]]) -> None:
        """Several at once."""
        left = list(ranges)
        for start in range(0, len(left), REVOKED_AT_ONCE):
            await self._ask(encode(messages.Revoke(self.id, left[start : start + REVOKED_AT_ONCE])))

    async def find(self, volume: VolumeId, ids: range) -> list[tuple[int, Entry]]:
        entries: list[tuple[int, Entry]] = []
        start = 0
        while True:
            request = encode(messages.Find(self.id, volume, ids.start, ids.stop, start))
            answer = await self._ask(request, priority=Priority.REBUILD, deadline_s=LONG_S)
            with self._sense:
                found = decode_answer(answer.body, messages.Found)
                entries += found.taken(volume)
                if not found.next:
                    return entries
                if found.next <= start:
                    raise PeerError("it does not come to the end of its table")
                start = found.next

    async def check(self, slot: int, id: ExtentId, length: int) -> list[str]:
        answer = await self._ask(encode(messages.Check(self.id, slot, *id, length)), priority=Priority.REBUILD, deadline_s=LONG_S)
        with self._sense:
            return decode_answer(answer.body, messages.Checked).problems

    async def probe(self) -> None:
        await self._ask(encode(messages.Probe(self.id)))

    async def drain(self, on: bool) -> messages.Told:
        """Has the disk's node drain it, or no longer. Raises `InvalidArgument` as `Members.drain`."""
        answer = await self._ask(encode(messages.Drain(self.id, on)))
        with self._sense:
            return decode_answer(answer.body, messages.Told)

    def usage(self) -> Usage:
        return self.reported

    async def _ask(
        self, body: bytes, payload: Sequence[Buffer] = (), *, priority: Priority = Priority.FOREGROUND, deadline_s: float = CHANGE_S
    ) -> Answer:
        if not self.peer.connected:
            raise Unavailable(f"disk {self.path}: there is no connection to its node")
        deadline = self._clock.monotonic() + deadline_s
        try:
            return await self.peer.call(SERVICE, body, payload, priority=priority, deadline_s=deadline_s)
        except Unavailable as error:
            if self._clock.monotonic() >= deadline:
                raise Slow(f"disk {self.path}: {error}") from None
            raise


class _Sense:
    """What the disk's node answers makes sense, or is as good as no answer."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PeerError):
            raise Unavailable(f"disk {self._path} answers what makes no sense: {error}") from None
