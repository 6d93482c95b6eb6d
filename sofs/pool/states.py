"""The states of a disk, as a table.

Theory of operation. A disk is *healthy* while nothing speaks against it. The first error on reading makes it *suspect*: its
data is still read, but only after other copies, and new extents go elsewhere if they can. A probe, which the
scrubber makes, clears a suspect or condemns it. An error on writing or syncing makes a disk *failed* at once: after it nobody knows which of the
last writes the disk holds, so nothing on it is used until it is opened again, by an operator or at the next start, which reads
and verifies its slot table anew. A disk is *missing* when its directory or label is not there, or when another disk's label is:
the data may come back, so nobody forgets it. *Draining* and *retired* are the operator's: a
draining disk is read but takes no new extents; once it holds none it is retired, and can be pulled. Draining does not hide
trouble: a draining disk that cannot be read is failed.

All of this is decided at the node that has the disk. The pools of other nodes take its word for it; as long as they do not hear it, or the
disk has just failed to answer them, it is missing there, and suspect for a while when it was too slow.

What may be done with a disk follows from its state alone: `READABLE` and `WRITABLE`.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from sofs.errors import InvalidArgument


class State(StrEnum):
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    MISSING = "missing"
    FAILED = "failed"
    DRAINING = "draining"
    RETIRED = "retired"


class Event(StrEnum):
    OPENED = "opened"
    """Its label and slot table have been read and verified."""
    ABSENT = "absent"
    """The directory, or the label that belongs there, is not there."""
    READ_ERROR = "read error"
    WRITE_ERROR = "write error"
    PROBE_PASSED = "probe passed"
    PROBE_FAILED = "probe failed"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    EMPTIED = "emptied"
    """No extent is left on it."""


READABLE = frozenset({State.HEALTHY, State.SUSPECT, State.DRAINING})
WRITABLE = frozenset({State.HEALTHY, State.SUSPECT})


_H, _S, _M, _F, _D, _R = State
_E = Event

TRANSITIONS: Mapping[State, Mapping[Event, State]] = MappingProxyType({
    _H: {_E.OPENED: _H, _E.ABSENT: _M, _E.READ_ERROR: _S, _E.WRITE_ERROR: _F, _E.PROBE_PASSED: _H, _E.PROBE_FAILED: _F,
         _E.DRAIN: _D, _E.UNDRAIN: _H},
    _S: {_E.OPENED: _H, _E.ABSENT: _M, _E.READ_ERROR: _S, _E.WRITE_ERROR: _F, _E.PROBE_PASSED: _H, _E.PROBE_FAILED: _F,
         _E.DRAIN: _D, _E.UNDRAIN: _S},
    _M: {_E.OPENED: _H, _E.ABSENT: _M, _E.READ_ERROR: _M, _E.WRITE_ERROR: _M, _E.PROBE_PASSED: _M, _E.PROBE_FAILED: _M},
    _F: {_E.OPENED: _H, _E.ABSENT: _M, _E.READ_ERROR: _F, _E.WRITE_ERROR: _F, _E.PROBE_PASSED: _F, _E.PROBE_FAILED: _F},
    _D: {_E.OPENED: _D, _E.ABSENT: _M, _E.READ_ERROR: _D, _E.WRITE_ERROR: _F, _E.PROBE_PASSED: _D, _E.PROBE_FAILED: _F,
         _E.DRAIN: _D, _E.UNDRAIN: _H, _E.EMPTIED: _R},
    _R: {_E.OPENED: _R, _E.ABSENT: _R, _E.READ_ERROR: _R, _E.WRITE_ERROR: _R, _E.PROBE_PASSED: _R, _E.PROBE_FAILED: _R,
         _E.DRAIN: _R, _E.UNDRAIN: _H, _E.EMPTIED: _R},
})  # fmt: skip


def after(state: State, event: Event) -> State:
    """The state that follows. What happens to a disk is always in the table; an operator's wish that makes no sense in
    this state raises `InvalidArgument`.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise InvalidArgument(f"a {state} disk cannot be changed by {event!s}") from None
