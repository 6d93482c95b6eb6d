"""A batch: the operations that one request ends in, as bytes.

A batch is applied whole or not at all: it is one record of the log. The set of operations is closed. `apply` functions
change the records as an operation says, and are pure: the same batch gives the same records on every replica and at every replay.

    batch      count of operations u32, operations
    operation  code u8, length u32, body
    PUT        key length u16, key, value
    DELETE     key
    ADD        amount i64, key: adds to the counter, which is an i64 and begins at 0

The other bodies are declared beside their `apply` functions. A batch lies in the log under the record's checksum,
so bytes that do not decode are damage (or our bug), never a peer's doing.
"""

import struct
from collections.abc import Callable, Iterator
from enum import IntEnum, unique
from typing import Protocol

from sofs.errors import Damaged
from sofs.types import Lsn
from sofs.volume.snapshots.history import History

_COUNT = struct.Struct("<I")
_HEAD = struct.Struct("<BI")
_KEY = struct.Struct("<H")
_AMOUNT = struct.Struct("<q")


@unique
class Operation(IntEnum):
    """Codes are stored in logs: they are never given another meaning."""

    PUT = 1
    DELETE = 2
    ADD = 3
    WRITE = 4
    MAP = 5
    PUNCH = 6
    TRUNCATE = 7
    CLONE = 8
    ALLOCATE = 9
    DROP = 10
    ATTRIBUTES = 11
    FREE = 12
    SNAPSHOT = 13
    FORGET = 14
    FINISH = 15
    RESTORE = 16
    CLONE_FILE = 20
    FLATTEN = 21
    TRIM = 22
    THAW = 23
    COUNT = 24
    TREE = 25


class Mutator(Protocol):
    """The records, as an `apply` function sees and changes them."""

    history: History
    """The volume's snapshots."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, bucket: bytes, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The bucket's records in key order; records may be changed meanwhile."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None:
        """No error if there is no such record."""

    def add(self, key: bytes, amount: int) -> int:
        """Adds to a counter, and gives its new value."""


Apply = Callable[[Mutator, bytes, int, Lsn], None]
"""Changes the records as one operation's body says; the third argument is the address of the batch's payload, the fourth the record's lsn."""


class Batch:
    """Collects operations. Those of one batch are applied in the order in which they were added."""

    __slots__ = ("_parts", "count", "guard")

    def __init__(self) -> None:
        self._parts: list[bytes] = [b""]
        self.count = 0
        self.guard: Callable[[], None] | None = None
        """Asked right before the commit; raises where the request, which had to wait, may not be carried out any more."""

    def put(self, key: bytes, value: bytes) -> None:
        self.raw(Operation.PUT, _KEY.pack(len(key)) + key + value)

    def delete(self, key: bytes) -> None:
        self.raw(Operation.DELETE, key)

    def add(self, key: bytes, amount: int) -> None:
        self.raw(Operation.ADD, _AMOUNT.pack(amount) + key)

    def raw(self, code: int, body: bytes) -> None:
        """Adds an operation whose body is encoded already."""
        parts = self._parts
        parts.append(_HEAD.pack(code, len(body)))
        parts.append(body)
        self.count += 1

    def extend(self, other: "Batch") -> None:
        """Adds the other batch's operations behind this one's."""
        self._parts += other._parts[1:]
        self.count += other.count

    def encode(self) -> bytes:
        self._parts[0] = _COUNT.pack(self.count)
        return b"".join(self._parts)


def decode(operations: bytes) -> list[tuple[int, bytes]]:
    """The batch's operations as (code, body). Raises `Damaged`."""
    found = []
    end = len(operations)
    try:
        (count,) = _COUNT.unpack_from(operations)
        at = 4
        unpack = _HEAD.unpack_from
        while at < end:
            code, length = unpack(operations, at)
            body_at = at + 5
            at = body_at + length
            found.append((code, operations[body_at:at]))
    except struct.error as error:
        raise Damaged(f"a batch of {end} bytes ends within an operation's head") from error
    if at != end or len(found) != count:
        raise Damaged(f"a batch of {end} bytes does not hold the {count} operations it claims")
    return found


def apply_put(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    key_end = 2 + int.from_bytes(body[:2], "little")
    if not 2 < key_end <= len(body):
        raise Damaged(f"PUT of {len(body)} bytes with a key that ends at {key_end}")
    records.put(body[2:key_end], body[key_end:])


def apply_delete(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    if not body:
        raise Damaged("DELETE without a key")
    records.delete(body)


def apply_add(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    if len(body) <= 8:
        raise Damaged(f"ADD of {len(body)} bytes")
    records.add(body[8:], _AMOUNT.unpack_from(body)[0])
