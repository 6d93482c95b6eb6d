"""Names: which bytes may be one, how two of them compare in any case, and where a name's entry stands.

Names are bytes, nearly always UTF-8; Windows names with lone surrogates are WTF-8 (each such unit as three bytes of its own). NFS may
store other bytes: they are kept as they are and compare by their ASCII letters.

`upcase` maps each UTF-16 unit to one unit, by a table that is part of the volume's format: generated once from Unicode 14.0's
simple upper-case mappings within the basic plane, without those that would turn a letter into an ASCII one (as NTFS: else
`\u0131` and `i` would be the same name) and without the micro sign. It is never regenerated; another table would get another id. Python's `casefold` and
`upper` are neither one-to-one nor the same in every version.
"""

import hashlib
from functools import lru_cache

from sofs.errors import InvalidArgument, InvalidName, NameTooLong

UPCASE_ID = b"unicode-14.0-simple-1"
"""Names the table below; a volume formatted with a table that is not ours is not opened."""

UPCASE_CRC32C = 0x5C607FDA
"""Over all 65,536 units of the table, little-endian."""

_REMEMBERED = 1 << 13
"""Names whose hashes are remembered, for each volume."""

NUMBER_BITS = 15
"""Low bits of a cookie, which separate names of one hash."""
MAX_NUMBER = (1 << NUMBER_BITS) - 1

MAX_LINK = 4095
"""Bytes of a symbolic link's text (PATH_MAX less its NUL)."""
MAX_UNITS = 255
"""UTF-16 units in a name (MS-FSCC 2.1.5); bytes, where the name is not UTF-8."""

# First unit in hexadecimal, count, step, difference: 187 runs, 1,187 units.
_RUNS = """
61 26 1 -32, e0 23 1 -32, f8 7 1 -32, ff 1 1 121, 101 24 2 -1, 133 3 2 -1, 13a 8 2 -1, 14b 23 2 -1,
17a 3 2 -1, 180 1 1 195, 183 2 2 -1, 188 1 1 -1, 18c 1 1 -1, 192 1 1 -1, 195 1 1 97, 199 1 1 -1, 19a 1 1 163,
19e 1 1 130, 1a1 3 2 -1, 1a8 1 1 -1, 1ad 1 1 -1, 1b0 1 1 -1, 1b4 2 2 -1, 1b9 1 1 -1, 1bd 1 1 -1, 1bf 1 1 56,
1c5 1 1 -1, 1c6 1 1 -2, 1c8 1 1 -1, 1c9 1 1 -2, 1cb 1 1 -1, 1cc 1 1 -2, 1ce 8 2 -1, 1dd 1 1 -79, 1df 9 2 -1,
1f2 1 1 -1, 1f3 1 1 -2, 1f5 1 1 -1, 1f9 20 2 -1, 223 9 2 -1, 23c 1 1 -1, 23f 2 1 10815, 242 1 1 -1,
247 5 2 -1, 250 1 1 10783, 251 1 1 10780, 252 1 1 10782, 253 1 1 -210, 254 1 1 -206, 256 2 1 -205,
259 1 1 -202, 25b 1 1 -203, 25c 1 1 42319, 260 1 1 -205, 261 1 1 42315, 263 1 1 -207, 265 1 1 42280,
266 1 1 42308, 268 1 1 -209, 269 1 1 -211, 26a 1 1 42308, 26b 1 1 10743, 26c 1 1 42305, 26f 1 1 -211,
271 1 1 10749, 272 1 1 -213, 275 1 1 -214, 27d 1 1 10727, 280 1 1 -218, 282 1 1 42307, 283 1 1 -218,
287 1 1 42282, 288 1 1 -218, 289 1 1 -69, 28a 2 1 -217, 28c 1 1 -71, 292 1 1 -219, 29d 1 1 42261,
29e 1 1 42258, 345 1 1 84, 371 2 2 -1, 377 1 1 -1, 37b 3 1 130, 3ac 1 1 -38, 3ad 3 1 -37, 3b1 17 1 -32,
3c2 1 1 -31, 3c3 9 1 -32, 3cc 1 1 -64, 3cd 2 1 -63, 3d0 1 1 -62, 3d1 1 1 -57, 3d5 1 1 -47, 3d6 1 1 -54,
3d7 1 1 -8, 3d9 12 2 -1, 3f0 1 1 -86, 3f1 1 1 -80, 3f2 1 1 7, 3f3 1 1 -116, 3f5 1 1 -96, 3f8 1 1 -1,
3fb 1 1 -1, 430 32 1 -32, 450 16 1 -80, 461 17 2 -1, 48b 27 2 -1, 4c2 7 2 -1, 4cf 1 1 -15, 4d1 48 2 -1,
561 38 1 -48, 10d0 43 1 3008, 10fd 3 1 3008, 13f8 6 1 -8, 1c80 1 1 -6254, 1c81 1 1 -6253, 1c82 1 1 -6244,
1c83 2 1 -6242, 1c85 1 1 -6243, 1c86 1 1 -6236, 1c87 1 1 -6181, 1c88 1 1 35266, 1d79 1 1 35332,
1d7d 1 1 3814, 1d8e 1 1 35384, 1e01 75 2 -1, 1e9b 1 1 -59, 1ea1 48 2 -1, 1f00 8 1 8, 1f10 6 1 8, 1f20 8 1 8,
1f30 8 1 8, 1f40 6 1 8, 1f51 4 2 8, 1f60 8 1 8, 1f70 2 1 74, 1f72 4 1 86, 1f76 2 1 100, 1f78 2 1 128,
1f7a 2 1 112, 1f7c 2 1 126, 1f80 8 1 8, 1f90 8 1 8, 1fa0 8 1 8, 1fb0 2 1 8, 1fb3 1 1 9, 1fbe 1 1 -7205,
1fc3 1 1 9, 1fd0 2 1 8, 1fe0 2 1 8, 1fe5 1 1 7, 1ff3 1 1 9, 214e 1 1 -28, 2170 16 1 -16, 2184 1 1 -1,
24d0 26 1 -26, 2c30 48 1 -48, 2c61 1 1 -1, 2c65 1 1 -10795, 2c66 1 1 -10792, 2c68 3 2 -1, 2c73 1 1 -1,
2c76 1 1 -1, 2c81 50 2 -1, 2cec 2 2 -1, 2cf3 1 1 -1, 2d00 38 1 -7264, 2d27 1 1 -7264, 2d2d 1 1 -7264,
a641 23 2 -1, a681 14 2 -1, a723 7 2 -1, a733 31 2 -1, a77a 2 2 -1, a77f 5 2 -1, a78c 1 1 -1, a791 2 2 -1,
a794 1 1 48, a797 10 2 -1, a7b5 8 2 -1, a7c8 2 2 -1, a7d1 1 1 -1, a7d7 2 2 -1, a7f6 1 1 -1, ab53 1 1 -928,
ab70 80 1 -38864, ff41 26 1 -32
"""


def _table() -> dict[int, int]:
    table = {}
    for run in _RUNS.replace("\n", " ").split(","):
        first, count, step, difference = run.split()
        for unit in range(int(first, 16), int(first, 16) + int(count) * int(step), int(step)):
            table[unit] = unit + int(difference)
    return table


UPCASE = _table()
"""Unit to upper-case unit; a unit that is not here maps to itself."""


def upcase(name: bytes) -> bytes:
    """The form by which names are compared in any case."""
    if name.isascii():
        return name.upper()
    try:
        text = name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return name.upper()  # ASCII letters only
    return text.translate(UPCASE).encode("utf-8", "surrogatepass")


def check(name: bytes) -> None:
    """Raises `InvalidName` or `NameTooLong` unless `name` can be a component's name."""
    if not name or name == b"." or name == b".." or b"/" in name or b"\0" in name:
        raise InvalidName(f"{name!r} cannot be a file's name")
    if len(name) > MAX_UNITS:
        _check_units(name)


def _check_units(name: bytes) -> None:
    try:
        units = len(name.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")) // 2
    except UnicodeDecodeError:
        units = len(name)
    if units > MAX_UNITS:
        raise NameTooLong(f"a name of {units} UTF-16 units; {MAX_UNITS} can be stored")


def check_stream(name: bytes) -> None:
    """The same for a named stream (MS-FSCC 2.1.5.3), whose name may be `.`, but holds neither colon nor backslash."""
    if not name or any(byte in name for byte in b":/\\\0"):
        raise InvalidName(f"{name!r} cannot be a stream's name")
    if len(name) > MAX_UNITS:
        _check_units(name)


class NameHash:
    """Where names stand: a keyed hash, so that nobody can choose names that collide.

    The key is the volume's secret, made when it is formatted.
    """

    def __init__(self, key: bytes) -> None:
        self._empty = hashlib.blake2b(digest_size=6, key=key)
        # Names are looked up again and again: 0.1 us for one that is remembered, 1.7 for another.
        self.first = lru_cache(_REMEMBERED)(self._first)

    def _first(self, name: bytes) -> int:
        """The cookie of number 0 for this name; all case variants have the same. Never below 2**15, so cookies 0 to 2 stay free."""
        state = self._empty.copy()  # half the cost of a new keyed state
        state.update(upcase(name))
        return (int.from_bytes(state.digest()) or 1) << NUMBER_BITS


def check_link(text: bytes) -> None:
    """Raises `InvalidArgument` or `NameTooLong` for what cannot be a symbolic link's text."""
    if not text or b"\0" in text:
        raise InvalidArgument("a symbolic link needs a text without NUL")
    if len(text) > MAX_LINK:
        raise NameTooLong(f"a symbolic link's text of {len(text)} bytes")
