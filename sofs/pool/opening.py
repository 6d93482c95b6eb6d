"""Making disks and opening them.

Making a disk writes its parts and the label last, so that whatever a crash leaves behind has no label and can be made
again. Opening reads label, slot table and revoked ids, and settles the table's damaged entries by the fragments' headers; nothing
else is read, however much the disk holds. Each refusal says what was found and what to do.
"""

import posixpath
from collections.abc import Callable

from sofs.errors import Damaged, DiskFailed, DiskRefused, InvalidArgument, NoSpace, NotFound, SofsError
from sofs.pool.extent import EXTENT_LIMIT, MIB
from sofs.pool.fragment import META_PER_SLOT, SLOT_SIZE, decode_meta
from sofs.pool.label import Label, check_name, decode_label, encode_label
from sofs.pool.layout import Layout, open_layout
from sofs.pool.local_disk import LocalDisk
from sofs.pool.policy import TIERS
from sofs.pool.revocations import Revocations
from sofs.pool.slots import SlotAllocator
from sofs.pool.table import ENTRY_SIZE, Entry, SlotTable, seed_of
from sofs.runtime.ports import File, Files, Random
from sofs.types import DiskId

ARENA_SLOTS = (1 << 30) // SLOT_SIZE
"""Slots in an arena of one GiB: 1016. Small disks have smaller arenas, so that rounding costs little."""
_LONGEST = EXTENT_LIMIT // MIB
"""Slots of the longest fragment: an arena has at least so many, and an entry that is lost may have stood for so many."""

Note = Callable[[str, int], None]
"""Told what was found at a slot while opening: an event's name and the slot."""


def make_disk(
    files: Files,
    random: Random,
    path: str,
    *,
    pool: str,
    tier: str,
    host: str,
    capacity: int | None = None,
    arena_slots: int | None = None,
    force: bool = False,
) -> Label:
    """Makes the directory at `path` (created if need be) an empty disk of a pool and gives its label.

    `capacity` bounds the bytes of slots on it, by default the size of the file system; whoever makes two disks on one file
    system gives each its share. `arena_slots` follows from that unless given. Raises `DiskRefused` if another label or
    anybody's data is there, unless `force`, which removes the disk that was there and leaves foreign files alone;
    `NotSupported` for a device, `Unavailable` if a process uses it, `InvalidArgument`, `NoSpace`, `ReadOnly`.
    """
    check_name("pool", pool)
    check_name("host", host)
    if tier not in TIERS:
        raise InvalidArgument(f"tiers are {' and '.join(TIERS)}, not {tier!r}")
    layout = open_layout(files, path)
    _make_directory(files, layout.path)
    if not force:
        # Before the lock, which is a file: a directory that is refused is left as it was.
        _refuse_occupied(layout)
    lock = layout.lock()
    try:
        layout.clear()
        total = layout.space().total
        room = total if capacity is None else min(capacity, total)
        in_arena = arena_slots or min(ARENA_SLOTS, max(_LONGEST, room // SLOT_SIZE // 16))
        arenas = room // (in_arena * SLOT_SIZE)
        if arenas < 1:
            needed = -(-in_arena * SLOT_SIZE // MIB)
            raise NoSpace(f"{path}: {room // MIB} MiB are too small for a disk; give at least {needed} MiB")
        label = Label(DiskId(random.number(63)), pool, tier, host, arenas, in_arena)
        layout.make_parts(SlotTable.blank(label.id, label.slots))
        layout.write_revoked(Revocations().encode(seed_of(label.id)))
        layout.write_label(encode_label(label))
    finally:
        lock.close()
    return label


def _make_directory(files: Files, path: str) -> None:
    """Makes a directory with its parents, durably."""
    made = []
    while not files.exists(path):
        made.append(path)
        path = posixpath.dirname(path) or "."
    if made:
        files.make_directory(made[0])
    for name in reversed(made):
        files.sync_directory(posixpath.dirname(name) or ".")


def _refuse_occupied(layout: Layout) -> None:
    text = layout.read_label()
    others = layout.others(labelled=text is not None)
    if others:
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise DiskRefused(f"{layout.path} holds other data ({some}); give an empty directory, or --force to use it all the same")
    if text is not None:
        label = decode_label(text, f"{layout.path}/label")
        raise DiskRefused(f"{layout.path} is disk {label.id:016x} of pool {label.pool}; give another directory, or --force to lose what is on it")


def label_at(files: Files, path: str) -> DiskId | None:
    """Which disk the directory is; None if it is none, or nobody can tell."""
    try:
        text = open_layout(files, path).read_label()
        return None if text is None else decode_label(text, path).id
    except SofsError:
        return None


def open_disk(files: Files, path: str, *, pool: str, expected: DiskId | None = None, distrusted: bool = False, note: Note) -> LocalDisk:
    """Opens the disk at `path`, which must belong to `pool` and, if given, be the disk `expected`.

    After a failed sync the page cache may hold table entries that the disk does not have, and calls them written: the table of a
    `distrusted` disk is written again whole.

    Raises `NotFound` (no directory or no label), `DiskRefused` (another's label, or damaged beyond use), `Unavailable` (another process
    has it), `ReadOnly`, `DiskFailed`, `NotSupported`.
    """
    layout = open_layout(files, path)
    text = layout.read_label()
    if text is None:
        raise NotFound(f"{path} has no label: is the disk mounted there?")
    label = decode_label(text, f"{path}/label")
    if label.pool != pool:
        raise DiskRefused(f"{path} is disk {label.id:016x} of pool {label.pool}, not of {pool}; give that pool's disk")
    if expected is not None and label.id != expected:
        raise DiskRefused(f"{path} is disk {label.id:016x}, expected was {expected:016x}; mount the right disk there, or add this one as new")
    lock = layout.lock()
    try:
        table_file = layout.table()
        try:
            table = _read_table(layout, label, table_file)
            slots = _settle(layout, label, table, table_file, note)
            if distrusted:
                table_file.write(0, [table.image])
            # A process that died here may have left names and entries in the page cache only. What we build on them
            # must not reach the disk before they do.
            layout.settle()
            table_file.sync_now()
            return LocalDisk(layout, label, lock, table, table_file, slots, _read_revoked(layout, label, note))
        except BaseException:
            table_file.close()
            raise
    except BaseException as error:
        lock.close()
        if isinstance(error, NotFound):
            raise DiskRefused(f"{path} has a label but no slot table; replace the disk and let the pool copy its data") from None
        raise


def _read_table(layout: Layout, label: Label, file: File) -> SlotTable:
    size = label.slots * ENTRY_SIZE
    if file.size != size:
        raise DiskRefused(f"{layout.path}: the slot table has {file.size} bytes, not {size}; replace the disk and let the pool copy its data")
    image = bytearray(size)
    if file.read_now(0, [memoryview(image)]) != size:
        raise DiskFailed(f"{layout.path}: the slot table could not be read whole")
    return SlotTable(label.id, image)


def _read_revoked(layout: Layout, label: Label, note: Note) -> Revocations:
    data = layout.read_revoked()
    if data is not None:
        try:
            return Revocations.decode(data, seed_of(label.id))
        except Damaged:
            note("revoked ids lost", 0)
    return Revocations()


def _settle(layout: Layout, label: Label, table: SlotTable, file: File, note: Note) -> SlotAllocator:
    """Finds out which slots are free, and puts damaged entries right where the fragments' headers allow it."""
    slots = SlotAllocator(label.arenas, label.arena_slots)
    damaged: list[int] = []
    for slot, entry in table.scan(0, table.slots):
        if isinstance(entry, str):
            damaged.append(slot)
        elif not slots.claim(slot, entry.slots):
            # Two fragments on one slot: no order of our writes and no crash leads there. Whichever is whole stays readable.
            slots.spoil(slot, entry.slots)
            note("slots claimed twice", slot)
    existing = frozenset(layout.arenas()) if damaged else frozenset()
    # In rising order: what a restored entry takes explains the damaged ones behind it.
    for slot in damaged:
        _restore(layout, label, table, file, slots, slot, slot // label.arena_slots in existing, note)
    return slots


def _restore(layout: Layout, label: Label, table: SlotTable, file: File, slots: SlotAllocator, slot: int, exists: bool, note: Note) -> None:
    """Settles one damaged entry.

    If the slot belongs to another fragment, or no byte was ever written there, the entry was free. If the header of a fragment of
    this very slot is there, it was that one's (or the fragment was being deleted, and becomes an orphan). Else nobody
    knows, and the slots that it may have named are left alone until a copy of the extent is written elsewhere.
    """
    if not slots.is_free(slot):
        entry: Entry | None = None
        note("table entry restored", slot)
    else:
        meta = _read_meta(layout, label, slot) if exists else b""
        if not any(meta):
            entry = None
            note("table entry restored", slot)
        else:
            entry = _entry_from(meta, label, slot)
            if entry is None or not slots.claim(slot, entry.slots):
                slots.spoil(slot, _LONGEST)
                note("table entry lost", slot)
                return
            note("table entry restored", slot)
    at, data = table.put(slot, entry)
    file.write(at, [data])


def _read_meta(layout: Layout, label: Label, slot: int) -> bytes:
    """What lies where a fragment's header would be; something if it cannot be read."""
    arena, base = layout.arena(slot // label.arena_slots, label.arena_slots)
    within = slot % label.arena_slots
    room = min(_LONGEST, label.arena_slots - within) * META_PER_SLOT
    meta = bytearray(room)
    try:
        arena.read_now(base + within * SLOT_SIZE, [memoryview(meta)])
    except DiskFailed:
        return b"?"
    finally:
        arena.close()
    return bytes(meta)


def _entry_from(meta: bytes, label: Label, slot: int) -> Entry | None:
    try:
        header, _ = decode_meta(meta)
    except Damaged:
        return None
    if header.disk != label.id or header.slot != slot:
        return None
    return Entry(header.id, header.scheme, header.part, header.pages, header.slots)
