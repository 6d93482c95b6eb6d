"""QUERY_DIRECTORY, MS-SMB2 3.3.5.18: listings, a buffer at a time.

The place in a listing is the volume's cookie of the last entry given, so that names may come and go meanwhile, and an entry that did not fit is simply
read again. A pattern without wildcards is a look-up, not a scan.
"""

import struct
from collections.abc import Coroutine
from itertools import count
from typing import Any

from gateways.smb.exchange import Answer, Exchange
from gateways.smb.handle import Handle, Listing
from gateways.smb.header import HEADER_SIZE
from gateways.smb.info.entries import CLASSES, Class
from gateways.smb.names import from_wire, to_wire
from gateways.smb.patterns import has_wildcards, matcher
from gateways.smb.status import Failure, Status
from gateways.smb.wire import part, text, utf16
from sofs.errors import InvalidName, NameTooLong, NotFound
from sofs.types import Inode, OpenId
from sofs.volume.api import Access, Attributes, CheckAccess, Entries, Found, GetAttributes, Lookup, ReadDirectory, Rights, Stateless

_REQUEST = struct.Struct("<HBBIQQHHI")  # size, class, flags, index, file id, pattern at, pattern length, output length
_REPLY = struct.Struct("<HHI")
_RESTART, _SINGLE, _INDEX, _REOPEN = 1, 2, 4, 0x10
MAX_OUTPUT = 8 << 20
_MOST = 128 << 10
"""Bytes given at once, whatever is asked for: a thousand entries take some milliseconds, and others wait meanwhile."""
_MAX_PATTERN = 1024
_GENERIC_READ = int(Access.READ_DATA | Access.READ_EA | Access.READ_ATTRIBUTES | Access.READ_CONTROL)
"""Without SYNCHRONIZE, which says nothing here."""
_SLICE = 512
"""Entries asked of the volume at a time."""
_TURNS = 4
"""Slices after which other clients have a turn: a pattern that matches nothing may go through a million names."""


def handle(exchange: Exchange) -> Coroutine[Any, Any, Answer]:
    _, kind, flags, _, _, _, at, length, room = exchange.unpack(_REQUEST)
    pattern = text(part(exchange.message, at, min(length, _MAX_PATTERN), "the pattern"))
    handle = exchange.handle
    form = CLASSES.get(kind)
    if form is None:
        raise Failure(Status.INVALID_INFO_CLASS)
    if not handle.directory or room > MAX_OUTPUT or room > (exchange.charge or 1) << 16:
        raise Failure(Status.INVALID_PARAMETER)
    if not handle.access & Access.READ_DATA:
        raise Failure(Status.ACCESS_DENIED)
    if room < form.fixed:
        raise Failure(Status.INFO_LENGTH_MISMATCH)
    listing = handle.listing
    if listing is None or flags & _REOPEN or (flags & _RESTART and pattern):
        if not pattern and listing is None:
            raise Failure(Status.INVALID_PARAMETER)
        listing = handle.listing = Listing(pattern or "*")
    elif flags & _RESTART:
        listing = handle.listing = Listing(listing.pattern)
    return _list(exchange, listing, form, min(room, _MOST), bool(flags & _SINGLE))


class Output:
    """Entries packed into at most `room` bytes."""

    def __init__(self, form: Class, room: int) -> None:
        self._form = form
        self._room = room
        self._parts: list[tuple[bytes, Attributes]] = []
        self._used = 0

    def add(self, name: str, attributes: Attributes) -> bool:
        """False if the entry does not fit; then nothing has changed."""
        encoded = utf16(name)
        start = self._used + (-self._used & 7)
        end = start + self._form.fixed + len(encoded)
        if end > self._room:
            return False
        self._parts.append((encoded, attributes))
        self._used = end
        return True

    def estimate(self) -> int:
        """How many more entries may fit."""
        return (self._room - self._used) // (self._form.fixed + 24) + 2

    def __bool__(self) -> bool:
        return bool(self._parts)

    def encode(self) -> bytes:
        fixed, encode = self._form
        parts: list[bytes] = []
        for name, attributes in self._parts[:-1]:
            size = fixed + len(name)
            pad = -size & 7
            parts.append(encode(size + pad, len(name), attributes) + name + bytes(pad))
        name, attributes = self._parts[-1]
        parts.append(encode(0, len(name), attributes) + name)
        return b"".join(parts)


async def _list(exchange: Exchange, listing: Listing, form: Class, room: int, single: bool) -> Answer:
    output = Output(form, room)
    fits = True
    if not listing.ended:
        if has_wildcards(listing.pattern):
            fits = await _scan(exchange, listing, output, single)
        else:
            fits = await _one(exchange, listing, output)
    if not output:
        if not fits:
            raise Failure(Status.INFO_LENGTH_MISMATCH if listing.given else Status.BUFFER_OVERFLOW)
        raise Failure(Status.NO_MORE_FILES if listing.given else Status.NO_SUCH_FILE)
    listing.given = True
    data = output.encode()
    return _REPLY.pack(9, HEADER_SIZE + _REPLY.size, len(data)) + data


async def _one(exchange: Exchange, listing: Listing, output: Output) -> bool:
    """The single name that a pattern without wildcards can match."""
    handle = exchange.handle
    pattern = listing.pattern
    caller = exchange.session.caller
    try:
        if pattern in (".", ".."):
            name, attributes = pattern, await _dot(exchange, handle, pattern)
        else:
            found: Found = await exchange.call(Lookup(caller, handle.inode, (from_wire(pattern),), fold=True))
            name, attributes = to_wire(found.path[-1]), found.attributes
    except (NotFound, InvalidName, NameTooLong):
        listing.ended = True
        return True
    fits = output.add(name, attributes)
    listing.ended = fits
    return fits


async def _dot(exchange: Exchange, handle: Handle, name: str) -> Attributes:
    found: Found = await exchange.call(GetAttributes(handle.id))
    attributes = found.attributes
    assert exchange.tree.share is not None
    if name == ".." and handle.inode != exchange.tree.root:
        # The share's root is as far up as a client may see.
        found = await exchange.call(GetAttributes(Stateless(attributes.parent, exchange.session.caller)))
        attributes = found.attributes
    return attributes


async def _scan(exchange: Exchange, listing: Listing, output: Output, single: bool) -> bool:
    handle = exchange.handle
    matches = matcher(listing.pattern)
    for name in (".", "..")[listing.dots :]:
        if matches(name):
            if not output.add(name, await _dot(exchange, handle, name)):
                return False
            listing.dots += 1
            if single:
                return True
        else:
            listing.dots += 1
    hides = exchange.tree.share is not None and exchange.tree.share.smb.access_based_enumeration
    for turn in count(1):
        limit = 16 if single else min(_SLICE, output.estimate())
        request = ReadDirectory(exchange.session.caller, handle.inode, listing.cookie, limit, True, OpenId(handle.id))
        page: Entries = await exchange.call(request)
        for entry in page.entries:
            attributes = entry.attributes
            if attributes is not None:
                name = to_wire(entry.name)
                if matches(name) and not (hides and await _hidden(exchange, entry.inode)):
                    if not output.add(name, attributes):
                        return False
                    listing.cookie = entry.cookie
                    if single:
                        return True
            listing.cookie = entry.cookie
        if page.end:
            listing.ended = True
            return True
        if turn % _TURNS == 0:
            await exchange.connection.service.clock.sleep(0)
    raise AssertionError


async def _hidden(exchange: Exchange, inode: Inode) -> bool:
    """Access-based enumeration: whether the user lacks one of the rights that GENERIC_READ stands for, MS-SMB2 3.3.5.18."""
    rights: Rights = await exchange.call(CheckAccess(exchange.session.caller, inode, _GENERIC_READ))
    return rights.granted != _GENERIC_READ
