"""Where a disk keeps its parts: the one module that knows that a disk is a directory.

    lock            held by the process that uses the disk
    label           who the disk is (`label.py`); written last
    table           the slot table (`table.py`)
    revoked         the ids that may not be written any more (`revocations.py`)
    arenas/000000   a gigabyte of slots (`fragment.py`); a sparse file, made when its first slot is taken
    logs/           a volume's log, if one lies on this disk: not the pool's business, left alone

`Layout` is the interface that a raw device will implement too: there, each part is a region at a fixed offset of one file, which is
why an arena is handed out as a file and an offset.
"""

from typing import Protocol

from sofs.errors import DiskFailed, DiskRefused, Exists, NotFound, NotSupported
from sofs.pool.fragment import SLOT_SIZE
from sofs.pool.label import LABEL_SIZE
from sofs.runtime.ports import File, Files, Space


class Layout(Protocol):
    """The parts of one disk."""

    path: str
    """How operators call the disk."""

    def lock(self) -> File:
        """Keeps every other process off the disk until closed. Raises `Unavailable`, `ReadOnly`, `NotFound`."""

    def read_label(self) -> bytes | None:
        """The label's bytes, `None` if there is none."""

    def write_label(self, data: bytes) -> None:
        """Replaces the label, atomically and durably."""

    def settle(self) -> None:
        """Makes durable the names that a process which died may have left in memory only."""

    def others(self, labelled: bool) -> list[str]:
        """Names of what is here and does not belong to a disk of ours; a log does only where a label is."""

    def clear(self) -> None:
        """Removes every part of a disk of ours, the label first; what others own stays."""

    def make_parts(self, table: bytes) -> None:
        """Makes room for arenas and writes a new slot table, durably."""

    def table(self) -> File:
        """The slot table. Raises `NotFound`."""

    def read_revoked(self) -> bytes | None: ...

    def write_revoked(self, data: bytes) -> None:
        """Replaces the list of revoked ids, atomically and durably."""

    async def prepare_revoked(self, data: bytes) -> None:
        """Writes a new list of revoked ids beside the one that counts; only one at a time."""

    def place_revoked(self) -> None:
        """Puts the one that was prepared in the other's place, atomically and durably."""

    def arena(self, number: int, slots: int) -> tuple[File, int]:
        """The arena's file and the offset in it where its slots begin; made, durably, if it does not exist."""

    def arenas(self) -> list[int]:
        """Which arenas exist, in order."""

    def space(self) -> Space:
        """How full the medium is."""


def open_layout(files: Files, path: str) -> Layout:
    """The layout of the disk at `path`. Raises `NotSupported` for a device."""
    if path.startswith("/dev/"):
        raise NotSupported(f"{path}: raw devices are not offered yet; make a file system on it (ext4, xfs), mount it and give a directory there")
    return DirectoryLayout(files, path)


_OURS = frozenset({"lock", "label", "label.new", "table", "table.new", "revoked", "revoked.new", "revoked.next", "arenas", "lost+found"})


class DirectoryLayout:
    """A disk as a directory of a local file system."""

    def __init__(self, files: Files, path: str) -> None:
        self.path = path.rstrip("/") or "/"
        self._files = files

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def lock(self) -> File:
        return self._files.lock(self._at("lock"))

    def read_label(self) -> bytes | None:
        return self._read("label", LABEL_SIZE)

    def write_label(self, data: bytes) -> None:
        self._replace("label", data)

    def settle(self) -> None:
        self._files.sync_directory(self.path)
        if self._files.exists(self._at("arenas")):
            self._files.sync_directory(self._at("arenas"))

    def others(self, labelled: bool) -> list[str]:
        names = self._files.list(self.path)
        return [name for name in names if name not in _OURS and not (labelled and name == "logs")]

    def clear(self) -> None:
        # Without the label the rest is no disk any more, however far this gets.
        for name in ("label", "label.new", "table", "table.new", "revoked", "revoked.new", "revoked.next"):
            self._remove(name)
        for number in self.arenas():
            self._remove(_arena_name(number))
        self._files.sync_directory(self.path)

    def make_parts(self, table: bytes) -> None:
        self._files.make_directory(self._at("arenas"))
        self._replace("table", table)

    def table(self) -> File:
        return self._files.open(self._at("table"))

    def read_revoked(self) -> bytes | None:
        return self._read("revoked", None)

    def write_revoked(self, data: bytes) -> None:
        self._replace("revoked", data)

    async def prepare_revoked(self, data: bytes) -> None:
        file = self._make("revoked.next", data)
        try:
            await file.sync()
        finally:
            file.close()

    def place_revoked(self) -> None:
        self._files.rename(self._at("revoked.next"), self._at("revoked"))
        self._files.sync_directory(self.path)

    def arena(self, number: int, slots: int) -> tuple[File, int]:
        path = self._at(_arena_name(number))
        size = slots * SLOT_SIZE
        try:
            file = self._files.open(path)
        except NotFound:
            file = self._make_arena(path)
        if file.size < size:
            file.truncate(size)
        return file, 0

    def _make_arena(self, path: str) -> File:
        try:
            file = self._files.open(path, create=True)
        except NotFound:
            # Not made here: where a disk was unmounted, its mount point must not become one.
            raise DiskFailed(f"{self.path}: the directory of its arenas is gone; is the disk mounted there?") from None
        self._files.sync_directory(self._at("arenas"))
        return file

    def arenas(self) -> list[int]:
        try:
            names = self._files.list(self._at("arenas"))
        except NotFound:
            return []
        return [int(name) for name in names if name.isascii() and name.isdigit()]

    def space(self) -> Space:
        return self._files.space(self.path)

    def _read(self, name: str, limit: int | None) -> bytes | None:
        try:
            file = self._files.open(self._at(name))
        except NotFound:
            return None
        try:
            size = file.size
            if limit is not None and size > limit:
                raise DiskRefused(f"{self._at(name)} has {size} bytes and is none of ours: look what lies in this directory")
            data = bytearray(size)
            count = file.read_now(0, [memoryview(data)])
            return bytes(data[:count])
        finally:
            file.close()

    def _replace(self, name: str, data: bytes) -> None:
        file = self._make(name + ".new", data)
        try:
            file.sync_now()
        finally:
            file.close()
        self._files.rename(self._at(name + ".new"), self._at(name))
        self._files.sync_directory(self.path)

    def _make(self, name: str, data: bytes) -> File:
        """A file with these contents, not synced yet."""
        new = self._at(name)
        try:
            file = self._files.open(new, create=True, exclusive=True)
        except Exists:
            # Left behind by a crash; nobody else writes it, the lock is ours.
            self._files.remove(new)
            file = self._files.open(new, create=True, exclusive=True)
        try:
            file.write(0, [data])
        except BaseException:
            file.close()
            raise
        return file

    def _remove(self, name: str) -> None:
        try:
            self._files.remove(self._at(name))
        except NotFound:
            pass


def _arena_name(number: int) -> str:
    return f"arenas/{number:06d}"
