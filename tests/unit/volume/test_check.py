"""`sofs check`: every kind of discrepancy, planted one at a time, is found and named; and the online check of a copy."""

import re
import struct
from collections.abc import Callable
from typing import Any

import pytest

from sofs.runtime.simulated_files import SimulatedFiles
from sofs.types import PAGE, ROOT, Inode
from sofs.volume import keys, leaves, windows
from sofs.volume.batch import Batch
from sofs.volume.check import RecordsView, check
from sofs.volume.inode import HAS_DESCRIPTOR, IS_STREAM, SHARES_PAGES
from sofs.volume.windows import Place
from tests.unit.volume.rig import MIB, NOW, VOLUME, Rig, done
from tests.unit.volume.test_data import pattern, run

Plant = Callable[[Rig, Batch], None]


async def furnish(rig: Rig) -> None:
    """Files whose pages lie in the log and in extents, some of them shared."""
    first, second, third = (rig.make_file(number) for number in (2, 3, 4))
    await rig.write(first, 0, pattern(20 * PAGE))
    await done(rig.data.clone(first, 0, second, 0, 5 * PAGE, NOW))
    await rig.settle()
    await rig.write(third, 0, pattern(3 * PAGE))
    await rig.write(first, 15 * PAGE, pattern(PAGE, 8))
    await done(rig.data.allocate(third, 10 * PAGE, 2 * PAGE, NOW, extend=False))
    await rig.write(third, MIB, pattern(2 * MIB))
    await done(rig.data.truncate(third, 0, NOW))  # leaves a freed extent
    await rig.write(third, 0, pattern(3 * PAGE))
    await rig.clean()


def value(rig: Rig, key: bytes) -> bytes:
    found = rig.store.keyspace.get(key)
    assert found is not None
    return found


def change_inode(number: int, **fields: Any) -> Plant:
    def plant(rig: Rig, batch: Batch) -> None:
        record = rig.record(Inode(number))
        batch.put(keys.inode(Inode(number)), record._replace(**fields).encode())

    return plant


def change_leaf(number: int, page: int, address: int | None) -> Plant:
    """Makes a leaf name something else (None: the page before it)."""

    def plant(rig: Rig, batch: Batch) -> None:
        key = keys.leaf(Inode(number), 0)
        leaf = value(rig, key)
        name = leaves.addresses(leaf, page - 1, 1)[0] if address is None else address
        batch.put(key, leaves.patch(leaf, page, 1, struct.pack("<Q", name), bytes(4)))

    return plant


def first_window(rig: Rig, tag: bytes) -> tuple[bytes, bytes]:
    return next(iter(rig.store.keyspace.walk(tag)))


def lose_place(rig: Rig, batch: Batch) -> None:
    key, places = first_window(rig, keys.PLACES)
    batch.put(key, windows.remove(places, windows.places(places)[0].offset, 1)[0])


def invent_place(rig: Rig, batch: Batch) -> None:
    key, places = first_window(rig, keys.PLACES)
    last = windows.places(places)[-1]
    batch.put(key, windows.merge(places, [Place(last.offset + (last.pages + 3) * PAGE, 1, 0, last.extent)]))


def place_behind_extent(rig: Rig, batch: Batch) -> None:
    key, places = first_window(rig, keys.PLACES)
    batch.put(key, windows.encode_places(place._replace(at=place.at + 5) for place in windows.places(places)))


def place_in_no_extent(rig: Rig, batch: Batch) -> None:
    key, places = first_window(rig, keys.PLACES)
    batch.put(key, windows.encode_places(place._replace(extent=999) for place in windows.places(places)))


def more_references(rig: Rig, batch: Batch) -> None:
    key, listed = first_window(rig, keys.REFERENCES)
    batch.put(key, windows.share(listed, windows.references(listed)[0][0], 1))


def lose_references(rig: Rig, batch: Batch) -> None:
    batch.delete(first_window(rig, keys.REFERENCES)[0])


def invent_references(rig: Rig, batch: Batch) -> None:
    batch.put(keys.bucket(keys.REFERENCES, 12345), windows.share(None, 0, 1))


def miscount_live(rig: Rig, batch: Batch) -> None:
    key = next(key for key, _ in rig.store.keyspace.walk(keys.EXTENT) if len(key) > keys.BUCKET)
    batch.put(key, b"\1\0\0\0")


def lose_extent(rig: Rig, batch: Batch) -> None:
    batch.delete(first_window(rig, keys.EXTENT)[0])


def twice_an_extent(rig: Rig, batch: Batch) -> None:
    _, record = first_window(rig, keys.EXTENT)
    batch.put(keys.bucket(keys.EXTENT, 9), record)
    batch.put(keys.live_pages(9), b"\1\0\0\0")


def garble_extent(rig: Rig, batch: Batch) -> None:
    key, record = first_window(rig, keys.EXTENT)
    batch.put(key, record[:-3])


def free_what_is_used(rig: Rig, batch: Batch) -> None:
    key, record = first_window(rig, keys.EXTENT)
    batch.put(keys.FREED + key[1:], bytes(8) + record)


def empty_leaf(rig: Rig, batch: Batch) -> None:
    batch.put(keys.leaf(Inode(4), 77), leaves.EMPTY)


def short_leaf(rig: Rig, batch: Batch) -> None:
    batch.put(keys.leaf(Inode(4), 77), b"short")


def forget_log_pages(rig: Rig, batch: Batch) -> None:
    batch.add(keys.LOG_PAGES, 1)


def forget_reserved(rig: Rig, batch: Batch) -> None:
    batch.add(keys.RESERVED_PAGES, -1)


def lose_inode(rig: Rig, batch: Batch) -> None:
    batch.delete(keys.inode(Inode(2)))


def lose_entry(rig: Rig, batch: Batch) -> None:
    batch.delete(keys.entry(ROOT, 2 << 15))


def wrong_kind(rig: Rig, batch: Batch) -> None:
    key = keys.entry(ROOT, 2 << 15)
    entry = bytearray(value(rig, key))
    entry[8] = 3
    batch.put(key, bytes(entry))


def orphan_with_name(rig: Rig, batch: Batch) -> None:
    batch.put(keys.orphan(Inode(2)), b"")


def orphan_of_nothing(rig: Rig, batch: Batch) -> None:
    batch.put(keys.orphan(Inode(50)), b"")


def attribute_of_nothing(rig: Rig, batch: Batch) -> None:
    batch.put(keys.extended(Inode(60), b"user.x"), b"1")


def stream_of_nothing(rig: Rig, batch: Batch) -> None:
    batch.put(keys.bucket(keys.STREAM, 2) + bytes(8), struct.pack("<QB", 70, 1) + b"stream")


def garble(tag: bytes) -> Plant:
    """Cuts a byte off the first record with this tag."""

    def plant(rig: Rig, batch: Batch) -> None:
        key, record = first_window(rig, tag)
        batch.put(key, record[:-1])

    return plant


def garble_entry(rig: Rig, batch: Batch) -> None:
    batch.put(keys.entry(ROOT, 2 << 15), b"\2")


def garble_inode(rig: Rig, batch: Batch) -> None:
    batch.put(keys.inode(Inode(3)), value(rig, keys.inode(Inode(3)))[:50])


PLANTS: list[tuple[Plant, str]] = [
    (change_inode(2, pages=3), r"inode 2: says 3 pages, its leaves have 20"),
    (change_inode(2, size=5 * PAGE), r"inode 2: has data at page 19, behind its end"),
    (change_inode(2, marks=0), r"inode 2: shares page .* and is not marked so"),
    (change_leaf(2, 7, None), r"page .*: 1 references are recorded, 2 leaves name it"),
    (change_leaf(2, 7, 0), r"page .*: has a place in extent 1, and no leaf names it"),
    (change_leaf(2, 7, 5 << 40), r"page .*: should be in the log, which does not reach there"),
    (change_leaf(2, 7, (1 << 63) + (77 << 23)), r"page 0 of extent 77: is named by a leaf and has no place"),
    (lose_place, r"page .*: is named by a leaf and has no place"),
    (invent_place, r"page .*: has a place in extent 1, and no leaf names it"),
    (place_behind_extent, r"page .*: has a place behind the end of extent 1"),
    (place_in_no_extent, r"page .*: has a place in extent 999, which is not recorded"),
    (more_references, r"page .*: 3 references are recorded, 2 leaves name it"),
    (lose_references, r"page .*: 1 references are recorded, 2 leaves name it"),
    (invent_references, r"page .*: 2 references are recorded, no leaf names it"),
    (miscount_live, r"extent 1: 1 live pages are recorded, 19 are"),
    (lose_extent, r"extent 1: has a count of live pages and no record"),
    (twice_an_extent, r"extent 9: lies in slot .* as extent 1 does"),
    (garble_extent, r"extent 1: the record of extent 1 has .* bytes instead of"),
    (free_what_is_used, r"extent 1: is recorded as freed and as in use"),
    (empty_leaf, r"inode 4, leaf 77: stored although it holds nothing"),
    (short_leaf, r"inode 4, leaf 77: 5 bytes instead of 768"),
    (forget_log_pages, r"volume: 5 live pages in the log are recorded, there are 4"),
    (forget_reserved, r"volume: -1 reserved pages are recorded, there are 0"),
    (garble(keys.PLACES), r"window .*: places of .* bytes"),
    (garble(keys.REFERENCES), r"window .*: references of .* bytes"),
    (garble(keys.FREED), r"extent .*: the record of extent .* has .* bytes instead of"),
    (garble_entry, r"directory 1: an entry of 1 bytes cannot be read"),
    (garble_inode, r"inode 3: its record of 50 bytes cannot be read"),
    (lose_inode, r"inode 2: has leaves and does not exist"),
    (lose_inode, r"entry b'file 2' of directory 1: names inode 2, which does not exist"),
    (lose_entry, r"inode 2: says 1 links, 0 entries name it"),
    (lose_entry, r"directory 1: says 3 entries, it has 2"),
    (lose_entry, r"inode 2: has no name and is no orphan"),
    (wrong_kind, r"says that inode 2 is of kind 3, it is of kind 1"),
    (change_inode(3, links=4), r"inode 3: says 4 links, 1 entries name it"),
    (change_inode(1, links=3), r"directory 1: says 3 links, it has 0 subdirectories"),
    (change_inode(3, marks=HAS_DESCRIPTOR | SHARES_PAGES), r"inode 3: its mark for a security descriptor"),
    (change_inode(4, marks=IS_STREAM), r"inode 4: is a stream of no file"),
    (orphan_with_name, r"inode 2: is an orphan and has a name"),
    (orphan_of_nothing, r"inode 50: is an orphan and does not exist"),
    (attribute_of_nothing, r"inode 60: has extended attributes and does not exist"),
    (stream_of_nothing, r"stream b'stream' of inode 2: names inode 70, which does not exist"),
]


@pytest.mark.parametrize("number", range(len(PLANTS)), ids=lambda number: PLANTS[number][1][:40])
def test_a_planted_discrepancy_is_found_and_named(number: int) -> None:
    plant, expected = PLANTS[number]

    async def scenario(rig: Rig) -> None:
        await furnish(rig)
        batch = Batch()
        plant(rig, batch)
        rig.store.keyspace.commit(batch)
        found = [str(finding) for finding in (await rig.check(read_data=False)).findings]
        assert any(re.search(expected, finding) for finding in found), "\n".join(found)

    run(scenario)


def test_an_extent_that_disappeared_from_the_disks_is_found() -> None:
    async def scenario(rig: Rig) -> None:
        await furnish(rig)
        await rig.pool.delete(rig.data.extents.placement(1))
        found = [str(finding) for finding in (await rig.check(read_data=False)).findings]
        assert found == ["extent 1: is recorded, and no disk that is present has it"]

    run(scenario)


def test_an_extent_that_nobody_recorded_is_an_orphan_until_it_should_have_been_collected() -> None:
    async def scenario(rig: Rig) -> None:
        await furnish(rig)
        number = await rig.data.extents.take()
        await rig.data.extents.write(number, [pattern(PAGE)], rig.data.settings.policy, [])
        report = await rig.check()
        assert (report.findings, report.orphans) == ([], 1)
        await rig.close()
        await rig.open()
        assert await rig.data.cleaner.collect_orphans() == 1
        report = await rig.clean()
        assert report.orphans == 0

    run(scenario)


def test_flipped_bits_in_an_extent_are_found_on_the_copy_that_has_them() -> None:
    async def scenario(rig: Rig) -> None:
        await furnish(rig)
        fragment = rig.data.extents.placement(1).fragments[1]
        assert isinstance(rig.files, SimulatedFiles)
        spec = next(spec for spec in rig.specs if spec.id == fragment.disk)
        assert flip_in_arena(rig, spec.path, pattern(PAGE)[:64]) >= 1
        found = [str(finding) for finding in (await rig.check()).findings]
        assert found
        assert all("extent" in finding for finding in found)
        # A scrub or a read mends it; here every page is read from each copy in turn.
        assert await rig.read(Inode(3), 0, 5 * PAGE) == pattern(5 * PAGE)

    run(scenario)


def flip_in_arena(rig: Rig, path: str, text: bytes) -> int:
    """Flips a bit wherever `text` stands in a disk's arenas."""
    files = rig.files
    assert isinstance(files, SimulatedFiles)
    count = 0
    for name in files.list(f"{path}/arenas"):
        full = f"{path}/arenas/{name}"
        file = files.open(full)
        content = bytearray(file.size)
        file.read_now(0, [memoryview(content)])
        file.close()
        at = content.find(text)
        while at >= 0:
            files.flip(full, at)
            count += 1
            at = content.find(text, at + 1)
    return count


def test_the_online_check_looks_at_a_copy_while_the_volume_goes_on() -> None:
    async def scenario(rig: Rig) -> None:
        await furnish(rig)
        await rig.store.keyspace.checkpoint()
        records = next(iter(rig.store.checkpoints.records.values()))
        await records.copy("/copy")
        view = RecordsView(rig.files.records("/copy", 1 << 28))
        turns = 0

        async def busy() -> None:
            nonlocal turns
            turns += 1
            if turns < 20:
                await rig.write(Inode(2), turns * PAGE, pattern(PAGE, turns))
                await rig.write(Inode(4), MIB, pattern(MIB, turns))
            elif turns == 20:
                await rig.settle()
                await rig.data.cleaner.compact()
                await rig.settle()

        report = await check(view, rig.store.keyspace, rig.store.log, rig.pool, VOLUME, busy, read_data=True)
        assert report.findings == []
        assert report.pages_read > 0
        assert turns > 20

    run(scenario)
