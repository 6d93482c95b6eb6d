"""Outcomes of calls, as bytes: a `SofsError` reaches the caller in the class, with the message and the gate, in which it was raised."""

import msgspec

from sofs import encoding, errors
from sofs.errors import PeerError, SofsError, SymlinkInPath, Unavailable
from sofs.types import Lsn

_CLASSES = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, SofsError)}


class _Outcome(msgspec.Struct, array_like=True):
    name: str
    message: str
    gate: int
    target: bytes = b""
    """Of `SymlinkInPath`, with the next two."""
    unparsed: int = 0
    relative: bool = False


def encode(error: SofsError) -> bytes:
    """A class of which `sofs.errors` knows only a base travels as that base, so that the far side knows what to do about it."""
    kind = next(each for each in type(error).__mro__ if _CLASSES.get(each.__name__) is each)
    if kind is SofsError:
        kind = Unavailable
    if isinstance(error, SymlinkInPath):
        outcome = _Outcome(kind.__name__, "", error.gate, error.target, error.unparsed, error.relative)
    else:
        outcome = _Outcome(kind.__name__, str(error), error.gate)
    return encoding.encode(outcome)


def decode(data: memoryview) -> SofsError:
    """Raises `PeerError`."""
    outcome = encoding.decode(data, _Outcome, "an outcome")
    kind = _CLASSES.get(outcome.name)
    result: SofsError
    if kind is SymlinkInPath:
        result = SymlinkInPath(outcome.target, outcome.unparsed, outcome.relative)
    elif kind is None:
        # Of a newer release than this one.
        result = Unavailable(f"{outcome.name}: {outcome.message}")
    else:
        result = kind(outcome.message)
    if not 0 <= outcome.gate < 1 << 63:
        raise PeerError(f"an outcome with the gate {outcome.gate}")
    result.gate = Lsn(outcome.gate)
    return result
