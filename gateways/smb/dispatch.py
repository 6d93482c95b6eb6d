"""The table of commands (MS-SMB2 3.3.5.4 to 3.3.5.22): what each needs before its handler runs.

`connection` checks; handlers only act. A handler takes the `Exchange` and gives an `Answer`, or is a coroutine that does.
"""

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from gateways.smb.commands import (
    change_notify,
    close,
    create,
    echo,
    flush,
    ioctl,
    lock,
    logoff,
    negotiate,
    oplock_break,
    query_directory,
    query_info,
    read,
    session_setup,
    set_info,
    tree_connect,
    write,
)
from gateways.smb.exchange import BODY, Answer, Exchange
from gateways.smb.header import Command
from gateways.smb.status import Failure, Status


class Rule(NamedTuple):
    name: str
    handler: Callable[[Exchange], Answer | Coroutine[Any, Any, Answer]]
    size: int
    """The structure size that the request's body begins with."""
    other: int = -1
    """Another structure size that it may begin with."""
    session: bool = True
    tree: bool = True
    file_at: int = 0
    """Where in the message the FileId of the open stands that it needs; 0: needs none."""
    least: int = 0
    """Bytes that the message must have; 0 stands for the header and as many as the structure size says."""
    changes: bool = False
    """Refused on a read-only share."""
    ordered: bool = False
    """Refused when it comes late from a channel that has failed, MS-SMB2 3.3.5.2.10."""
    waits: bool = False
    """It waits for others rather than for a disk: the client is told at once."""


def _never(exchange: Exchange) -> bytes:
    raise AssertionError("CANCEL has no handler")


def _unknown(exchange: Exchange) -> bytes:
    raise Failure(Status.INVALID_PARAMETER)


RULES: dict[int, Rule] = {
    Command.NEGOTIATE: Rule("NEGOTIATE", negotiate.handle, 36, session=False, tree=False),
    Command.SESSION_SETUP: Rule("SESSION_SETUP", session_setup.handle, 25, session=False, tree=False),
    Command.LOGOFF: Rule("LOGOFF", logoff.handle, 4, tree=False),
    Command.TREE_CONNECT: Rule("TREE_CONNECT", tree_connect.connect, 9, tree=False),
    Command.TREE_DISCONNECT: Rule("TREE_DISCONNECT", tree_connect.disconnect, 4),
    Command.CREATE: Rule("CREATE", create.handle, 57, waits=True),
    Command.CLOSE: Rule("CLOSE", close.handle, 24, file_at=8),
    Command.FLUSH: Rule("FLUSH", flush.handle, 24, file_at=8),
    Command.READ: Rule("READ", read.handle, 49, file_at=16),
    Command.WRITE: Rule("WRITE", write.handle, 49, file_at=16, changes=True, ordered=True),
    Command.LOCK: Rule("LOCK", lock.handle, 48, file_at=8, least=BODY + 24, waits=True),
    Command.IOCTL: Rule("IOCTL", ioctl.handle, 57, ordered=True),
    Command.CANCEL: Rule("CANCEL", _never, 4, session=False, tree=False),
    Command.ECHO: Rule("ECHO", echo.handle, 4, session=False, tree=False),
    Command.QUERY_DIRECTORY: Rule("QUERY_DIRECTORY", query_directory.handle, 33, file_at=8),
    Command.CHANGE_NOTIFY: Rule("CHANGE_NOTIFY", change_notify.handle, 32, file_at=8, waits=True),
    Command.QUERY_INFO: Rule("QUERY_INFO", query_info.handle, 41, file_at=24),
    Command.SET_INFO: Rule("SET_INFO", set_info.handle, 33, file_at=16, changes=True, ordered=True),
    Command.OPLOCK_BREAK: Rule("OPLOCK_BREAK", oplock_break.handle, 24, other=36),
}
for _command, _rule in RULES.items():
    # The structure size counts one byte of the variable part where there is one.
    RULES[_command] = _rule._replace(least=_rule.least or BODY + (_rule.size & ~1), file_at=BODY + _rule.file_at if _rule.file_at else 0)
_UNKNOWN = Rule("unknown command", _unknown, 0, session=False, tree=False)


def rule(command: int) -> Rule:
    return RULES.get(command, _UNKNOWN)
