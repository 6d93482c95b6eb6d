"""One sync for everybody who waits for one."""

import asyncio

from sofs.errors import SofsError
from sofs.runtime.ports import File


class GroupSync:
    """Makes what was written to a file durable; who comes while a sync is under way shares the next one.

    After a sync has failed every later one fails too. Bytes written while it ran may have been dropped with it, and the
    system reports that once: the next sync would succeed, and lie.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._failure: SofsError | None = None

    @property
    def pending(self) -> bool:
        """Whether something written through here may not be durable yet."""
        return self._task is not None

    async def durable(self) -> None:
        """Returns when all that was written before the call is durable. Raises `DiskFailed`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await waiter

    async def close(self) -> None:
        """Waits for syncs under way."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            if self._failure is None:
                try:
                    await self._file.sync()
                except SofsError as error:
                    self._failure = error
            for waiter in waiting:
                if waiter.cancelled():
                    continue
                if self._failure is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(self._failure)
        self._task = None
