"""What the holder of a write delegation knows of a file that another client asks about (RFC 8881 10.4.3, CB_GETATTR 20.1).

The holder may have changed data and size without a word. So GETATTR by others asks it first; nothing is recalled. If it says that it has changed the
file, the file's change attribute and time of modification move on here, and its size is what the holder says.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import structlog

from gateways.nfs.handles import Place
from gateways.nfs.v4.attributes import Attr, words_of
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.operation import Ask, Outcome, Wait
from gateways.nfs.xdr import opaque
from sofs.errors import Unavailable
from sofs.types import Lsn, Time
from sofs.volume.api import Caller, Changes, SetAttributes, Stateless

if TYPE_CHECKING:
    from gateways.nfs.v4.clients import Client
    from gateways.nfs.v4.service import Service
    from gateways.nfs.v4.stateids import Held

log = structlog.get_logger("nfs")

CB_GETATTR = 3
PATIENCE_S = 3.0
"""What all others wait for a holder's answer, once: a client that does not answer must not make a file useless to those who only look at it."""
ASKED = 1 << Attr.CHANGE | 1 << Attr.SIZE
CONCERNED = ASKED | 1 << Attr.TIME_MODIFY | 1 << Attr.TIME_METADATA
"""The attributes for whose sake the holder is asked."""
_NOW = Time(-1)
_SERVER = Caller(0, 0, privileged=True)
_UP_TO_SIZE = (1 << Attr.SIZE + 1) - 1
_HEAD = struct.Struct(">II")  # status, length of the tag
_VALUES = struct.Struct(">IQQ")  # length, change, size


class Reported(NamedTuple):
    """What the holder says; `size` is None if it has changed nothing, or says nothing."""

    gate: Lsn
    size: int | None


def asked_of_holder(c: Compound, place: Place, then: Callable[[int | None], Outcome]) -> Outcome:
    """Goes on with `then`, which gets the size if it is another one than the volume knows."""
    assert c.session is not None
    holder = None if place.snapshot else c.service.writer(place.volume.id, place.inode, c.session.client)
    if holder is None:
        return then(None)

    def answer(reported: Reported) -> Outcome:
        size = reported.size
        if size is None:
            return then(None)
        target = Stateless(place.inode, _SERVER, place.generation)
        return Ask(place.volume, SetAttributes(target, Changes(modified=_NOW)), lambda found: then(size))

    return Wait(place.volume, _ask(c.service, *holder), answer)


async def _ask(service: "Service", client: "Client", held: "Held") -> Reported:
    """Asks over the first of the client's sessions that can; a holder that did not answer in time, or not the last callback, is not waited for again."""
    nothing = Reported(Lsn(0), None)
    session = next((each for each in client.sessions.values() if each.back.live and not each.back.fault), None)
    if session is None or not held.handle or held.silent:
        return nothing
    arguments = opaque(held.handle) + words_of(ASKED)
    try:
        async with asyncio.timeout(PATIENCE_S):
            status, results = await session.back.query(service, session, CB_GETATTR, arguments, held.granted)
        if status:
            return nothing
        change, size = _read(results)
    except (Unavailable, TimeoutError) as error:
        if not held.silent:
            log.info("nfs4.getattr_unanswered", client=client.id, reason=str(error) or f"no answer within {PATIENCE_S:.0f} s")
        if isinstance(error, TimeoutError):
            held.silent = True
        return nothing
    return Reported(Lsn(0), size) if change > held.change else nothing


def _read(results: memoryview) -> tuple[int, int]:
    """Change and size in a CB_COMPOUND4res with CB_SEQUENCE and CB_GETATTR; what else the client tells lies behind them. Raises `Unavailable`."""
    try:
        _, tag = _HEAD.unpack_from(results)
        at = 8 + (tag + 3 & ~3) + 4 + 8 + 32 + 8
        words, first = _HEAD.unpack_from(results, at)
        if not words or first & _UP_TO_SIZE != ASKED:
            raise struct.error
        _, change, size = _VALUES.unpack_from(results, at + 4 + 4 * words)
    except struct.error:
        raise Unavailable("the client's answer to CB_GETATTR makes no sense") from None
    return change, size
