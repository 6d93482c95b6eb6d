"""Requests that a node makes of its own volumes, as an operator would."""

import asyncio
from typing import TypeVar

from sofs.errors import NotFound, SofsError, Unavailable
from sofs.hosting import Hosted
from sofs.types import ROOT, Level
from sofs.volume.api import Attributes, Binding, Caller, Found, Lookup, Reply, Request, Volume

OPERATOR = Caller(0, 0, privileged=True)

STABLE_S = 120.0
LOOK_S = 0.5
"""So often it is looked whether the volume has been lost."""

R = TypeVar("R", bound=Reply)


async def ask(volume: Volume, request: Request, kind: type[R], by: Binding) -> R:
    """The reply, which is of this kind. Raises what the request does."""
    reply = volume.call(request, None, by)
    if not isinstance(reply, Reply):
        reply = await reply
    assert isinstance(reply, kind)
    return reply


async def ask_stable(hosted: Hosted, request: Request, kind: type[R], by: Binding) -> R:
    """The reply, once what it says is stable. Raises `Unavailable` where the volume is not served, or is lost meanwhile, and what the request does."""
    volume = hosted.reached
    reply = await ask(volume, request, kind, by)
    local, verifier = hosted.where.local, volume.verifier
    stable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    volume.when(reply.gate, Level.STABLE, lambda: None if stable.done() else stable.set_result(None))
    try:
        async with asyncio.timeout(STABLE_S):
            # Whoever waits for what is lost is never told.
            while not (await asyncio.wait([stable], timeout=LOOK_S))[0]:
                if verifier not in (0, volume.verifier) or (local is not None and local.failed):
                    raise Unavailable(f"volume {hosted.record.name} was lost here meanwhile; what was asked may have been carried out")
    except TimeoutError:
        raise Unavailable(f"volume {hosted.record.name} does not bring what was asked to its disks; it may be done yet") from None
    return reply


async def at_path(hosted: Hosted, path: str, by: Binding) -> Attributes:
    """What stands at a path from the volume's root. Raises `NotFound` with the reason."""
    parts = tuple(part.encode(errors="surrogateescape") for part in path.split("/") if part)
    try:
        return (await ask_stable(hosted, Lookup(OPERATOR, ROOT, parts), Found, by)).attributes
    except SofsError as error:
        raise NotFound(f"{path} in volume {hosted.record.name}: {error or type(error).__name__}") from None
