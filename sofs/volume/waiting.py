"""Waiting for the log, for background work that is not answered through gates."""

import asyncio

from sofs.log import Log
from sofs.types import Level, Lsn

__all__ = ["stable"]


async def stable(log: Log, lsn: Lsn) -> None:
    """Returns when the record at `lsn` is stable."""
    if lsn < log.stable:
        return
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def reached() -> None:
        if not done.done():
            done.set_result(None)

    log.when(lsn, Level.STABLE, reached)
    await done
