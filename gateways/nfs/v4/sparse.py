"""SEEK, ALLOCATE, DEALLOCATE, READ_PLUS and IO_ADVISE: files with holes (RFC 7862 15.1, 15.4, 15.5, 15.10, 15.11)."""

import struct
from typing import NamedTuple

from gateways.nfs.rpc import TRANSFER
from gateways.nfs.v4 import stateids
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.data import ReadArgs, fetch
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Bitmap, Stateid
from gateways.nfs.xdr import U32, U64
from sofs.volume.api import Access, Allocate, Found, GetAttributes, Punch, RangeList, Ranges, Read, Reply

DATA, HOLE = 0, 1
"""data_content4."""
LARGEST = (1 << 63) - 1
_FOUND = struct.Struct(">IQ")  # eof, offset
_ONE_HOLE = struct.Struct(">II IQQ")  # eof, one content: HOLE, offset, length
_ONE_PIECE = struct.Struct(">II IQI")  # eof, one content: DATA, offset, length of the data
_NO_CONTENT = struct.Struct(">II")


class SeekArgs(NamedTuple):
    stateid: Stateid
    offset: U64
    what: U32


class RangeArgs(NamedTuple):
    stateid: Stateid
    offset: U64
    length: U64


class AdviseArgs(NamedTuple):
    stateid: Stateid
    offset: U64
    length: U64
    hints: Bitmap


def seek(c: Compound, args: SeekArgs) -> Outcome:
    """The next data or hole from an offset on. The end of the file counts as a hole; where no data follows, `eof` says so (15.11.3)."""
    if args.what > HOLE:
        raise Failure(Status.UNION_NOTSUPP)
    target = stateids.target(c, args.stateid, Access.READ_DATA)
    volume, offset = c.place.volume, args.offset

    def ask(start: int) -> Ask:
        return Ask(volume, Ranges(target, start, LARGEST - start), answer)

    def answer(found: RangeList) -> Outcome:
        if offset >= found.size:
            raise Failure(Status.NXIO)
        if args.what == DATA:
            if not found.ranges:
                return _FOUND.pack(True, found.size)
            return _FOUND.pack(False, max(found.ranges[0][0], offset))
        end = hole.start
        for start, length in found.ranges:
            if start > end:
                return at(end, found.size)
            end = max(end, start + length)
        hole.start = end
        return at(end, found.size) if found.end or end >= found.size else ask(end)

    def at(place: int, size: int) -> bytes:
        return _FOUND.pack(place >= size, min(place, size))

    class hole:
        """How far data reaches from `offset` on without a gap."""

        start = offset

    if offset > LARGEST:
        raise Failure(Status.NXIO)
    return ask(offset)


def allocate(c: Compound, args: RangeArgs) -> Outcome:
    """Reserves space, and moves the end of the file as far as the range reaches."""
    _check(args)
    target = stateids.target(c, args.stateid, Access.WRITE_DATA)
    return Ask(c.place.volume, Allocate(target, args.offset, args.length, True), _nothing, True)


def deallocate(c: Compound, args: RangeArgs) -> Outcome:
    """Makes a hole; the size stays."""
    _check(args)
    target = stateids.target(c, args.stateid, Access.WRITE_DATA)
    return Ask(c.place.volume, Punch(target, args.offset, args.length), _nothing, True)


def _check(args: RangeArgs) -> None:
    if not args.length or args.offset + args.length > LARGEST:
        raise Failure(Status.INVAL if not args.length else Status.FBIG)


def _nothing(reply: Reply) -> bytes:
    return b""


def read_plus(c: Compound, args: ReadArgs) -> Outcome:
    """Tells one hole or one piece of data, as far as it reaches: the client asks for the rest."""
    stateid, offset, count = args
    target = stateids.target(c, stateid, Access.READ_DATA)
    volume = c.place.volume
    count = min(count, TRANSFER)

    def piece(done: Read) -> bytes:
        return _ONE_PIECE.pack(done.end, 1, DATA, offset, done.count)

    def answer(found: RangeList) -> Outcome:
        size = found.size
        if offset >= size or not count:
            return _NO_CONTENT.pack(offset >= size, 0)
        if found.ranges and found.ranges[0][0] <= offset:
            start, length = found.ranges[0]
            return fetch(c, target, offset, min(count, start + length - offset), piece)
        # The hole may reach beyond what was asked for: more is not said (15.10.3).
        end = min(found.ranges[0][0] if found.ranges else offset + count, offset + count, size)
        return _ONE_HOLE.pack(end >= size, 1, HOLE, offset, end - offset)

    return Ask(volume, Ranges(target, offset, max(min(count, LARGEST - offset), 0), 1), answer)


def io_advise(c: Compound, args: AdviseArgs) -> Outcome:
    """Advice is welcome, and none of it is acted upon (15.5.3: the reply lists the hints that will be)."""
    target = stateids.target(c, args.stateid, 0)
    return Ask(c.place.volume, GetAttributes(target), _no_hints)


def _no_hints(found: Found) -> bytes:
    return bytes(4)
