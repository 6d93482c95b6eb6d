"""What nodes say to each other about their disks: the bodies of the interconnect's service `disk`.

A request is one of the structs here, as a msgpack array that begins with its number; an extent's data and nothing else is the payload, of a
request to write or mend and of an answer to reading. Whoever decodes a body checks all that a correct node keeps to, so that the disk
may rely on it. Errors are those of the `Disk` protocol. Checksums travel beside the data: they are those that were computed where the data came from, and are
compared where it is used.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from sofs.encoding import decoder, encode
from sofs.errors import PeerError
from sofs.pool.disk import Part
from sofs.pool.extent import EXTENT_LIMIT, NAMES_PER_MIB, ExtentId, slots_for
from sofs.pool.fragment import BLOCK, Header, Sums, loaded_sums, stored_sums
from sofs.pool.scheme import Redundancy, Scheme, scheme_from_code
from sofs.pool.states import State
from sofs.pool.table import Entry
from sofs.runtime.ports import Buffer
from sofs.types import PAGE, DiskId, VolumeId

SERVICE = "disk"
NUMBER_LIMIT = 1 << 39
FOUND_AT_ONCE = 4096
"""Entries in one answer to `Find`."""


class Hear(msgspec.Struct, array_like=True, tag=0):
    """How are your disks of this pool? Answered by `Heard`."""

    pool: str


class OfDisk(msgspec.Struct, array_like=True):
    """Base of what is asked of one disk."""

    disk: int


class OfFragment(OfDisk):
    """Base of what is asked of one fragment there."""

    slot: int
    volume: int
    number: int

    @property
    def id(self) -> ExtentId:
        return ExtentId(VolumeId(self.volume), self.number)


class Read(OfFragment, tag=1):
    """Answered by `Got` with the data as it lies there: whoever asked verifies it."""

    offset: int
    length: int
    headless: bool
    """The reader has checksums, and wants the data even if the fragment's own are damaged."""


class Write(OfDisk, tag=2):
    """Answered by `Slot` when data and table entry are durable."""

    volume: int
    number: int
    scheme: tuple[int, int, int]
    part: int
    pages: int
    sums: bytes
    blocks: bytes
    names: bytes

    def taken(self, payload: Buffer) -> Part:
        """The fragment to be written. Raises `PeerError`."""
        scheme = scheme_from_code(*self.scheme)
        _expect(scheme is not None and scheme.redundancy is Redundancy.COPIES and 0 <= self.part < scheme.width, "no scheme has such a part")
        assert scheme is not None
        length = self.pages * PAGE
        _expect(0 < length <= EXTENT_LIMIT and len(payload) == length, "not the data of an extent")
        _expect(len(self.names) <= slots_for(length) * NAMES_PER_MIB, "too many names")
        sums = sums_of(self.sums, self.blocks)
        _expect(len(sums.pages) == self.pages and len(sums.blocks) == -(-length // BLOCK), "not its checksums")
        id = ExtentId(VolumeId(self.volume), self.number)
        return Part(id, scheme, self.part, self.pages, [payload], sums, self.names)


class Delete(OfFragment, tag=3):
    """Answered when the fragment is durably gone."""


class Describe(OfFragment, tag=4):
    """Answered by `Described`."""


class Mend(OfFragment, tag=5):
    """The payload's pages, from page `first` on."""

    first: int

    def taken(self, payload: Buffer) -> Buffer:
        """The pages. Raises `PeerError`."""
        _expect(len(payload) > 0 and len(payload) % PAGE == 0, "not pages")
        return payload


class MendHeader(OfFragment, tag=6):
    sums: bytes
    blocks: bytes
    names: bytes

    def taken(self) -> Sums:
        return sums_of(self.sums, self.blocks)


class Revoke(OfDisk, tag=7):
    ranges: Sequence[tuple[int, int, int]]
    """Volume, first number, end."""


class Find(OfDisk, tag=8):
    """Fragments from slot `start` on; answered by `Found`."""

    volume: int
    first: int
    stop: int
    start: int


class Check(OfFragment, tag=9):
    """Answered by `Checked`."""

    length: int


class Probe(OfDisk, tag=10):
    pass


class Drain(OfDisk, tag=11):
    """Answered by `Told`, with the disk as it is now."""

    on: bool


Request = Hear | Read | Write | Delete | Describe | Mend | MendHeader | Revoke | Find | Check | Probe | Drain


class Told(msgspec.Struct, array_like=True):
    """A disk as its own node has it."""

    disk: int
    path: str
    state: State
    reason: str
    total: int
    free: int


class Heard(msgspec.Struct, array_like=True):
    disks: list[Told]
    claimed: int = 0
    """Bytes of all disks that the volumes served there will still need for what they have promised."""


class Got(msgspec.Struct, array_like=True):
    """The fragment's own checksums of the pages that were asked for, if they can be read; of blocks, if the reading began with one."""

    sums: bytes | None
    blocks: bytes

    def own(self) -> Sums | None:
        return None if self.sums is None else sums_of(self.sums, self.blocks)


class Slot(msgspec.Struct, array_like=True):
    slot: int


class Described(msgspec.Struct, array_like=True):
    disk: int
    slot: int
    slots: int
    volume: int
    number: int
    part: int
    scheme: tuple[int, int, int]
    pages: int
    own_pages: int
    sums: bytes
    blocks: bytes
    names: bytes

    def header(self) -> Header:
        return Header(
            DiskId(self.disk), self.slot, self.slots, ExtentId(VolumeId(self.volume), self.number), self.part, _scheme(self.scheme),
            self.pages, self.own_pages,
        )  # fmt: skip


class Found(msgspec.Struct, array_like=True):
    entries: list[tuple[int, int, tuple[int, int, int], int, int, int]]
    """Slot, number, scheme, part, pages, slots."""
    next: int
    """Where to go on; 0 at the end."""

    def taken(self, volume: VolumeId) -> list[tuple[int, Entry]]:
        return [
            (slot, Entry(ExtentId(volume, number), _scheme(scheme), part, pages, slots)) for slot, number, scheme, part, pages, slots in self.entries
        ]


class Checked(msgspec.Struct, array_like=True):
    problems: list[str]


A = TypeVar("A", bound=msgspec.Struct)
_request: Callable[[Buffer], Request] = decoder(Request, "a request to a disk")
_answers: dict[type[msgspec.Struct], Callable[[Buffer], msgspec.Struct]] = {
    kind: decoder(kind, "an answer of a disk") for kind in (Heard, Told, Got, Slot, Described, Found, Checked)
}


def decode_request(body: Buffer) -> Request:
    """Raises `PeerError` for what no correct node sends."""
    request = _request(body)
    if isinstance(request, Hear):
        return request
    _expect(0 <= request.disk < 1 << 63, "no disk has this id")
    if isinstance(request, OfFragment):
        _expect(0 <= request.slot < 1 << 32, "no such slot")
    if isinstance(request, OfFragment | Write):
        _expect(0 <= request.volume < 1 << 63 and 0 <= request.number < NUMBER_LIMIT, "no extent has this id")
    match request:
        case Read():
            whole = request.offset % PAGE == 0 and request.length % PAGE == 0
            _expect(whole and request.offset >= 0 and 0 < request.length <= EXTENT_LIMIT, "not pages of an extent")
        case Mend():
            _expect(0 <= request.first < EXTENT_LIMIT // PAGE, "not pages of an extent")
        case Revoke():
            proper = all(0 <= volume < 1 << 63 and 0 <= start < stop <= NUMBER_LIMIT for volume, start, stop in request.ranges)
            _expect(proper, "not ranges of extents")
        case Find():
            _expect(0 <= request.volume < 1 << 63 and 0 <= request.first <= request.stop <= 1 << 63 and 0 <= request.start < 1 << 32, "no such range")
        case Check():
            _expect(0 < request.length <= EXTENT_LIMIT and request.length % PAGE == 0, "not an extent's length")
    return request


def decode_answer(body: Buffer, kind: type[A]) -> A:
    """Raises `PeerError`."""
    answer = _answers[kind](body)
    assert isinstance(answer, kind)
    return answer


def write_of(disk: DiskId, part: Part) -> bytes:
    """The request to write a fragment; its data is the payload."""
    pages, blocks = stored_sums(part.sums.pages), stored_sums(part.sums.blocks)
    return encode(Write(disk, part.id.volume, part.id.number, part.scheme, part.part, part.pages, pages, blocks, part.names))


def got(sums: Sums | None) -> bytes:
    return encode(Got(None, b"") if sums is None else Got(stored_sums(sums.pages), stored_sums(sums.blocks)))


def described(header: Header, sums: Sums, names: bytes) -> bytes:
    return encode(
        Described(
            header.disk, header.slot, header.slots, header.id.volume, header.id.number, header.part, header.scheme, header.pages,
            header.own_pages, stored_sums(sums.pages), stored_sums(sums.blocks), names,
        )
    )  # fmt: skip


def found(entries: Sequence[tuple[int, Entry]], next: int) -> bytes:
    return encode(Found([(slot, e.id.number, e.scheme, e.part, e.pages, e.slots) for slot, e in entries], next))


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise PeerError(f"a request to a disk makes no sense: {otherwise}")


def _scheme(code: tuple[int, int, int]) -> Scheme:
    scheme = scheme_from_code(*code)
    if scheme is None:
        raise PeerError(f"a disk answers with a scheme {code} that there is not")
    return scheme


def sums_of(pages: bytes, blocks: bytes) -> Sums:
    """Raises `PeerError`."""
    if len(pages) % 4 or len(blocks) % 4:
        raise PeerError(f"checksums of {len(pages)} and {len(blocks)} bytes")
    return Sums(loaded_sums(pages), loaded_sums(blocks))
