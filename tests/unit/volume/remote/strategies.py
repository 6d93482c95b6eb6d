"""Any value of a type that the volume's interface is made of: structs, named tuples and what they hold."""

import enum
import types
import typing
from typing import Any

import msgspec
from hypothesis import strategies as st

from sofs.volume.api import Reply, Slot, State, Written

__all__ = ["any_of"]

_INTEGERS = st.integers(-(2**63), 2**64 - 1)


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Raises `AssertionError` for a type that it does not know: then a message holds something new."""
    if hasattr(kind, "__supertype__"):
        return any_of(kind.__supertype__)
    if kind in (None, type(None)):
        return st.none()
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([any_of(each) for each in arguments])
    if origin is list:
        return st.lists(any_of(arguments[0]), max_size=3)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(any_of(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*[any_of(each) for each in arguments])
    if isinstance(kind, type):
        if issubclass(kind, enum.Enum):
            return st.sampled_from(list(kind))
        if issubclass(kind, msgspec.Struct):
            return _struct(kind)
        if issubclass(kind, tuple):
            hints = typing.get_type_hints(kind)
            return st.builds(kind, **{name: any_of(hints[name]) for name in kind._fields})  # type: ignore[attr-defined]
        simple = {bool: st.booleans(), int: _INTEGERS, bytes: st.binary(max_size=20), str: st.text(max_size=8)}
        if kind in simple:
            return simple[kind]
    raise AssertionError(f"no strategy for {kind}")


def _struct(kind: type[Any]) -> st.SearchStrategy[Any]:
    fields = {field.name: any_of(field.type) for field in msgspec.structs.fields(kind)}
    if kind is Slot:
        # Its reply may be of any kind, but for those that hold slots themselves.
        fields["reply"] = st.one_of(st.none(), *[_struct(each) for each in (Reply, State, Written)])
    return st.builds(kind, **fields)
