"""Short names, 8.3, for clients that ask for them (MS-FSCC 2.4.5) and open files by them (2.1.5.2.1).

A name that is none itself gets one made of its first letter and a hash of it, so that nothing is stored for it. Listings do not tell short names,
as on volumes of Windows where their making is turned off. A path that leads nowhere and has a component of this form is looked for again among its
directory's names.
"""

import hashlib
import re

from gateways.smb.exchange import Exchange
from gateways.smb.names import Path, from_wire, to_wire
from sofs.errors import NotFound
from sofs.types import Inode
from sofs.volume.api import Entries, Found, Lookup, ReadDirectory
from sofs.volume.names import upcase

_VALID = re.compile(r"[A-Z0-9!#$%&'()@^_`{}~-]{1,8}(\.[A-Z0-9!#$%&'()@^_`{}~-]{1,3})?")
_OURS = re.compile(r"[A-Z0-9_][0-9A-Z]{5}~[0-9A-Z](\.[A-Z0-9_]{1,3})?")
_OTHERS = re.compile(r"[^A-Z0-9_]")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PAGE = 1024
_MOST = 1 << 16
"""Names of a directory among which a short one is looked for."""


def short_name(name: str) -> str:
    """The 8.3 name of what clients know as `name`."""
    upper = name.upper()
    if _VALID.fullmatch(upper):
        return upper
    base, dot, extension = upper.rpartition(".")
    if not dot or not base:
        base, extension = upper, ""
    first = (_OTHERS.sub("", base) or "_")[0]
    extension = _OTHERS.sub("", extension)[:3]
    number = int.from_bytes(hashlib.blake2b(upcase(from_wire(name)), digest_size=8).digest())
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, 36)
        digits += _DIGITS[digit]
    return f"{first}{digits[:5]}~{digits[5]}" + (f".{extension}" if extension else "")


def may_be_short(path: Path) -> bool:
    return any(b"~" in name for name in path.components)


async def resolve(exchange: Exchange, path: Path) -> Path | None:
    """The path with long names for short ones; None if there are no such files."""
    at, found = exchange.tree.root, []
    for name in path.components:
        try:
            reply: Found = await exchange.call(Lookup(exchange.session.caller, at, (name,), fold=True), exchange.tree.volume)
        except NotFound:
            long = await _search(exchange, at, to_wire(name).upper())
            if long is None:
                return None
            reply = await exchange.call(Lookup(exchange.session.caller, at, (long,)), exchange.tree.volume)
        found.append(reply.path[-1])
        at = reply.attributes.inode
    return path._replace(components=tuple(found))


async def _search(exchange: Exchange, at: Inode, wanted: str) -> bytes | None:
    if not _OURS.fullmatch(wanted):
        return None
    cookie = 0
    for _ in range(_MOST // _PAGE):
        page: Entries = await exchange.call(ReadDirectory(exchange.session.caller, at, cookie, _PAGE), exchange.tree.volume)
        for entry in page.entries:
            name = to_wire(entry.name)
            # Only a name that begins like the short one is worth a hash.
            if (name[:1].upper() == wanted[0] or not name[0].isalnum()) and short_name(name) == wanted:
                return entry.name
            cookie = entry.cookie
        if page.end:
            return None
        await exchange.connection.service.clock.sleep(0)  # others' turn
    return None
