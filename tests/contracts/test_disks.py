"""What every `Disk` promises, be it of this process or of another node."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.errors import Damaged, DiskFailed, ExtentGone, Fenced, InvalidArgument, NoSpace
from sofs.pool.disk import BadPages, Disk, Part
from sofs.pool.fragment import META_PER_SLOT, SLOT_SIZE, checksum
from sofs.pool.local_disk import LocalDisk
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskSpec
from sofs.pool.remote_disk import RemoteDisk
from sofs.pool.scheme import SIMPLE, mirror
from sofs.pool.service import DiskService
from sofs.pool.states import State
from sofs.runtime.ports import Clock, Files, Network, Random
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_network import SimulatedNetwork
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.runtime.system_network import SystemNetwork
from sofs.types import PAGE, DiskId
from tests.unit.pool.rig import ARENA_SLOTS, MIB, VOLUME, content, eid, make


@dataclass
class Rig:
    """A disk, how it is reached, and what lies below it."""

    disk: Disk
    own: LocalDisk
    """The disk, at its own node."""
    pool: LocalPool
    """Of that node."""
    files: Files
    path: str

    async def read(self, slot: int, number: int, offset: int, length: int, sums: Sequence[int] | None = None) -> bytes:
        into = memoryview(bytearray(length))
        waiting = self.disk.read(slot, eid(number), offset, into, sums)
        if waiting is not None:
            await waiting
        return bytes(into)

    def spoil(self, slot: int, offset: int) -> None:
        """Changes a byte of a fragment behind the disk's back; `offset` counts from its header."""
        file = self.files.open(f"{self.path}/arenas/{slot // ARENA_SLOTS:06d}")
        at = slot % ARENA_SLOTS * SLOT_SIZE + offset
        byte = bytearray(1)
        file.read_now(at, [memoryview(byte)])
        file.write(at, [bytes([byte[0] ^ 0x40])])
        file.close()
        self.own._recent.clear()
        self.own._older.clear()


def part(number: int, length: int = MIB, names: bytes = b"", copies: int = 2, nth: int = 0) -> Part:
    data = content(number, length)
    # In pieces, as they come from a log.
    pieces = [data[at : at + 100_000] for at in range(0, length, 100_000)]
    return Part(eid(number), mirror(copies) if copies > 1 else SIMPLE, nth, length // PAGE, pieces, checksum(pieces), names)


def _quiet(event: str, /, **fields: object) -> None:
    pass


Test = Callable[[Rig], Awaitable[None]]
Runner = Callable[[Test], None]


async def _run(test: Test, files: Files, random: Random, clock: Clock, network: Callable[[int], tuple[Network, str]] | None, root: str) -> None:
    spec: DiskSpec = make(files, random, f"{root}/d", arenas=2)
    if network is None:
        pool = LocalPool("p", files, random, _quiet, clock=clock)
        pool.open([spec])
        disk = pool.members.get(spec.id).disk
        assert isinstance(disk, LocalDisk)
        await test(Rig(disk, disk, pool, files, spec.path))
        await pool.close()
        return
    nodes: list[NetworkInterconnect] = []
    addresses: dict[int, list[tuple[str, int]]] = {}
    for number in (1, 2):
        port, address = network(number)
        node = NetworkInterconnect(clock, random, port, (NodeId(number), Incarnation(number)), lambda id: addresses.get(id, ()))
        addresses[number] = [(address, await node.listen(address, 0))]
        nodes.append(node)
    specs = [spec._replace(node=1)]
    pools = [LocalPool("p", files, random, _quiet, clock=clock, interconnect=node) for node in nodes]
    for node, pool in zip(nodes, pools, strict=True):
        DiskService(node, {"p": pool})
        pool.open(specs)
    await pools[1].hear()
    near, far = pools[0].members.get(spec.id).disk, pools[1].members.get(spec.id).disk
    assert isinstance(near, LocalDisk) and isinstance(far, RemoteDisk)
    assert pools[1].members.state(spec.id) is State.HEALTHY
    await test(Rig(far, near, pools[0], files, spec.path))
    for pool in pools:
        await pool.close()
    for node in nodes:
        await node.close()


@pytest.fixture(params=["local", "remote", "sockets"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runner]:
    if request.param == "sockets":
        files = SystemFiles(threads=2)
        ports = lambda number: (SystemNetwork(), "127.0.0.1")  # noqa: E731
        yield lambda test: asyncio.run(_run(test, files, SystemRandom(), SystemClock(), ports, str(tmp_path)))
        files.close()
        return
    loop, random = SimulatedLoop(), SimulatedRandom(1)
    simulated = SimulatedFiles(random, miss=0.5)
    wires = SimulatedNetwork(random)
    hosts = lambda number: (wires.host(f"10.0.0.{number}"), f"10.0.0.{number}")  # noqa: E731
    yield lambda test: loop.run(_run(test, simulated, random, SimulatedClock(loop), None if request.param == "local" else hosts, "/data"))
    loop.close()


LENGTHS = [PAGE, 16 * PAGE, 17 * PAGE, MIB, MIB + PAGE, 8 * MIB]


def test_what_is_written_is_read_back_from_any_page(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        for number, length in enumerate(LENGTHS):
            slot = await rig.disk.write(part(number, length))
            whole = content(number, length)
            sums = checksum([whole]).pages.tolist()
            for offset in sorted({0, length // 2 // PAGE * PAGE, length - PAGE}):
                for size in sorted({PAGE, min(65536, length - offset), length - offset}):
                    assert await rig.read(slot, number, offset, size) == whole[offset : offset + size]
                    expected = sums[offset // PAGE : (offset + size) // PAGE]
                    assert await rig.read(slot, number, offset, size, expected) == whole[offset : offset + size]

    run(test)


def test_a_bad_page_is_named_by_its_number(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        slot = await rig.disk.write(part(1))
        rig.spoil(slot, META_PER_SLOT + 77 * PAGE + 5)
        sums = checksum([content(1, MIB)]).pages.tolist()
        for offset, length in ((0, MIB), (77 * PAGE, PAGE), (70 * PAGE, 20 * PAGE), (64 * PAGE, 16 * PAGE)):
            for expected in (None, sums[offset // PAGE : (offset + length) // PAGE]):
                with pytest.raises(BadPages) as caught:
                    await rig.read(slot, 1, offset, length, expected)
                assert caught.value.pages == [77]
        assert await rig.read(slot, 1, 0, 77 * PAGE) == content(1, MIB)[: 77 * PAGE]
        assert await rig.disk.check(slot, eid(1), MIB) != []

    run(test)


def test_the_readers_checksums_decide(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        slot = await rig.disk.write(part(1))
        wrong = checksum([content(2, MIB)]).pages.tolist()
        with pytest.raises(BadPages) as caught:
            await rig.read(slot, 1, 0, MIB, wrong)
        assert caught.value.pages == list(range(256))

    run(test)


def test_a_fragment_without_its_header_is_read_by_who_has_checksums(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        slot = await rig.disk.write(part(1))
        rig.spoil(slot, 20)
        sums = checksum([content(1, MIB)]).pages.tolist()
        for length in (PAGE, MIB):
            with pytest.raises(Damaged):
                await rig.read(slot, 1, 0, length)
            assert await rig.read(slot, 1, 0, length, sums[: length // PAGE]) == content(1, length)
        with pytest.raises(Damaged):
            await rig.disk.describe(slot, eid(1))

    run(test)


def test_a_deleted_fragment_is_gone_and_deleting_again_is_no_error(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        slot = await rig.disk.write(part(1))
        await rig.disk.delete(slot, eid(2))
        assert await rig.read(slot, 1, 0, PAGE) == content(1, PAGE)
        await rig.disk.delete(slot, eid(1))
        await rig.disk.delete(slot, eid(1))
        for _ in range(2):
            with pytest.raises(ExtentGone):
                await rig.read(slot, 1, 0, PAGE)
        with pytest.raises(ExtentGone):
            await rig.disk.describe(slot, eid(1))
        with pytest.raises(ExtentGone):
            await rig.disk.mend(slot, eid(1), 0, bytes(PAGE))
        again = await rig.disk.write(part(3))
        assert again == slot
        await rig.disk.delete(slot, eid(1))
        assert await rig.read(slot, 3, 0, PAGE) == content(3, PAGE), "its slot is another's now"

    run(test)


def test_header_checksums_and_names_are_described(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        written = part(1, 3 * MIB, b"n" * 18_000, nth=1)
        slot = await rig.disk.write(written)
        header, sums, names = await rig.disk.describe(slot, eid(1))
        assert header == (rig.own.id, slot, 3, eid(1), 1, mirror(2), 768, 768)
        assert sums == written.sums and names == b"n" * 18_000

    run(test)


def test_bad_pages_and_headers_are_mended_and_only_with_what_was_there(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        written = part(1, MIB, b"names")
        slot = await rig.disk.write(written)
        rig.spoil(slot, META_PER_SLOT + 3 * PAGE)
        rig.spoil(slot, META_PER_SLOT + 4 * PAGE)
        rig.spoil(slot, 30)
        with pytest.raises(Damaged):
            await rig.disk.mend(slot, eid(1), 3, content(1, MIB)[3 * PAGE : 5 * PAGE])
        with pytest.raises(InvalidArgument):
            await rig.disk.mend_header(slot, eid(1), checksum([content(1, PAGE)]), b"")
        with pytest.raises(InvalidArgument):
            await rig.disk.mend_header(slot, eid(1), written.sums, bytes(2 * META_PER_SLOT))
        await rig.disk.mend_header(slot, eid(1), written.sums, b"names")
        with pytest.raises(InvalidArgument):
            await rig.disk.mend(slot, eid(1), 3, bytes(PAGE))
        with pytest.raises(InvalidArgument):
            await rig.disk.mend(slot, eid(1), 255, bytes(2 * PAGE))
        await rig.disk.mend(slot, eid(1), 3, content(1, MIB)[3 * PAGE : 5 * PAGE])
        assert await rig.disk.check(slot, eid(1), MIB) == []
        assert (await rig.disk.describe(slot, eid(1)))[2] == b"names"

    run(test)


def test_revoked_ids_are_refused_and_what_was_written_before_stays(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        slot = await rig.disk.write(part(11))
        await rig.disk.revoke(VOLUME, range(10, 20))
        for number in (10, 12, 19):
            with pytest.raises(Fenced):
                await rig.disk.write(part(number))
        assert await rig.read(slot, 11, 0, PAGE) == content(11, PAGE)
        await rig.disk.write(part(20))
        await rig.disk.write(part(9))

    run(test)


def test_fragments_are_found_by_the_numbers_of_their_extents(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sofs.pool.messages.FOUND_AT_ONCE", 2)

    async def test(rig: Rig) -> None:
        slots = {number: await rig.disk.write(part(number, PAGE, nth=number % 2)) for number in range(7)}
        found = await rig.disk.find(VOLUME, range(2, 5))
        assert [(slot, entry.id, entry.part, entry.pages, entry.slots) for slot, entry in found] == [
            (slots[number], eid(number), number % 2, 1, 1) for number in (2, 3, 4)
        ]
        assert found[0][1].scheme == mirror(2)
        assert await rig.disk.find(VOLUME, range(2, 2)) == []
        assert await rig.disk.find(VOLUME + 1, range(100)) == []  # type: ignore[arg-type]

    run(test)


def test_a_full_disk_says_so_and_has_its_capacity_told(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        slots: list[int] = []
        with pytest.raises(NoSpace):
            while True:
                slots.append(await rig.disk.write(part(len(slots), 8 * MIB)))
        assert len(slots) == 2 * (ARENA_SLOTS // 8)
        assert rig.disk.usage() == rig.own.usage()
        assert rig.disk.usage().total == 2 * ARENA_SLOTS * MIB

    run(test)


def test_a_disk_that_fails_says_so_here_and_at_its_node(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        slot = await rig.disk.write(part(1))
        if not isinstance(rig.files, SimulatedFiles):
            pytest.skip("disks of the real system do not fail when asked to")
        fault = rig.files.fail("read", rig.path)
        with pytest.raises(DiskFailed):
            await rig.read(slot, 1, 0, PAGE)
        with pytest.raises(DiskFailed):
            await rig.disk.describe(slot, eid(1))
        rig.files.faults.remove(fault)
        if rig.disk is not rig.own:
            assert rig.pool.members.state(rig.own.id) is State.SUSPECT
        assert await rig.read(slot, 1, 0, PAGE) == content(1, PAGE)
        await rig.disk.probe()
        rig.files.fail("sync", rig.path)
        for _ in range(2):
            with pytest.raises(DiskFailed):
                await rig.disk.write(part(2))
        if rig.disk is not rig.own:
            assert rig.pool.members.state(rig.own.id) is State.FAILED

    run(test)


def test_reading_beyond_the_end_of_a_fragment_is_refused(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        slot = await rig.disk.write(part(1, 2 * PAGE))
        with pytest.raises((InvalidArgument, AssertionError)):
            await rig.read(slot, 1, PAGE, 2 * PAGE)
        assert await rig.disk.check(slot, eid(1), PAGE) != []
        assert await rig.disk.check(slot, eid(1), 2 * PAGE) == []

    run(test)


def test_an_id_names_its_disk(run: Runner) -> None:
    async def test(rig: Rig) -> None:
        assert rig.disk.id == rig.own.label.id == DiskId(rig.disk.id)
        assert rig.path in rig.disk.path

    run(test)
