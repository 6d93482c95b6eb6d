"""A state machine whose state is the list of everything it was ever given, so that whatever is lost, doubled or out of order shows.

An operation is a number, never used twice. A checkpoint is the list up to a mark, in the records beside the replica.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from sofs.errors import Damaged
from sofs.log.configuration import BEGINNING, Mark
from sofs.runtime.ports import Records
from sofs.types import Lsn

__all__ = ["Entry", "NumberMachine", "checkpoint_of", "operation", "store_checkpoint"]

_KEY = b"checkpoint"


class Entry(NamedTuple):
    """A record that was applied."""

    lsn: Lsn
    number: int
    address: int
    length: int
    """Of the payload."""
    checksum: int
    """Of the payload."""


class _Checkpoint(msgspec.Struct, array_like=True):
    mark: Mark
    entries: list[Entry]


def checkpoint_of(records: Records) -> tuple[Mark, list[Entry]]:
    value = records.get(_KEY)
    if value is None:
        return BEGINNING, []
    checkpoint = msgspec.msgpack.decode(value, type=_Checkpoint)
    return checkpoint.mark, checkpoint.entries


async def store_checkpoint(records: Records, mark: Mark, entries: list[Entry]) -> None:
    await records.commit([(_KEY, msgspec.msgpack.encode(_Checkpoint(mark, entries)))])
    records.refresh()


class NumberMachine:
    """`sofs.log.Machine`."""

    def __init__(self, records: Records, on_cut: Callable[[Sequence[Entry]], None]) -> None:
        """`on_cut` is told what is forgotten because the log was cut off before it."""
        self.records = records
        self._on_cut = on_cut
        self.mark, self.entries = checkpoint_of(records)
        """The mark is that of the checkpoint."""

    def apply(self, lsn: Lsn, operations: bytes, address: int) -> None:
        number, length, checksum = msgspec.msgpack.decode(operations, type=tuple[int, int, int])
        if self.entries and self.entries[-1].lsn >= lsn:
            raise Damaged(f"the record at {lsn} was given after that at {self.entries[-1].lsn}")
        self.entries.append(Entry(lsn, number, address, length, checksum))

    def truncate(self, to: Lsn) -> None:
        self._on_cut([entry for entry in self.entries if entry.lsn >= to])
        self.mark, self.entries = checkpoint_of(self.records)
        assert self.mark.lsn <= to, f"the checkpoint at {self.mark.lsn} holds what is cut off at {to}"

    def before(self, mark: Mark) -> list[Entry]:
        return [entry for entry in self.entries if entry.lsn < mark.lsn]


def operation(number: int, length: int, checksum: int) -> bytes:
    return msgspec.msgpack.encode((number, length, checksum))
