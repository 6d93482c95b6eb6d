"""READDIR and READDIRPLUS (RFC 1813 3.3.16 and 3.3.17).

Cookies are the volume's, which stay good as long as the entry is there; 1 and 2 are `.` and `..`, which the volume does not list.
So the cookie verifier is always 0, and a listing can be resumed at any time and at any node.
"""

import struct
from collections.abc import Sequence

from gateways.nfs import listed
from gateways.nfs.ask import Ask, Outcome
from gateways.nfs.handles import HANDLE_SIZE, Place
from gateways.nfs.listed import ANSWER_LIMIT, END, MORE, MOST_ENTRIES
from gateways.nfs.snapshot_list import LIST
from gateways.nfs.v3 import layout
from gateways.nfs.v3.attributes import OK
from gateways.nfs.v3.messages import ReadDirectoryArgs, ReadDirectoryPlusArgs
from gateways.nfs.xdr import pad
from sofs.errors import BufferTooSmall
from sofs.volume.api import Attributes, Entries, ReadDirectory, ScanDirectory, Scanned

SELF, PARENT = 1, 2
"""The cookies of `.` and `..`."""

_HEAD = struct.Struct(">IQI")  # TRUE, fileid, length of the name
_COOKIE = struct.Struct(">Q")
_REST = struct.Struct(f">Q 6I2Q2I2Q6I II{HANDLE_SIZE}s")  # cookie, TRUE, attributes, TRUE, length, handle
VERIFIER = bytes(8)
SMALLEST = 28
"""Bytes of the smallest entry3; an entryplus3 with all it can have is 144 longer."""
PLUS = _REST.size - 8
FIXED = 88 + 8 + 8
"""Bytes of a READDIR3resok without its entries."""


def readdir(place: Place, args: ReadDirectoryArgs) -> Outcome:
    fsid = place.fsid
    room = min(args.limit, ANSWER_LIMIT) - FIXED

    def answer(found: Entries) -> bytes:
        pieces = Pieces(room)
        complete = all(pieces.add(plain_piece(*dot)) for dot in dots(args.cookie, *_around(place, found.directory)))
        complete = complete and all(pieces.add(plain_piece(entry.inode, entry.name, entry.cookie)) for entry in found.entries)
        return listing(found.directory, fsid, pieces, found.end and complete)

    request = ReadDirectory(place.caller, place.inode, _after_dots(args.cookie), _limit(room, SMALLEST))
    return Ask(place.volume, request, answer)


def readdirplus(place: Place, args: ReadDirectoryPlusArgs) -> Outcome:
    """`directory_limit` bounds names and cookies alone, `limit` everything."""
    fsid = place.fsid
    room = min(args.limit, ANSWER_LIMIT) - FIXED
    if place.snapshot == LIST:
        return _list_snapshots(place, args, room)

    def answer(found: Scanned) -> bytes:
        pieces = Pieces(room, max(args.directory_limit, 512))
        own = found.directory
        complete = all(
            pieces.add(_full(place, inode, name, cookie, own if inode == own.inode else None), SMALLEST)
            for inode, name, cookie in dots(args.cookie, *_around(place, own))
        )
        complete = complete and _add_rows(place, pieces, found.rows)
        return listing(own, fsid, pieces, found.end and complete)

    limit = min(_limit(room, SMALLEST + PLUS), max(args.directory_limit, 512) // SMALLEST + 1)
    return Ask(place.volume, ScanDirectory(place.caller, place.inode, _after_dots(args.cookie), limit), answer)


def _list_snapshots(place: Place, args: ReadDirectoryPlusArgs, room: int) -> Outcome:
    """Neither attributes nor handles: each entry is another file system's."""

    def answer(found: Entries) -> bytes:
        pieces = Pieces(room, max(args.directory_limit, 512))
        items = dots(args.cookie, place.inode, place.inode)
        items += [(entry.inode, entry.name, entry.cookie) for entry in found.entries]
        complete = all(pieces.add(_full(place, inode, name, cookie, None), SMALLEST) for inode, name, cookie in items)
        return listing(found.directory, place.fsid, pieces, found.end and complete)

    request = ReadDirectory(place.caller, place.inode, _after_dots(args.cookie), _limit(room, SMALLEST))
    return Ask(place.volume, request, answer)


def _add_rows(place: Place, pieces: "Pieces", rows: Sequence[listed.Row]) -> bool:
    """Adds entryplus3 of these, as many as fit; false if some do not."""
    found = listed.pieces(place.listed(), rows, lambda inode, name, cookie, of: _full(place, inode, name, cookie, of))
    return pieces.extend(found, PLUS)


def _full(place: Place, inode: int, name: bytes, cookie: int, of: Attributes | None) -> bytes:
    """An entryplus3 with the TRUE before it."""
    length = len(name)
    head = _HEAD.pack(1, inode, length) + name + pad(length)
    if of is None:
        return head + _COOKIE.pack(cookie) + layout.NO_WCC
    return head + _REST.pack(cookie, 1, *layout.fields(of, place.fsid), 1, HANDLE_SIZE, place.handle(of))


class Pieces:
    """Entries gathered until the client's buffer is full."""

    def __init__(self, room: int, names_room: int = ANSWER_LIMIT) -> None:
        self.parts: list[bytes] = []
        self._room = room
        self._names_room = names_room

    def add(self, piece: bytes, name_part: int = 0) -> bool:
        """False if it does not fit; the first one must fit as far as names go, or `BufferTooSmall`."""
        self._room -= len(piece)
        self._names_room -= name_part
        if self._room < 0 or (self._names_room < 0 and self.parts):
            if not self.parts:
                raise BufferTooSmall("not one entry fits into the client's buffer")
            return False
        self.parts.append(piece)
        return True

    def extend(self, found: Sequence[bytes], besides: int) -> bool:
        """Adds as many as fit; of each, all but `besides` bytes are name and cookie. False if some do not fit."""
        count = length = 0
        end, names = self._room, self._names_room
        for piece in found:
            length = len(piece)
            end -= length
            names -= length - besides
            if end < 0 or names < 0:
                break
            count += 1
        if count == len(found):
            self.parts += found
            self._room, self._names_room = end, names
            return True
        self.parts += found[:count]
        self._room, self._names_room = end + length, names + length - besides
        return self.add(found[count], length - besides) and count + 1 == len(found)


def dots(cookie: int, directory: int, parent: int) -> list[tuple[int, bytes, int]]:
    """Those of `.` and `..` that lie behind `cookie`, as (file id, name, cookie)."""
    both = [(directory, b".", SELF), (parent, b"..", PARENT)]
    return both[cookie:] if cookie < PARENT else []


def plain_piece(inode: int, name: bytes, cookie: int) -> bytes:
    """An entry3 with the TRUE before it."""
    length = len(name)
    return _HEAD.pack(1, inode, length) + name + pad(length) + _COOKIE.pack(cookie)


def listing(directory: Attributes, fsid: int, pieces: Pieces, end: bool) -> bytes:
    """READDIR3resok or READDIRPLUS3resok, behind its status."""
    return b"".join((OK, layout.post_op(directory, fsid), VERIFIER, *pieces.parts, END if end else MORE))


def _around(place: Place, directory: Attributes) -> tuple[int, int]:
    return place.inode, place.inode if place.is_root else directory.parent


def _after_dots(cookie: int) -> int:
    return cookie if cookie > PARENT else 0


def _limit(room: int, smallest: int) -> int:
    return min(max(room // smallest, 1), MOST_ENTRIES)
