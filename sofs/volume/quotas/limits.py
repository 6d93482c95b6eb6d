"""Quotas: what users, groups, directory trees and the volume may use, and who is refused.

Limits are records (`U`), held in memory while the volume is open; what is used is counted in `apply` (`quotas/counting.py`). A change asks here before anything
is changed, with nothing to wait for between the question and its commit, so a limit is never passed by a client.

A file counts with the pages it shows: those it shares with clones count for each of them, as XFS counts them. It belongs to one directory tree at
most: quotas of directories do not lie within one another. A user's quota of subject `DEFAULT` is that of every user without one, but for the superuser.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Self

import structlog

from sofs.errors import QuotaExceeded
from sofs.types import PAGE
from sofs.volume.api import Quota, QuotaKind
from sofs.volume.inode import InodeRecord
from sofs.volume.keys import BUCKET, QUOTA
from sofs.volume.quotas.counting import Use, files_key, owners, pages_key, use_of

DEFAULT = (1 << 32) - 1

_LIMITS = struct.Struct("<QQQ")


class Limits(NamedTuple):
    """0 is none."""

    soft_bytes: int
    hard_bytes: int
    hard_files: int

    def encode(self) -> bytes:
        return _LIMITS.pack(*self)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        return cls._make(_LIMITS.unpack(value))


class Room(NamedTuple):
    """What the tightest quota leaves, in bytes."""

    total: int
    free: int


def limits_key(kind: int, subject: int) -> bytes:
    return QUOTA + kind.to_bytes(8) + subject.to_bytes(8) + b"l"


def walk_key(directory: int) -> bytes:
    """A directory whose tree has to be walked: the value is the tree (u64) that what is below it gets."""
    return QUOTA + QuotaKind.DIRECTORY.to_bytes(8) + directory.to_bytes(8) + b"w"


def gone_key(directory: int) -> bytes:
    """A directory that had a quota when a snapshot was taken: restoring that brings back what says so."""
    return QUOTA + QuotaKind.DIRECTORY.to_bytes(8) + directory.to_bytes(8) + b"g"


class Quotas:
    """One volume's limits."""

    def __init__(self, get: Callable[[bytes], bytes | None], scan: Callable[[bytes], Iterator[tuple[bytes, bytes]]]) -> None:
        self._get = get
        self._scan = scan
        self.limits: dict[tuple[int, int], Limits] = {}
        self._warned: set[tuple[int, int]] = set()
        self._logger = structlog.get_logger(component="quotas")
        self.load()

    @property
    def active(self) -> bool:
        """Whether anybody can be refused."""
        return bool(self.limits)

    def load(self) -> None:
        """To be called when a limit's record has changed."""
        self.limits = {
            (kind, int.from_bytes(key[BUCKET:-1])): Limits.decode(value)
            for kind in QuotaKind
            for key, value in self._scan(QUOTA + kind.to_bytes(8))
            if key[-1:] == b"l"
        }

    def _limits(self, kind: int, subject: int) -> Limits | None:
        found = self.limits.get((kind, subject))
        if found is None and kind == QuotaKind.USER and subject:
            return self.limits.get((kind, DEFAULT))
        return found

    def used(self, kind: int, subject: int) -> tuple[int, int]:
        """Bytes and files in use."""
        return self._counter(pages_key(kind, subject)) * PAGE, self._counter(files_key(kind, subject))

    def _counter(self, key: bytes) -> int:
        value = self._get(key)
        return 0 if value is None else int.from_bytes(value, "little", signed=True)

    def quota(self, kind: int, subject: int) -> Quota:
        """Limits and use of one subject."""
        limits = self.limits.get((kind, subject), Limits(0, 0, 0))
        return Quota(QuotaKind(kind), subject, *limits, *self.used(kind, subject))

    # Asking

    def grow(self, record: bytes, pages: int) -> None:
        """A file gets so many more pages. Raises `QuotaExceeded`."""
        if self.limits and pages > 0:
            for kind, subject in owners(use_of(record)):
                self._ask(kind, subject, pages, 0)

    def create(self, record: InodeRecord) -> None:
        """An inode comes. Raises `QuotaExceeded`."""
        if self.limits:
            for kind, subject in owners(_use(record)):
                self._ask(kind, subject, 0, 1)

    def move(self, changes: Iterable[tuple[InodeRecord, InodeRecord]]) -> None:
        """Inodes (before, after) get other owners, or come into another tree, together. Raises `QuotaExceeded`."""
        if not self.limits:
            return
        pages: Counter[tuple[int, int]] = Counter()
        files: Counter[tuple[int, int]] = Counter()
        for before, after in changes:
            new = _use(after)
            for owner in set(owners(new)) - set(owners(_use(before))):
                pages[owner] += new[3]
                files[owner] += 1
        for kind, subject in files:
            self._ask(kind, subject, pages[kind, subject], files[kind, subject])

    def _ask(self, kind: int, subject: int, pages: int, files: int) -> None:
        limits = self._limits(kind, subject)
        if limits is None:
            return
        used_bytes, used_files = self.used(kind, subject)
        if limits.soft_bytes and pages:
            self._warn(kind, subject, used_bytes + pages * PAGE, limits.soft_bytes)
        if limits.hard_bytes and pages and used_bytes + pages * PAGE > limits.hard_bytes:
            raise QuotaExceeded(f"{_name(kind, subject)} may use {limits.hard_bytes} bytes, and uses {used_bytes}")
        if limits.hard_files and files and used_files + files > limits.hard_files:
            raise QuotaExceeded(f"{_name(kind, subject)} may have {limits.hard_files} files, and has {used_files}")

    def _warn(self, kind: int, subject: int, wanted: int, soft: int) -> None:
        """Logs that a soft limit is passed, once until there is less again."""
        if wanted <= soft:
            self._warned.discard((kind, subject))
        elif (kind, subject) not in self._warned:
            self._warned.add((kind, subject))
            self._logger.warning("soft_quota_exceeded", whose=_name(kind, subject), limit=soft)

    def room(self, uid: int, gid: int, tree: int) -> Room | None:
        """What these owners' quotas leave; None if none of them has a limit of bytes."""
        tightest: Room | None = None
        for kind, subject in owners((uid, gid, tree, 0)):
            limits = self._limits(kind, subject)
            if limits is not None and limits.hard_bytes:
                free = max(0, limits.hard_bytes - self.used(kind, subject)[0])
                if tightest is None or free < tightest.free:
                    tightest = Room(limits.hard_bytes, free)
        return tightest


def _use(record: InodeRecord) -> Use:
    return record.uid, record.gid, record.tree, record.allocated // PAGE


def _name(kind: int, subject: int) -> str:
    if kind == QuotaKind.VOLUME:
        return "the volume"
    return f"{QuotaKind(kind).name.lower()} {subject}"
