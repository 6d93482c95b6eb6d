"""What only the real adapter can show: the system's errors, and threads."""

import asyncio
import errno
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from sofs.errors import Damaged, DiskFailed, NoSpace, NotFound, ReadOnly, SofsError
from sofs.runtime.system_errors import outcome
from sofs.runtime.system_files import SystemFiles
from sofs.runtime.system_threads import Threads


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(errno.ENOENT, NotFound), (errno.ENOSPC, NoSpace), (errno.EROFS, ReadOnly), (errno.EIO, DiskFailed), (errno.EACCES, DiskFailed)],
)
def test_an_error_of_the_system_names_path_cause_and_remedy(code: int, meaning: type[SofsError]) -> None:
    error = outcome(OSError(code, os.strerror(code)), "/data/ssd")
    assert type(error) is meaning
    assert "/data/ssd" in str(error) and os.strerror(code) in str(error)


def test_a_full_device_is_no_space() -> None:
    files = SystemFiles()
    file = files.open("/dev/full")
    with pytest.raises(NoSpace, match="/dev/full"):
        file.write(0, [b"x"])
    file.close()
    files.close()


def test_every_failing_operation_is_an_outcome(tmp_path: Path) -> None:
    async def main() -> None:
        files = SystemFiles()
        full, memory = files.open("/dev/full"), files.open("/proc/self/mem")
        buffer = [memoryview(bytearray(10))]
        for call in (
            lambda: full.write(0, [b"x"] * 2000),
            lambda: full.allocate(0, 10),
            lambda: full.punch(0, 10),
            lambda: full.truncate(10),
            lambda: memory.read_now(0, buffer),
            memory.sync_now,
            lambda: files.list("/dev/full"),
            lambda: files.make_directory("/dev/full/x"),
            lambda: files.rename(str(tmp_path), "/dev/full/x"),
            lambda: files.remove("/proc/self/mem"),
            lambda: files.sync_directory("/dev/full"),
            lambda: files.space("/dev/full/x"),
        ):
            with pytest.raises(SofsError, match="/"):
                call()
        with pytest.raises(SofsError):
            reading = memory.read(0, buffer)
            assert not isinstance(reading, int)
            await reading
        with pytest.raises(NoSpace):
            await full.write_out(0, [b"x"])
        full.close()
        memory.close()
        files.close()

    asyncio.run(main())


def test_records_that_are_no_lmdb_are_damaged_and_a_second_opening_is_refused(tmp_path: Path) -> None:
    files = SystemFiles()
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(Damaged, match=str(tmp_path)):
        files.records(str(tmp_path / "r"), 1 << 20)
    records = files.records(str(tmp_path / "s"), 1 << 20)
    with pytest.raises(SofsError):
        files.records(str(tmp_path / "s"), 1 << 20)
    records.close()
    files.close()


def test_a_copy_of_records_needs_a_place_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        files = SystemFiles()
        records = files.records(str(tmp_path / "r"), 1 << 20)
        for taken in (str(tmp_path), str(tmp_path / "no" / "such")):
            with pytest.raises(SofsError):
                await records.copy(taken)
        records.close()
        files.close()

    asyncio.run(main())


def test_a_file_closed_during_a_sync_keeps_its_descriptor_until_the_sync_is_done(tmp_path: Path) -> None:
    async def main() -> None:
        files = SystemFiles()
        for _ in range(50):
            file = files.open(str(tmp_path / "a"), create=True)
            file.write(0, [bytes(4096)])
            waits = [file.sync(), file.write_out(0, [bytes(100)]), file.sync()]
            file.close()
            # A new file may only get the number of a descriptor that nobody uses.
            other = files.open(str(tmp_path / "b"), create=True)
            other.close()
            await asyncio.gather(*waits)
        files.close()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_job_runs_to_its_end_though_its_waiter_is_cancelled() -> None:
    async def main() -> list[str]:
        threads, done = Threads("test", 1), list[str]()
        gate = threading.Event()

        def job() -> None:
            gate.wait()
            done.append("ran")

        first, second = threads.run(job), threads.run(job)
        first.cancel()
        second.cancel()
        gate.set()
        threads.close()
        await asyncio.sleep(0)
        return done

    assert asyncio.run(main()) == ["ran", "ran"]


def test_jobs_of_one_thread_keep_their_order_and_report_errors() -> None:
    async def main() -> None:
        threads, order = Threads("test", 1), list[int]()
        jobs = [threads.run(lambda n=n: order.append(n)) for n in range(100)]  # type: ignore[misc]
        failing = threads.run(lambda: time.sleep(-1))
        await asyncio.gather(*jobs)
        with pytest.raises(ValueError):
            await failing
        assert order == list(range(100))
        threads.close()

    asyncio.run(main())
    assert sys.getswitchinterval() == pytest.approx(0.0001)


def test_many_buffers_are_read_in_a_thread_when_the_page_cache_is_cold(tmp_path: Path) -> None:
    async def main() -> None:
        files = SystemFiles()
        file = files.open(str(tmp_path / "a"), create=True)
        data = os.urandom(1 << 20)
        file.write(0, [data])
        await file.sync()
        os.posix_fadvise(file._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        buffers = [bytearray(1 << 18) for _ in range(4)]
        count = file.read(0, [memoryview(buffer) for buffer in buffers])
        assert (count if isinstance(count, int) else await count) == 1 << 20
        assert b"".join(buffers) == data
        file.close()
        files.close()

    asyncio.run(main())


def cached(path: Path) -> bool:
    """Whether the page cache has the file's first page. (The question itself makes the system fetch it.)"""
    with open(path, "rb") as plain:
        try:
            os.preadv(plain.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
    return True


def test_reading_what_is_stored_leaves_no_trace_in_the_page_cache(tmp_path: Path) -> None:
    async def main() -> None:
        files = SystemFiles()
        probe, file = (files.open(str(tmp_path / name), create=True) for name in ("probe", "file"))
        for each in (probe, file):
            each.write(0, [b"x" * 8192])
            await each.sync()
            each.forget(0, 8192)
        if cached(tmp_path / "probe"):
            pytest.skip("this file system keeps everything in memory")
        into = memoryview(bytearray(4096))
        assert await file.read_stored(0, into) == 4096 and into == b"x" * 4096
        assert not cached(tmp_path / "file")
        files.close()

    asyncio.run(main())
