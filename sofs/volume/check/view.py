"""What every check is handed: records that stand still, and somebody to tell of discrepancies."""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from sofs.runtime.ports import Records
from sofs.volume.inode import InodeRecord


class Finding(NamedTuple):
    """One discrepancy: where, and what is wrong."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


Note = Callable[[str, str], None]
"""Told (where, what) of each discrepancy."""


class View(Protocol):
    """Records that do not change while they are checked: a key space at rest, or a copy of a checkpoint."""

    def get(self, key: bytes) -> bytes | None: ...

    def walk(self, tag: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]: ...


class RecordsView:
    """The records of a copied checkpoint, to be checked while the volume goes on."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self.get = records.get

    def walk(self, tag: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._records.scan(max(tag, start), bytes((tag[0] + 1,)))


def decode_inode(number: int, value: bytes, note: Note) -> InodeRecord | None:
    """The inode's record; None, noted, if it cannot be read."""
    try:
        return InodeRecord.decode(value)
    except struct.error as error:
        note(f"inode {number}", f"its record of {len(value)} bytes cannot be read: {error}")
        return None
