"""READDIR (RFC 8881 18.23), packed straight from the volume's entries.

Cookies are the volume's, which stay good as long as the entry is there; so the cookie verifier is always 0, and a listing can be resumed at any
time and at any node. Neither `.` nor `..` is listed.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateways.exports import Share
from gateways.nfs import above, past
from gateways.nfs.handles import Place
from gateways.nfs.snapshot_list import LIST
from gateways.nfs.v4.attributes import ACL_ASKED, Attr, Facts, encoder, mask_of, smallest
from gateways.nfs.v4.compound import Ask, Compound, Outcome
from gateways.nfs.v4.facts import facts_of, found, readable, with_space
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Bitmap, Verifier
from gateways.nfs.xdr import U32, U64, pad
from sofs.errors import SofsError
from sofs.volume.api import Attributes, Entries, Entry, ReadDirectory, Stateless

__all__ = ["ReadDirectoryArgs", "readdir", "readdir_above"]

ANSWER_LIMIT = 1 << 20
MOST_ENTRIES = 8192
"""Asked of the volume at once, whatever fits into the client's buffer."""
_HEAD = struct.Struct(">IQI")  # TRUE, cookie, length of the name
VERIFIER = bytes(8)
FIXED = len(VERIFIER) + 8
"""Bytes of a READDIR4resok without its entries: the verifier, the end of the list, eof."""
SMALLEST = 28
"""Bytes of the smallest entry4 without its attributes' values."""
_END, _MORE = b"\0\0\0\0\0\0\0\1", bytes(8)  # no further entry here; eof or not
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
    request = ReadDirectory(place.caller, place.inode, args.cookie, limit, True)

    def answer(entries: Entries) -> Outcome:
        if wanted & ACL_ASKED:
            return _with_acls(place, facts, wanted, entries, room)
        write = encoder(wanted)
        return _listing(entries.entries, lambda entry, of: write(of, facts), wanted, room, entries.end)

    return with_space(place, facts, wanted, lambda: Ask(place.volume, request, answer))


def _room(args: ReadDirectoryArgs) -> int:
    if 0 < args.cookie < FIRST_COOKIE or args.cookie >> 63:
        raise Failure(Status.BAD_COOKIE)
    room = min(args.limit, ANSWER_LIMIT) - FIXED
    if room <= 0:
        raise Failure(Status.TOOSMALL)
    return room


def _listing(
    entries: Sequence[Entry], write: Callable[[Entry, Attributes], bytes], wanted: int, room: int, end: bool
) -> bytes:
    """READDIR4resok of as many entries as fit."""
    parts = [VERIFIER]
    add, head = parts.append, _HEAD.pack
    for entry in entries:
        name, of = entry.name, entry.attributes
        length = len(name)
        values = write(entry, of) if of is not None else _unreadable(wanted)
        piece = head(1, entry.cookie, length) + name + pad(length) + values
        room -= len(piece)
        if room < 0:
            if len(parts) == 1:
                raise Failure(Status.TOOSMALL)
            end = False
            break
        add(piece)
    parts.append(_END if end else _MORE)
    return b"".join(parts)


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
            listed = [entry for entry in entries.entries if entry.cookie in written]
            whole = entries.end and len(listed) == len(entries.entries)
            return _listing(listed, lambda entry, of: written[entry.cookie], wanted, room, whole)
        entry = waiting.pop()

        def keep(of: Attributes) -> Outcome:
            written[entry.cookie] = encode(of, facts)
            return go_on()

        return found(place, Stateless(entry.inode, place.caller), facts, wanted, keep)

    return go_on()


def readdir_above(c: Compound, args: ReadDirectoryArgs) -> Outcome:
    """Each export."""

    def crossing(share: Share) -> "Crossing":
        return above.cookie(share), share.name.encode(), lambda: c.places.place(share, c.credential, share.root)

    shares = sorted(c.places.visible(), key=above.cookie)
    return _crossings(c, args, [crossing(share) for share in shares if above.cookie(share) > args.cookie])


def _snapshots(c: Compound, args: ReadDirectoryArgs) -> Outcome:
    """Each snapshot of an export."""
    place = c.place

    def crossing(entry: Entry) -> "Crossing":
        def find() -> Place:
            to = past.step(place, entry.name)
            assert to is not None
            return to

        return entry.cookie, entry.name, find

    def answer(found: Entries) -> Outcome:
        return _crossings(c, args, [crossing(entry) for entry in found.entries])

    return Ask(place.volume, ReadDirectory(place.caller, place.inode, args.cookie, MOST_ENTRIES), answer)


Crossing = tuple[int, bytes, Callable[[], Place]]
"""An entry that is another file system: cookie, name, and what finds that file system's own directory."""


def _crossings(c: Compound, args: ReadDirectoryArgs, entries: Sequence[Crossing]) -> Outcome:
    """Each entry is shown as the directory that one enters there, with another fsid and what it is mounted on (5.8.2.23)."""
    wanted, room = readable(c, mask_of(args.wanted)), _room(args)
    waiting = list(reversed(entries))
    listed: list[tuple[Crossing, bytes]] = []

    def finish() -> bytes:
        parts = [VERIFIER]
        left = room
        for (cookie, name, _), values in listed:
            parts.append(_HEAD.pack(1, cookie, len(name)) + name + pad(len(name)) + values)
            left -= len(parts[-1])
            if left < 0:
                if len(parts) == 2:
                    raise Failure(Status.TOOSMALL)
                return b"".join((*parts[:-1], _MORE))
        return b"".join((*parts, _END))

    def go_on() -> Outcome:
        while waiting:
            entry = waiting.pop()
            try:
                return describe(entry, entry[2]())
            except SofsError:  # it is not served just now, or has just gone: nothing more is known of it
                listed.append((entry, _unreadable(wanted | 1 << Attr.RDATTR_ERROR)))
        return finish()

    def describe(entry: Crossing, place: Place) -> Outcome:
        facts = facts_of(c, place)

        def keep(of: Attributes) -> Outcome:
            listed.append((entry, encoder(wanted)(of, facts)))
            return go_on()

        return found(place, place.target, facts, wanted, keep)

    return go_on()
