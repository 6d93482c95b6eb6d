"""The table of operations: one line for each, with its preconditions (RFC 8881 section 18, RFC 7862 section 15, RFC 8276 section 8)."""

import struct
from collections.abc import Callable
from typing import Any

from gateways.nfs.v4 import exchange, locking, opening, security, sessions, slots, states
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.file_operations import FILE_OPERATIONS
from gateways.nfs.v4.operation import ANYWHERE, CURRENT_FH, FIRST, ONLY, Operation, Outcome, Unreadable
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import NoArguments
from gateways.nfs.xdr import XdrError, codec
from sofs.errors import DeletePending
from sofs.types import Kind

ILLEGAL = 10044
_NUMBER = struct.Struct(">I")


def _not_supported(c: Compound, args: NoArguments) -> Outcome:
    raise Failure(Status.NOTSUPP)


def _without(name: str, minor: int = 1) -> Operation:
    """An operation that is not offered. What it is sent with is not looked at, since nothing follows it."""
    return Operation(name, NoArguments, _not_supported, minor=minor)


_DIRECTORY = Kind.DIRECTORY
STATE_OPERATIONS: dict[int, Operation] = {
    4: Operation("CLOSE", states.CloseArgs, states.close, CURRENT_FH, records=True, above=Status.BAD_STATEID),
    7: _without("DELEGPURGE"),
    8: Operation("DELEGRETURN", states.StateidArgs, states.delegreturn, CURRENT_FH, records=True, above=Status.BAD_STATEID),
    12: Operation("LOCK", locking.LockArgs, locking.lock, CURRENT_FH, records=True, above=Status.ISDIR, works_on=Kind.FILE),
    13: Operation("LOCKT", locking.LockTestArgs, locking.lockt, CURRENT_FH, above=Status.ISDIR, works_on=Kind.FILE),
    14: Operation("LOCKU", locking.UnlockArgs, locking.locku, CURRENT_FH, records=True, above=Status.BAD_STATEID),
    18: Operation(
        "OPEN", opening.OpenArgs, opening.open_file, CURRENT_FH, records=True, above=opening.open_above, statuses={DeletePending: Status.SHARE_DENIED}
    ),  # FILE_OPEN is for names (RFC 8881 15.2)
    20: _without("OPEN_CONFIRM"),
    21: Operation("OPEN_DOWNGRADE", states.DowngradeArgs, states.open_downgrade, CURRENT_FH, records=True, above=Status.BAD_STATEID),
    30: _without("RENEW"),
    33: Operation("SECINFO", security.SecInfoArgs, security.secinfo, CURRENT_FH, above=security.secinfo_above, works_on=_DIRECTORY),
    35: _without("SETCLIENTID"),
    36: _without("SETCLIENTID_CONFIRM"),
    39: _without("RELEASE_LOCKOWNER"),
    40: Operation("BACKCHANNEL_CTL", sessions.BackchannelArgs, sessions.backchannel_ctl),
    41: Operation("BIND_CONN_TO_SESSION", sessions.BindArgs, sessions.bind_conn_to_session, first=ANYWHERE),
    42: Operation("EXCHANGE_ID", exchange.ExchangeArgs, exchange.exchange_id, first=ONLY),
    43: Operation("CREATE_SESSION", sessions.CreateSessionArgs, sessions.create_session, first=ONLY),
    44: Operation("DESTROY_SESSION", sessions.DestroySessionArgs, sessions.destroy_session, first=ONLY),
    45: Operation("FREE_STATEID", states.StateidArgs, states.free_stateid, records=True),
    46: _without("GET_DIR_DELEGATION"),
    47: _without("GETDEVICEINFO"),
    48: _without("GETDEVICELIST"),
    49: _without("LAYOUTCOMMIT"),
    50: _without("LAYOUTGET"),
    51: _without("LAYOUTRETURN"),
    52: Operation("SECINFO_NO_NAME", security.SecInfoNoNameArgs, security.secinfo_no_name, CURRENT_FH, above=security.secinfo_no_name_above),
    53: Operation("SEQUENCE", slots.SequenceArgs, slots.sequence, first=FIRST),
    54: _without("SET_SSV"),
    55: Operation("TEST_STATEID", states.TestStateidArgs, states.test_stateid),
    56: _without("WANT_DELEGATION"),
    57: Operation("DESTROY_CLIENTID", exchange.DestroyClientArgs, exchange.destroy_clientid, first=ONLY),
    58: Operation("RECLAIM_COMPLETE", exchange.ReclaimCompleteArgs, exchange.reclaim_complete),
    64: _without("LAYOUTERROR", 2),
    65: _without("LAYOUTSTATS", 2),
}
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
        raise Unreadable(Status.BADXDR, number, operation.failure) from None
    return number, operation, arguments, at
