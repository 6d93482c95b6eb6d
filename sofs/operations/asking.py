"""Requests that a node makes of its own volumes, as an operator would."""

from typing import TypeVar

from sofs.errors import Unavailable
from sofs.hosting import Hosted
from sofs.volume.api import Binding, Caller, Reply, Request, Volume

__all__ = ["OPERATOR", "ask", "ask_stable"]

OPERATOR = Caller(0, 0, privileged=True)

R = TypeVar("R", bound=Reply)


async def ask(volume: Volume, request: Request, kind: type[R], by: Binding) -> R:
    """The reply, which is of this kind. Raises what the request does."""
    reply = volume.call(request, None, by)
    if not isinstance(reply, Reply):
        reply = await reply
    assert isinstance(reply, kind)
    return reply


async def ask_stable(hosted: Hosted, request: Request, kind: type[R], by: Binding) -> R:
    """The reply, once what it says is stable. Raises `Unavailable` where the volume is not served, and what the request does."""
    if hosted.volume is None or hosted.store is None:
        raise Unavailable(f"volume {hosted.record.name} is not served: {hosted.reason}")
    reply = await ask(hosted.volume, request, kind, by)
    await hosted.store.log.reach(reply.gate)
    return reply
