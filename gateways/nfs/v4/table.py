"""The table of operations: one line for each, with its preconditions (RFC 8881 section 18, RFC 7862 section 15, RFC 8276 section 8)."""

import struct
from collections.abc import Callable
from typing import Any

from gateways.nfs.v4.compound import ANYWHERE, CURRENT_FH, FIRST, ONLY, SAVED_FH, Compound, Operation, Outcome, Unreadable
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import NoArguments
from gateways.nfs.xdr import XdrError, codec

__all__ = ["ILLEGAL", "OPERATIONS", "read_operation"]

ILLEGAL = 10044
_NUMBER = struct.Struct(">I")


def _unsupported(compound: Compound, args: Any) -> Outcome:
    raise Failure(Status.NOTSUPP)


FILE_OPERATIONS: dict[int, Operation] = {}
"""Filehandles, attributes, names, data: what works on files."""

STATE_OPERATIONS: dict[int, Operation] = {}
"""Clients, sessions, opens, locks and delegations."""

OPERATIONS: dict[int, Operation] = FILE_OPERATIONS | STATE_OPERATIONS

Unpack = Callable[[memoryview, int], tuple[Any, int]]


def _unpack(operation: Operation) -> Unpack:
    unpack: Unpack = codec(operation.arguments).unpack if isinstance(operation.arguments, type) else operation.arguments
    return unpack


_ROUTES: tuple[dict[int, tuple[Operation, Unpack]], ...] = tuple(
    {number: (operation, _unpack(operation)) for number, operation in OPERATIONS.items() if operation.minor <= minor} for minor in range(3)
)


def read_operation(data: memoryview, at: int, minor: int) -> tuple[int, Operation, Any, int]:
    """The operation at `at`: its number, its line, its arguments and where the next begins. Raises `Unreadable`."""
    try:
        (number,) = _NUMBER.unpack_from(data, at)
    except struct.error:
        raise Unreadable(Status.BADXDR, ILLEGAL) from None
    route = _ROUTES[minor].get(number)
    if route is None:
        raise Unreadable(Status.OP_ILLEGAL, ILLEGAL)
    operation, unpack = route
    try:
        arguments, at = unpack(data, at + 4)
    except (struct.error, XdrError):
        raise Unreadable(Status.BADXDR, number) from None
    return number, operation, arguments, at
