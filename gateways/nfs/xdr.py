"""XDR (RFC 4506): message types whose annotations compile to pack and unpack functions.

A message is a `NamedTuple`. Its fields are annotated with the types below, other messages, or `X | None` (optional-data, RFC 4506
4.19). `codec(Message)` writes the source of two functions for it, once, in which neighbouring fields of fixed size (those of
nested messages too) go through one `struct.Struct`. `encode` and `decode` are what callers use.

Every length is bounded by its annotation, so a decoder never makes more of its input than the input is long. What cannot be
decoded raises `XdrError`.
"""

import struct
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from sofs.errors import PeerError
from sofs.runtime.ports import Buffer

M = TypeVar("M")


class XdrError(PeerError):
    """The bytes are no message of the type they should be."""


@dataclass(frozen=True)  # no tuple: Array(x, 2) must differ from Linked(x, 2)
class _Number:
    format: str


@dataclass(frozen=True)
class _Flag:
    pass


@dataclass(frozen=True)
class Opaque:
    """Variable-length opaque data or a string, RFC 4506 4.10 and 4.11, of at most `limit` bytes."""

    limit: int


@dataclass(frozen=True)
class Fixed:
    """Fixed-length opaque data, RFC 4506 4.9."""

    size: int


@dataclass(frozen=True)
class Array:
    """A counted array, RFC 4506 4.13, of at most `limit` elements."""

    element: Any
    limit: int


@dataclass(frozen=True)
class Linked:
    """A list linked by optional-data, RFC 4506 4.19: elements, each after a TRUE, then a FALSE."""

    element: Any
    limit: int


@dataclass(frozen=True)
class Switch:
    """A discriminated union, RFC 4506 4.15, as the pair (discriminant, arm).

    `arms` are the types by discriminant; `default` is that of the others, and without it they are refused.
    """

    arms: dict[int, Any]
    default: Any = None


class Void(NamedTuple):
    """Nothing."""


U32 = Annotated[int, _Number("I")]
I32 = Annotated[int, _Number("i")]
U64 = Annotated[int, _Number("Q")]
I64 = Annotated[int, _Number("q")]
Bool = Annotated[bool, _Flag()]

_COUNT = struct.Struct(">I")
_ZEROS = (b"", b"\0\0\0", b"\0\0", b"\0")


class Codec(NamedTuple):
    pack: Callable[[bytearray, Any], None]
    """Appends the value."""
    unpack: Callable[[memoryview, int], tuple[Any, int]]
    """Gives the value at an offset, and the offset behind it. May raise `struct.error`, so only for use through `decode`."""


def encode(message: Any) -> bytes:
    """The message as XDR."""
    out = bytearray()
    codec(type(message)).pack(out, message)
    return bytes(out)


def decode(kind: type[M], data: Buffer, at: int = 0) -> M:
    """The message of type `kind` at offset `at`; bytes behind it are left alone. Raises `XdrError`."""
    return unpack(kind, memoryview(data), at)[0]


def unpack(kind: type[M], data: memoryview, at: int) -> tuple[M, int]:
    """The message at `at` and the offset behind it. Raises `XdrError`."""
    try:
        value, end = codec(kind).unpack(data, at)
    except struct.error:
        raise XdrError(f"{kind.__name__} is cut short") from None
    return value, end


def pad(length: int) -> bytes:
    """The zeros that fill `length` bytes up to a multiple of four."""
    return _ZEROS[length & 3]


def opaque(data: bytes) -> bytes:
    """Opaque data or a string of variable length (RFC 4506 4.10, 4.11)."""
    return len(data).to_bytes(4) + data + pad(len(data))


def codec(kind: Any) -> Codec:
    """The compiled codec of a message or annotated type."""
    return _compiled(kind)


@cache
def _compiled(kind: Any) -> Codec:
    if isinstance(kind, type) and hasattr(kind, "_fields"):
        return Codec(_compile_pack(kind), _compile_unpack(kind))
    for spec in getattr(kind, "__metadata__", ()):
        if isinstance(spec, Opaque):
            return _opaque(spec.limit)
        if isinstance(spec, Array):
            return _array(codec(spec.element), spec.limit)
        if isinstance(spec, Linked):
            return _linked(codec(spec.element), spec.limit)
        if isinstance(spec, _Number):
            return _number(struct.Struct(">" + spec.format))
    if get_origin(kind) in (types.UnionType, Union):
        (inner,) = [part for part in get_args(kind) if part is not type(None)]
        return _optional(codec(inner))
    raise TypeError(f"{kind!r} has no XDR form")


def _switch(spec: Switch) -> Codec:
    arms = {value: codec(arm) for value, arm in spec.arms.items()}
    default = None if spec.default is None else codec(spec.default)

    def pack(out: bytearray, value: tuple[int, Any]) -> None:
        arm = arms.get(value[0], default)
        assert arm is not None, f"{value[0]} is no discriminant here"
        out += _COUNT.pack(value[0])
        arm.pack(out, value[1])

    def unpack(data: memoryview, at: int) -> tuple[tuple[int, Any], int]:
        (which,) = _COUNT.unpack_from(data, at)
        arm = arms.get(which, default)
        if arm is None:
            raise XdrError(f"{which} is no discriminant here")
        value, at = arm.unpack(data, at + 4)
        return (which, value), at

    return Codec(pack, unpack)


def _number(layout: struct.Struct) -> Codec:
    def pack(out: bytearray, value: int) -> None:
        out += layout.pack(value)

    def unpack(data: memoryview, at: int) -> tuple[int, int]:
        return layout.unpack_from(data, at)[0], at + layout.size

    return Codec(pack, unpack)


def _opaque(limit: int) -> Codec:
    def pack(out: bytearray, value: bytes) -> None:
        assert len(value) <= limit
        out += _COUNT.pack(len(value))
        out += value
        out += _ZEROS[len(value) & 3]

    def unpack(data: memoryview, at: int) -> tuple[bytes, int]:
        (length,) = _COUNT.unpack_from(data, at)
        if length > limit:
            raise XdrError(f"{length} bytes where at most {limit} are allowed")
        at += 4
        end = at + (length + 3 & ~3)
        if end > len(data):
            raise XdrError(f"{length} bytes announced, {len(data) - at} there")
        return bytes(data[at : at + length]), end

    return Codec(pack, unpack)


def _array(element: Codec, limit: int) -> Codec:
    def pack(out: bytearray, value: Sequence[Any]) -> None:
        assert len(value) <= limit
        out += _COUNT.pack(len(value))
        for item in value:
            element.pack(out, item)

    def unpack(data: memoryview, at: int) -> tuple[tuple[Any, ...], int]:
        (count,) = _COUNT.unpack_from(data, at)
        if count > limit:
            raise XdrError(f"{count} elements where at most {limit} are allowed")
        at += 4
        items = []
        for _ in range(count):
            item, at = element.unpack(data, at)
            items.append(item)
        return tuple(items), at

    return Codec(pack, unpack)


def _linked(element: Codec, limit: int) -> Codec:
    follows, ends = _COUNT.pack(1), _COUNT.pack(0)

    def pack(out: bytearray, value: Sequence[Any]) -> None:
        for item in value:
            out += follows
            element.pack(out, item)
        out += ends

    def unpack(data: memoryview, at: int) -> tuple[tuple[Any, ...], int]:
        items: list[Any] = []
        while True:
            (more,) = _COUNT.unpack_from(data, at)
            at += 4
            if not _flag(more):
                return tuple(items), at
            if len(items) == limit:
                raise XdrError(f"a list of more than {limit} elements")
            item, at = element.unpack(data, at)
            items.append(item)

    return Codec(pack, unpack)


def _optional(inner: Codec) -> Codec:
    there, absent = _COUNT.pack(1), _COUNT.pack(0)

    def pack(out: bytearray, value: Any) -> None:
        if value is None:
            out += absent
        else:
            out += there
            inner.pack(out, value)

    def unpack(data: memoryview, at: int) -> tuple[Any, int]:
        (flag,) = _COUNT.unpack_from(data, at)
        if not _flag(flag):
            return None, at + 4
        return inner.unpack(data, at + 4)

    return Codec(pack, unpack)


def _flag(value: int) -> bool:
    if value > 1:
        raise XdrError(f"{value} is no boolean")
    return value == 1


class _Source:
    """The body of a function being written: lines, and the fields of fixed size that wait for one struct."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"_flag": _flag}
        self.formats: list[str] = []
        self.values: list[str] = []
        self.counter = 0

    def bind(self, prefix: str, value: Any) -> str:
        """A name for `value` in the function's globals."""
        name = f"{prefix}{len(self.names)}"
        self.names[name] = value
        return name

    def variable(self) -> str:
        self.counter += 1
        return f"v{self.counter}"

    def layout(self) -> str | None:
        """The struct of the waiting fields, which then wait no longer."""
        if not self.formats:
            return None
        name = self.bind("layout", struct.Struct(">" + "".join(self.formats)))
        self.formats = []
        return name

    def function(self, head: str, name: str) -> Any:
        body = "".join(f"\n    {line}" for line in self.lines or ["pass"])
        exec(f"def {name}{head}:{body}", self.names)
        return self.names[name]


def _fixed_format(hint: Any) -> tuple[str, str] | None:
    """The struct format of a type of fixed size and how its value is made from what the struct gives."""
    for spec in getattr(hint, "__metadata__", ()):
        if isinstance(spec, _Number):
            return spec.format, "{}"
        if isinstance(spec, _Flag):
            return "I", "_flag({})"
        if isinstance(spec, Fixed):
            assert spec.size % 4 == 0
            return f"{spec.size}s", "{}"
    return None


def _field_codec(hint: Any) -> Codec:
    for spec in getattr(hint, "__metadata__", ()):
        if isinstance(spec, Switch):
            return _switch(spec)
    return codec(hint)


def _is_message(hint: Any) -> bool:
    return isinstance(hint, type) and hasattr(hint, "_fields")


def _compile_pack(kind: Any) -> Callable[[bytearray, Any], None]:
    source = _Source()

    def flush() -> None:
        name = source.layout()
        if name is not None:
            source.lines.append(f"out += {name}.pack({', '.join(source.values)})")
            source.values = []

    def field(hint: Any, expression: str) -> None:
        fixed = _fixed_format(hint)
        if fixed is not None:
            source.formats.append(fixed[0])
            source.values.append(expression)
        elif _is_message(hint):
            message(hint, expression)
        else:
            flush()
            source.lines.append(f"{source.bind('pack', _field_codec(hint).pack)}(out, {expression})")

    def message(kind: Any, expression: str) -> None:
        for name, hint in _hints(kind).items():
            field(hint, f"{expression}.{name}")

    message(kind, "value")
    flush()
    function: Callable[[bytearray, Any], None] = source.function("(out, value)", "pack")
    return function


def _compile_unpack(kind: Any) -> Callable[[memoryview, int], tuple[Any, int]]:
    source = _Source()

    def flush() -> None:
        name = source.layout()
        if name is not None:
            source.lines.append(f"{', '.join(source.values)}, = {name}.unpack_from(data, at)")
            source.lines.append(f"at += {source.names[name].size}")
            source.values = []

    def field(hint: Any) -> str:
        """Writes what reads one field; gives the expression of its value."""
        fixed = _fixed_format(hint)
        if fixed is not None:
            variable = source.variable()
            source.formats.append(fixed[0])
            source.values.append(variable)
            return fixed[1].format(variable)
        if _is_message(hint):
            return message(hint)
        flush()
        variable = source.variable()
        source.lines.append(f"{variable}, at = {source.bind('unpack', _field_codec(hint).unpack)}(data, at)")
        return variable

    def message(kind: Any) -> str:
        parts = [field(hint) for hint in _hints(kind).values()]
        return f"{source.bind('Kind', kind)}({', '.join(parts)})"

    result = message(kind)
    flush()
    source.lines.append(f"return {result}, at")
    function: Callable[[memoryview, int], tuple[Any, int]] = source.function("(data, at)", "unpack")
    return function


def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in kind._fields}
