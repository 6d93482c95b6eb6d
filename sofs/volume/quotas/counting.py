"""Counting what owners use: the pages and files of each user, group, directory tree and of the volume, for quotas.

While quotas are in use every change of an inode's record passes here: what the record said before is taken off the counts of those it belonged
to, what it says now is added. So the counts follow in `apply`, exactly, from whatever changes an inode. A volume without quotas counts nothing.

When the first quota is set nothing has been counted. Then inodes are counted in the order of their numbers, some at a time, and a record (`COUNTED`)
says how far: the changes of those with lower numbers are followed, the others will be counted as they are then.

    COUNT       counts some inodes more, or begins anew
    TREE        moves inodes to another directory tree
"""

import struct
from collections.abc import Iterable, Iterator, Mapping

from sofs.types import Inode, Lsn
from sofs.volume.api import QuotaKind
from sofs.volume.batch import Apply, Mutator, Operation
from sofs.volume.inode import CLONED
from sofs.volume.keys import BUCKET, COUNTED, INODE, QUOTA
from sofs.volume.snapshots.history import History

ALL = (1 << 64) - 1
"""`COUNTED` when all inodes are counted."""

_U64 = struct.Struct("<Q")
_OWNERS = struct.Struct("<II")
_OWNERS_AT = 8
_PAGES_AT = 28
_TREE_AT = 100
_INODE = INODE[0]

Use = tuple[int, int, int, int]
"""Of an inode: uid, gid, tree, pages."""


def use_of(record: bytes) -> Use:
    """What an inode's record says about who it belongs to, and how many pages it has."""
    uid, gid = _OWNERS.unpack_from(record, _OWNERS_AT)
    pages = int.from_bytes(record[_PAGES_AT : _PAGES_AT + 8], "little")
    if record[1] & CLONED:
        pages += int.from_bytes(record[-8:], "little")
    return uid, gid, int.from_bytes(record[_TREE_AT : _TREE_AT + 8], "little"), pages


def owners(use: Use) -> tuple[tuple[int, int], ...]:
    """Those in whose counts it is: (kind, subject)."""
    uid, gid, tree, _ = use
    found = ((QuotaKind.VOLUME, 0), (QuotaKind.USER, uid), (QuotaKind.GROUP, gid))
    return (*found, (QuotaKind.DIRECTORY, tree)) if tree else found


def _key(kind: int, subject: int, letter: bytes) -> bytes:
    return QUOTA + kind.to_bytes(8) + subject.to_bytes(8) + letter


def pages_key(kind: int, subject: int) -> bytes:
    """The counter of pages in use."""
    return _key(kind, subject, b"p")


def files_key(kind: int, subject: int) -> bytes:
    """The counter of inodes in use."""
    return _key(kind, subject, b"f")


class Counting:
    """The records while a batch is applied to a volume with quotas: what changes of inodes is counted."""

    history: History

    def __init__(self, records: Mutator, counted: int) -> None:
        self.history = records.history
        self.get = records.get
        self.scan = records.scan
        self._records = records
        self._counted = counted

    def put(self, key: bytes, value: bytes) -> None:
        if key[0] == _INODE and int.from_bytes(key[1:]) < self._counted:
            _count(self._records, self.get(key), value)
        self._records.put(key, value)

    def delete(self, key: bytes) -> None:
        if key[0] == _INODE and int.from_bytes(key[1:]) < self._counted:
            _count(self._records, self.get(key), None)
        self._records.delete(key)

    def add(self, key: bytes, amount: int) -> int:
        return self._records.add(key, amount)


def _count(records: Mutator, before: bytes | None, after: bytes | None) -> None:
    old = None if before is None else use_of(before)
    new = None if after is None else use_of(after)
    if old == new:
        return
    changes: dict[bytes, int] = {}
    for use, sign in ((old, -1), (new, 1)):
        if use is not None:
            for kind, subject in owners(use):
                for key, amount in ((pages_key(kind, subject), use[3]), (files_key(kind, subject), 1)):
                    changes[key] = changes.get(key, 0) + sign * amount
    for key, amount in changes.items():
        if amount and records.add(key, amount) == 0:
            records.delete(key)


_COUNT = struct.Struct("<QQ")
"""The lowest number that will be counted next, how many inodes; then their numbers (u64)."""


def begin() -> bytes:
    """The body of a COUNT that begins anew: nothing has been counted."""
    return _COUNT.pack(1, 0)


def stop() -> bytes:
    """The body of a COUNT that ends all counting."""
    return _COUNT.pack(0, 0)


def count(inodes: Iterable[Inode], following: int) -> bytes:
    """The body of a COUNT of all inodes that there are from what was counted so far up to, not including, `following`."""
    numbers = list(inodes)
    return _COUNT.pack(following, len(numbers)) + struct.pack(f"<{len(numbers)}Q", *numbers)


def tree(directory: Inode, inodes: Iterable[Inode]) -> bytes:
    """The body of TREE: the inodes belong to the tree of this directory (0: to none)."""
    numbers = list(inodes)
    return struct.pack(f"<{1 + len(numbers)}Q", directory, *numbers)


def _apply_count(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    following, number = _COUNT.unpack_from(body)
    if not number and following <= 1:
        for key in list(_counters(records)):
            records.delete(key)
    for (inode,) in _U64.iter_unpack(body[_COUNT.size :]):
        value = records.get(INODE + inode.to_bytes(8))
        assert value is not None, f"no inode {inode}"
        _count(records, None, value)
    if following:
        records.put(COUNTED, following.to_bytes(8, "little"))
    else:
        records.delete(COUNTED)


def _counters(records: Mutator) -> Iterator[bytes]:
    for kind in QuotaKind:
        for key, _ in records.scan(QUOTA + kind.to_bytes(8)):
            if key[-1:] in (b"p", b"f") and len(key) == BUCKET + 9:
                yield key


def _apply_tree(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    directory = body[:8]
    for (inode,) in _U64.iter_unpack(body[8:]):
        key = INODE + inode.to_bytes(8)
        record = records.get(key)
        assert record is not None, f"no inode {inode}"
        records.put(key, record[:_TREE_AT] + directory + record[_TREE_AT + 8 :])


APPLIERS: Mapping[int, Apply] = {Operation.COUNT: _apply_count, Operation.TREE: _apply_tree}
