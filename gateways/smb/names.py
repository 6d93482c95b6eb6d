"""Names on the wire and names in the volume.

SMB names are UTF-16; the volume's are bytes: UTF-8, with lone surrogates as WTF-8. Linux and NFS clients store names that Windows cannot
show. Those appear with private characters in place of the offending ones, by the mapping that Services for Macintosh began and Linux's cifs and
macOS use: controls as U+F001-F01F, `" * : < > ? \\ |` as U+F020-F027, a space or dot at the end as U+F028-F029. Bytes that are
no WTF-8 appear as U+F080-F0FF, and so do the bytes of a stored name that itself has a character from U+F000-F0FF, so
that the mapping is one to one: what a client is shown leads back to the same file.
"""

import re
from typing import NamedTuple

from gateways.smb.status import Failure, Status

MAX_PATH = 32 << 10
"""UTF-16 units in a path."""

_SFM = {'"': 0xF020, "*": 0xF021, ":": 0xF022, "<": 0xF023, ">": 0xF024, "?": 0xF025, "\\": 0xF026, "|": 0xF027}
_TO_WIRE = {ord(char): code for char, code in _SFM.items()} | {code: 0xF000 + code for code in range(1, 32)}
_FROM_WIRE = {code: char for char, code in _TO_WIRE.items()}
_ODD = re.compile(r'["*:<>?\\|\x01-\x1f\uf000-\uf0ff]|[ .]\Z')
_PRIVATE = re.compile("[\uf000-\uf0ff]")
_FORBIDDEN = re.compile(r'["*<>?|/\x00-\x1f]')
_DATA = ("$DATA", "")


class Path(NamedTuple):
    """A file as a CREATE names it: components as the volume has them, and a stream of the last ("" for the file itself)."""

    components: tuple[bytes, ...]
    stream: bytes = b""
    colon: bool = False
    """The name had a stream part, if only `::$DATA`: a directory cannot be meant."""


def to_wire(name: bytes) -> str:
    """A stored name as SMB clients see it."""
    try:
        text = name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return _escape_bytes(name)
    if _ODD.search(text) is None or name in (b".", b".."):
        return text
    if _PRIVATE.search(text) is not None:
        return _escape_bytes(name)
    text = text.translate(_TO_WIRE)
    if text[-1] in " .":
        text = text[:-1] + ("\uf028" if text[-1] == " " else "\uf029")
    return text


def _escape_bytes(name: bytes) -> str:
    """Byte for byte: ASCII by the usual mapping, everything else as U+F0xx, except well-formed characters that are not private."""
    shown = []
    at = 0
    while at < len(name):
        for length in (1, 2, 3, 4):
            try:
                char = name[at : at + length].decode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                continue
            if char and not _PRIVATE.match(char):
                shown.append(chr(_TO_WIRE.get(ord(char), ord(char))))
                at += length
                break
        else:
            shown.append(chr(0xF000 + name[at]))
            at += 1
    if shown[-1] in " .":
        shown[-1] = "\uf028" if shown[-1] == " " else "\uf029"
    return "".join(shown)


def link_target(text: bytes) -> str:
    """A symbolic link's text as SMB clients see it; one with a backslash came from them, and goes back as it is."""
    if b"\\" in text:
        try:
            return text.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return text.decode("utf-8", "replace")  # made over NFS, and leads nowhere that has a name here
    return "\\".join(part.decode() if part in (b"", b".", b"..") else to_wire(part) for part in text.split(b"/"))


def from_wire(name: str) -> bytes:
    """A component that a client sent, as the volume stores it."""
    if _PRIVATE.search(name) is None:
        return name.encode("utf-8", "surrogatepass")
    parts: list[bytes] = []
    for at, char in enumerate(name):
        code = ord(char)
        if code in _FROM_WIRE:
            parts.append(bytes([_FROM_WIRE[code]]))
        elif code in (0xF028, 0xF029) and at == len(name) - 1:
            parts.append(b" " if code == 0xF028 else b".")
        elif 0xF080 <= code <= 0xF0FF:
            parts.append(bytes([code - 0xF000]))
        else:
            parts.append(char.encode("utf-8", "surrogatepass"))
    stored = b"".join(parts)
    if b"/" in stored or b"\0" in stored or stored in (b".", b".."):
        raise Failure(Status.OBJECT_NAME_INVALID)
    return stored


def parse_path(text: str) -> Path:
    """A path relative to a share, MS-FSCC 2.1.5. Raises `Failure`.

    An empty path is the share's root. A leading backslash is an error on the wire (MS-SMB2 2.2.13).
    """
    if not text:
        return Path(())
    if len(text) > MAX_PATH:
        raise Failure(Status.OBJECT_NAME_INVALID)
    if text[0] == "\\":
        raise Failure(Status.INVALID_PARAMETER)
    if text[-1] == "\\":
        text = text[:-1]
    components = text.split("\\")
    if ".." in components:
        components = _without_parents(components)
        if not components:
            return Path(())
    stream, colon = b"", ":" in components[-1]
    if colon:
        components[-1], stream = _split_stream(components[-1])
    for component in components:
        check_component(component)
    return Path(tuple(map(from_wire, components)), stream, colon)


def _without_parents(components: list[str]) -> list[str]:
    """`a\\..` leads to where `a` is. Clients resolve that themselves and must not send it (MS-FSCC 2.1.5.1); those that do are
    not refused. Raises `Failure` for what leads out of the share."""
    kept: list[str] = []
    for component in components:
        if component != "..":
            kept.append(component)
        elif kept:
            check_component(kept.pop())
        else:
            raise Failure(Status.OBJECT_PATH_SYNTAX_BAD)
    return kept


def check_component(component: str) -> None:
    """Raises `Failure` for what cannot name a file on the wire."""
    if component in (".", ".."):
        raise Failure(Status.OBJECT_PATH_SYNTAX_BAD)
    if not component or _FORBIDDEN.search(component) is not None or ":" in component:
        raise Failure(Status.OBJECT_NAME_INVALID)
    if len(component) > 255:
        raise Failure(Status.OBJECT_NAME_INVALID)


def _split_stream(component: str) -> tuple[str, bytes]:
    """`file:stream:type` as file and stream, MS-FSCC 2.1.5.3."""
    name, stream, *kind = component.split(":")
    if len(kind) > 1 or (kind and kind[0].upper() not in _DATA):
        raise Failure(Status.OBJECT_NAME_INVALID)
    if kind == [""] or (not stream and not kind):
        raise Failure(Status.OBJECT_NAME_INVALID)
    return name, parse_stream(stream)


def parse_stream(stream: str) -> bytes:
    """A stream's own name. Raises `Failure`."""
    if len(stream) > 255 or any(char in "\\/:\0" for char in stream):
        raise Failure(Status.OBJECT_NAME_INVALID)
    return stream.encode("utf-8", "surrogatepass")
