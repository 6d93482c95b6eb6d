"""What every `Files` promises."""

from collections.abc import Awaitable
from typing import Any

import pytest

from sofs.errors import Exists, IsDirectory, NotDirectory, NotEmpty, NotFound, Unavailable
from sofs.runtime.ports import File
from tests.contracts.conftest import Host


async def fetch(file: File, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    count: Any = file.read(offset, [memoryview(buffer)])
    if isinstance(count, Awaitable):
        count = await count
    return bytes(buffer[:count])


def test_what_is_written_is_read_back(host: Host) -> None:
    async def main() -> None:
        file = host.files.open(f"{host.root}/a", create=True)
        file.write(3, [b"one", bytearray(b"two"), memoryview(b"three")])
        assert await fetch(file, 0, 100) == b"\0\0\0onetwothree"
        assert await fetch(file, 3, 3) == b"one"
        assert file.size == 14
        file.close()
        again = host.files.open(f"{host.root}/a")
        assert await fetch(again, 6, 8) == b"twothree"
        again.close()

    host.run(main())


def test_a_read_scatters_over_its_buffers_and_stops_at_the_end(host: Host) -> None:
    async def main() -> None:
        file = host.files.open(f"{host.root}/a", create=True)
        file.write(0, [bytes(range(10))])
        first, second = bytearray(4), bytearray(b"x" * 10)
        assert file.read_now(2, [memoryview(first), memoryview(second)]) == 8
        assert first == bytes([2, 3, 4, 5]) and second == bytes([6, 7, 8, 9]) + b"x" * 6
        assert file.read_now(10, [memoryview(first)]) == 0
        assert await fetch(file, 500, 10) == b""
        file.close()

    host.run(main())


def test_thousands_of_buffers_are_one_write_and_one_read(host: Host) -> None:
    async def main() -> None:
        file = host.files.open(f"{host.root}/a", create=True)
        pieces = [bytes([n % 251]) * 3 for n in range(3000)]
        file.write(1, pieces)
        assert await fetch(file, 1, 9000) == b"".join(pieces)
        buffers = [bytearray(3) for _ in range(3000)]
        count: Any = file.read(1, [memoryview(buffer) for buffer in buffers])
        assert (await count if isinstance(count, Awaitable) else count) == 9000
        assert buffers == pieces
        file.close()

    host.run(main())


def test_writes_survive_sync_and_write_out(host: Host) -> None:
    async def main() -> None:
        file = host.files.open(f"{host.root}/a", create=True)
        file.write(0, [b"a" * 5000])
        await file.sync()
        await file.write_out(4000, [b"b" * 5000])
        file.sync_now()
        assert await fetch(file, 0, 10000) == b"a" * 4000 + b"b" * 5000
        file.close()

    host.run(main())


def test_allocated_and_punched_ranges_read_as_zeros(host: Host) -> None:
    async def main() -> None:
        file = host.files.open(f"{host.root}/a", create=True)
        file.write(0, [b"x" * 20000])
        file.allocate(0, 65536)
        assert file.size == 65536
        assert await fetch(file, 0, 20001) == b"x" * 20000 + b"\0"
        file.punch(100, 15000)
        assert file.size == 65536
        assert await fetch(file, 0, 20000) == b"x" * 100 + bytes(15000) + b"x" * 4900
        file.punch(60000, 100_000)
        assert file.size == 65536
        file.close()

    host.run(main())


def test_truncation_cuts_and_later_growth_reads_as_zeros(host: Host) -> None:
    async def main() -> None:
        file = host.files.open(f"{host.root}/a", create=True)
        file.write(0, [b"x" * 9000])
        file.truncate(5000)
        assert file.size == 5000
        file.truncate(9000)
        assert await fetch(file, 0, 10000) == b"x" * 5000 + bytes(4000)
        file.close()

    host.run(main())


def test_closing_waits_for_what_is_under_way_and_may_be_repeated(host: Host) -> None:
    async def main() -> None:
        file = host.files.open(f"{host.root}/a", create=True)
        file.write(0, [b"x" * 9000])
        sync = file.sync()
        file.close()
        file.close()
        await sync

    host.run(main())


def test_opening_tells_what_is_missing_and_what_is_in_the_way(host: Host) -> None:
    async def main() -> None:
        with pytest.raises(NotFound):
            host.files.open(f"{host.root}/missing")
        with pytest.raises(NotFound):
            host.files.open(f"{host.root}/no/such/directory", create=True)
        host.files.open(f"{host.root}/a", create=True, exclusive=True).close()
        host.files.open(f"{host.root}/a", create=True).close()
        with pytest.raises(Exists):
            host.files.open(f"{host.root}/a", create=True, exclusive=True)
        with pytest.raises(IsDirectory):
            host.files.open(host.root)
        with pytest.raises(NotDirectory):
            host.files.open(f"{host.root}/a/b", create=True)

    host.run(main())


def test_names_are_listed_renamed_and_removed(host: Host) -> None:
    async def main() -> None:
        files, root = host.files, host.root
        files.make_directory(f"{root}/d/e")
        files.make_directory(f"{root}/d/e")
        for name, text in (("b", b"bb"), ("a", b"aa")):
            file = files.open(f"{root}/d/{name}", create=True)
            file.write(0, [text])
            file.close()
        assert files.list(f"{root}/d") == ["a", "b", "e"]
        files.rename(f"{root}/d/a", f"{root}/d/b")
        files.sync_directory(f"{root}/d")
        assert files.list(f"{root}/d") == ["b", "e"]
        kept = files.open(f"{root}/d/b")
        assert await fetch(kept, 0, 9) == b"aa"
        with pytest.raises(NotEmpty):
            files.remove(f"{root}/d")
        files.remove(f"{root}/d/b")
        files.remove(f"{root}/d/e")
        assert await fetch(kept, 0, 9) == b"aa", "an open file outlives its name"
        kept.close()
        assert not files.exists(f"{root}/d/b") and files.exists(f"{root}/d")
        files.remove(f"{root}/d")
        for call in (files.list, files.remove, files.sync_directory, files.space):
            with pytest.raises(NotFound):
                call(f"{root}/d")
        with pytest.raises(NotFound):
            files.rename(f"{root}/d", f"{root}/f")

    host.run(main())


def test_a_locked_file_cannot_be_locked_again_until_it_is_closed(host: Host) -> None:
    async def main() -> None:
        held = host.files.lock(f"{host.root}/lock")
        with pytest.raises(Unavailable, match="in use"):
            host.files.lock(f"{host.root}/lock")
        held.close()
        host.files.lock(f"{host.root}/lock").close()

    host.run(main())


def test_space_is_told_in_bytes(host: Host) -> None:
    space = host.files.space(host.root)
    assert 0 < space.free <= space.total


def test_what_is_stored_is_read_past_the_cache(host: Host) -> None:
    async def main() -> None:
        file = host.files.open(f"{host.root}/a", create=True)
        file.write(0, [bytes(range(256)) * 32])
        await file.sync()
        into = bytearray(b"x" * 8192)
        assert await file.read_stored(4096, memoryview(into)) == 4096
        assert into == bytes(range(256)) * 16 + b"x" * 4096
        file.write(4096, [b"new"])  # not synced: the system sees to it that this is what is found
        assert await file.read_stored(4096, memoryview(into)[:4096]) == 4096
        assert into[:3] == b"new"
        file.forget(0, 8192)
        assert await fetch(file, 4096, 3) == b"new"
        file.close()

    host.run(main())
