"""What a volume answers, waited for as its gateways do."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from sofs.types import Level, Lsn
from sofs.volume.api import Volume

__all__ = ["done", "sent"]

T = TypeVar("T")


async def done(result: T | Awaitable[T]) -> T:
    """The value, now or later."""
    return await result if isinstance(result, Awaitable) else result


async def sent(volume: Volume, gate: Lsn, level: Level) -> None:
    """Waits until an answer that rests on `gate` may leave."""
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    volume.when(gate, level, lambda: None if told.done() else told.set_result(None))
    await told
