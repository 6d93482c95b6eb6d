"""READDIR (RFC 8881 18.23), packed straight from the volume's entries.

Cookies are the volume's, which stay good as long as the entry is there; so the cookie verifier is always 0, and a listing can be resumed at any
time and at any node. Neither `.` nor `..` is listed.
"""

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from gateways.exports import Share
from gateways.nfs import above, listed, past
from gateways.nfs.handles import Place
from gateways.nfs.listed import ANSWER_LIMIT, END, MORE, MOST_ENTRIES
from gateways.nfs.snapshot_list import LIST
from gateways.nfs.v4.attributes import ACL_ASKED, SPACE_ASKED, Attr, Facts, encoder, mask_of, smallest
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.facts import facts_of, found, readable, with_space
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Bitmap, Verifier
from gateways.nfs.xdr import U32, U64, pad
from sofs.errors import SofsError
from sofs.volume.api import Attributes, Entries, Entry, ReadDirectory, ScanDirectory, Scanned, Stateless

_HEAD = struct.Struct(">IQI")  # TRUE, cookie, length of the name
VERIFIER = bytes(8)
FIXED = len(VERIFIER) + 8
"""Bytes of a READDIR4resok without its entries: the verifier, the end of the list, eof."""
SMALLEST = 28
"""Bytes of the smallest entry4 without its attributes' values."""
FIRST_COOKIE = 3


class ReadDirectoryArgs(NamedTuple):
    cookie: U64
    verifier: Verifier
    directory_limit: U32
    """A hint how much the names and cookies alone may take."""
    limit: U32
    """Bytes of the whole READDIR4resok."""
    wanted: Bitmap


def readdir(c: Compound, args: ReadDirectoryArgs) -> Outcome:
    place, wanted = c.place, readable(c, mask_of(args.wanted))
    room = _room(args)
    if place.snapshot == LIST:
        return _snapshots(c, args)
    facts = facts_of(c, place)
    # No more are asked for than fit, give or take.
    limit = min(max(room // (SMALLEST + smallest(wanted)), 1), MOST_ENTRIES)
    if wanted & ACL_ASKED:
        request = ReadDirectory(place.caller, place.inode, args.cookie, limit, True)
        return with_space(place, facts, wanted, lambda: Ask(place.volume, request, lambda found: _with_acls(place, facts, wanted, found, room)))
    write = encoder(wanted)

    def encode(inode: int, name: bytes, cookie: int, of: Attributes) -> bytes:
        return _piece(cookie, name, write(of, facts))

    def answer(found: Scanned) -> bytes:
        # How much space there is changes with every write.
        known = {} if wanted & SPACE_ASKED else place.listed(wanted << 2 | c.minor)
        return _joined(listed.pieces(known, found.rows, encode), room, found.end)

    scan = ScanDirectory(place.caller, place.inode, args.cookie, limit)
    return with_space(place, facts, wanted, lambda: Ask(place.volume, scan, answer))


def _room(args: ReadDirectoryArgs) -> int:
    if 0 < args.cookie < FIRST_COOKIE or args.cookie >> 63:
        raise Failure(Status.BAD_COOKIE)
    room = min(args.limit, ANSWER_LIMIT) - FIXED
    if room <= 0:
        raise Failure(Status.TOOSMALL)
    return room


def _joined(pieces: Sequence[bytes], room: int, end: bool) -> bytes:
    """READDIR4resok of as many entries as fit."""
    count = 0
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            break
        count += 1
    if count < len(pieces):
        if not count:
            raise Failure(Status.TOOSMALL)
        pieces, end = pieces[:count], False
    return b"".join((VERIFIER, *pieces, END if end else MORE))


def _piece(cookie: int, name: bytes, values: bytes) -> bytes:
    """An entry4 with the TRUE before it."""
    return _HEAD.pack(1, cookie, len(name)) + name + pad(len(name)) + values


def _unreadable(wanted: int) -> bytes:
    """The attributes of an entry whose file cannot be read: rdattr_error alone, or the whole operation fails (5.8.1.12)."""
    if not wanted >> Attr.RDATTR_ERROR & 1:
        raise Failure(Status.IO)
    return struct.pack(">IIII", 1, 1 << Attr.RDATTR_ERROR, 4, Status.IO)


def _with_acls(place: Place, facts: Facts, wanted: int, entries: Entries, room: int) -> Outcome:
    """Asks for the descriptors of all entries, one after the other, before it lists them."""
    written: dict[int, bytes] = {}
    encode, waiting = encoder(wanted), list(reversed(entries.entries))

    def go_on() -> Outcome:
        if not waiting or sum(map(len, written.values())) > room:
            pieces = [_piece(each.cookie, each.name, written[each.cookie]) for each in entries.entries if each.cookie in written]
            return _joined(pieces, room, entries.end and len(pieces) == len(entries.entries))
        entry = waiting.pop()

        def keep(of: Attributes) -> Outcome:
            written[entry.cookie] = encode(of, facts)
            return go_on()

        return found(place, Stateless(entry.inode, place.caller), facts, wanted, keep)

    return go_on()


def readdir_above(c: Compound, args: ReadDirectoryArgs) -> Outcome:
    """Each export."""

    def crossing(share: Share) -> "Crossing":
        return above.cookie(share), share.name.encode(), lambda then, _: then(c.places.place(share, c.credential, share.root))

    shares = sorted(c.places.visible(), key=above.cookie)
    return _crossings(c, args, [crossing(share) for share in shares if above.cookie(share) > args.cookie])


def _snapshots(c: Compound, args: ReadDirectoryArgs) -> Outcome:
    """Each snapshot of an export."""
    place = c.place

    def crossing(entry: Entry) -> "Crossing":
        def enter(then: "Then", refused: Callable[[SofsError], Outcome]) -> Outcome:
            outcome: Outcome | None = past.cross(place, entry.name, partial(Ask, refused=refused), then)
            assert outcome is not None
            return outcome

        return entry.cookie, entry.name, enter

    def answer(found: Entries) -> Outcome:
        return _crossings(c, args, [crossing(entry) for entry in found.entries])

    return Ask(place.volume, ReadDirectory(place.caller, place.inode, args.cookie, MOST_ENTRIES), answer)


Then = Callable[[Place], Outcome]
Crossing = tuple[int, bytes, Callable[[Then, Callable[[SofsError], Outcome]], Outcome]]
"""An entry that is another file system: cookie, name, and what gives the outcome of what is made of that file system's own directory, or of there being
none, which it may also raise."""


def _crossings(c: Compound, args: ReadDirectoryArgs, entries: Sequence[Crossing]) -> Outcome:
    """Each entry is shown as the directory that one enters there, with another fsid and what it is mounted on (5.8.2.23)."""
    wanted, room = readable(c, mask_of(args.wanted)), _room(args)
    waiting = list(reversed(entries))
    pieces: list[bytes] = []

    def go_on() -> Outcome:
        while waiting:
            entry = waiting.pop()
            try:
                outcome: Outcome = entry[2](partial(describe, entry), partial(skip, entry))
                return outcome
            except SofsError:
                unreadable(entry)
        return _joined(pieces, room, True)

    def unreadable(entry: Crossing) -> None:
        """It is not served just now, or has just gone: nothing more is known of it."""
        pieces.append(_piece(*entry[:2], _unreadable(wanted | 1 << Attr.RDATTR_ERROR)))

    def skip(entry: Crossing, error: SofsError) -> Outcome:
        unreadable(entry)
        return go_on()

    def describe(entry: Crossing, place: Place) -> Outcome:
        facts = facts_of(c, place)

        def keep(of: Attributes) -> Outcome:
            pieces.append(_piece(*entry[:2], encoder(wanted)(of, facts)))
            return go_on()

        return found(place, place.target, facts, wanted, keep)

    return go_on()
