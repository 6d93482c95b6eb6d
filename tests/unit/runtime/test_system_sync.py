"""Syncs by the kernel's own workers: many at once, over several loops, and how they fail."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sofs.errors import DiskFailed
from sofs.runtime.system_files import SystemFile, SystemFiles
from sofs.runtime.system_sync import KernelSync


@pytest.fixture
def kernel() -> KernelSync:
    made = KernelSync.make()
    if made is None:
        pytest.skip("asynchronous I/O is not to be had here")
    return made


def written(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * 10_000)
    return fd


def test_a_sync_is_done_by_the_kernel_after_its_descriptor_was_closed(kernel: KernelSync, tmp_path: Path) -> None:
    async def main() -> None:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        fd = written(tmp_path / "a")
        assert kernel.start(fd, done.set_result)
        os.close(fd)
        assert await done == 0

    asyncio.run(main())
    asyncio.run(main())  # in another loop, too
    kernel.close()


def test_what_cannot_be_synced_and_what_is_too_much_is_refused(kernel: KernelSync, tmp_path: Path) -> None:
    async def main() -> None:
        codes: list[int] = []
        with open("/proc/self/mem", "rb") as memory:
            assert not kernel.start(memory.fileno(), codes.append)
        fd = written(tmp_path / "a")
        begun = sum(kernel.start(fd, codes.append) for _ in range(1000))
        assert 0 < begun <= 64
        kernel.close()  # waits for all of them
        assert codes == [0] * begun
        os.close(fd)

    asyncio.run(main())


def test_syncs_beyond_the_queue_are_done_by_a_thread(tmp_path: Path) -> None:
    async def main() -> None:
        files = SystemFiles()
        file = files.open(str(tmp_path / "a"), create=True)
        file.write(0, [b"x" * 10_000])
        await asyncio.gather(*(file.sync() for _ in range(300)))
        file.close()
        files.close()

    asyncio.run(main())


def test_a_sync_that_fails_in_the_kernel_is_a_failed_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: KernelSync, fd: int, done: Callable[[int], None], quietly: bool = False) -> bool:
        asyncio.get_running_loop().call_soon(done, errno.EIO)
        return True

    async def main() -> None:
        files = SystemFiles()
        file = files.open(str(tmp_path / "a"), create=True)
        with pytest.raises(DiskFailed, match="a: "):
            await file.sync()
        cancelled = asyncio.ensure_future(file.sync())
        cancelled.cancel()
        await asyncio.sleep(0)
        file.close()
        files.close()

    monkeypatch.setattr(KernelSync, "start", fails)
    asyncio.run(main())


def test_where_the_kernel_cannot_threads_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelSync, "make", classmethod(lambda cls: None))

    async def main() -> None:
        files = SystemFiles()
        file: SystemFile = files.open(str(tmp_path / "a"), create=True)
        await file.sync()
        file.close()
        files.close()

    asyncio.run(main())


def test_a_quiet_sync_wakes_nobody_up_until_somebody_is_in_a_hurry(kernel: KernelSync, tmp_path: Path) -> None:
    async def main() -> None:
        fd = written(tmp_path / "a")
        codes: list[int] = []
        for round in range(1, 4):
            assert kernel.start(fd, codes.append, quietly=True)
            await asyncio.sleep(0.1)
            assert len(codes) == 2 * (round - 1)
            kernel.hurry()  # it is done, and told of before this returns, unless the disk is very slow
            assert kernel.start(fd, codes.append, quietly=True)
            kernel.hurry()
            while len(codes) < 2 * round:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        loud: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        assert kernel.start(fd, codes.append, quietly=True) and kernel.start(fd, loud.set_result)
        assert await loud == 0
        assert kernel.start(fd, codes.append, quietly=True)
        kernel.close()
        assert codes == [0] * 8
        os.close(fd)

    asyncio.run(main())


def test_whoever_fails_when_it_is_told_of_a_sync_keeps_no_other_from_being_told(kernel: KernelSync, tmp_path: Path) -> None:
    async def main() -> None:
        reported: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(str(context["exception"])))
        fd = written(tmp_path / "a")
        codes: list[int] = []
        assert kernel.start(fd, lambda code: 1 // 0) and kernel.start(fd, codes.append)
        while not (codes and reported):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert codes == [0] and reported == ["integer division or modulo by zero"]
        kernel.close()
        os.close(fd)

    asyncio.run(main())
