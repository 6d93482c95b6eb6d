"""Checking what is recorded about clients: kept opens, their ranges, grants and lock states, marks for deletion, slot tokens.

Each belongs to something that exists, and no two of them contradict each other: share modes, exclusive ranges and rights to cache are
as the lock engine would have given them.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations, islice

from sofs.errors import Damaged
from sofs.locks import READ, WRITE, ByteLock, Grant
from sofs.locks.sharing import Opening, clashes
from sofs.types import OpenId
from sofs.volume import keys
from sofs.volume.check.view import Note, View
from sofs.volume.gateways import decode_gateway
from sofs.volume.kept_records import Doom, KeptLocks, KeptOpen, decode_record, split_range
from sofs.volume.openfile import StateKind
from sofs.volume.tokens import decode_forwarded, decode_slot


def check_kept(view: View, note: Note) -> None:
    _Check(view, note).run()


class _Check:
    def __init__(self, view: View, note: Note) -> None:
        self._view = view
        self._note = note
        self._opens: dict[int, KeptOpen] = {}
        self._locks: dict[int, KeptLocks] = {}

    def run(self) -> None:
        self._read_opens()
        self._read_locks()
        self._ranges()
        self._grants()
        self._dooms()
        for key, value in self._view.walk(keys.SLOT):
            try:
                decode_slot(key, value)
            except Damaged as error:
                self._note(f"slot {key[1:].hex()}", str(error))
        for tag, decode, what in ((keys.FORWARDED, decode_forwarded, "forwarded request"), (keys.GATEWAY, decode_gateway, "gateway")):
            for key, value in self._view.walk(tag):
                try:
                    decode(value)
                except Damaged as error:
                    self._note(f"{what} {key[1:].hex()}", str(error))

    def _read_opens(self) -> None:
        files: defaultdict[int, list[tuple[int, KeptOpen]]] = defaultdict(list)
        for key, value in self._view.walk(keys.OPEN):
            number = int.from_bytes(key[1:])
            try:
                kept = decode_record(value, KeptOpen)
            except Damaged as error:
                self._note(f"open {number}", str(error))
                continue
            self._opens[number] = kept
            files[kept.inode].append((number, kept))
            for file in {kept.inode, kept.base}:
                if self._view.get(keys.inode(file)) is None:
                    self._note(f"open {number}", f"is of inode {file}, which does not exist")
        for inode, opens in files.items():
            for (one, first), (other, second) in combinations(opens, 2):
                held = Opening(OpenId(one), _rights(first), first.share, first.mandatory)
                if clashes(held, _rights(second), second.share):
                    self._note(f"inode {inode}", f"opens {one} and {other} do not share it with each other")

    def _read_locks(self) -> None:
        owners: set[tuple[int, bytes]] = set()
        for key, value in self._view.walk(keys.LOCKS):
            number = int.from_bytes(key[1:])
            try:
                locks = decode_record(value, KeptLocks)
            except Damaged as error:
                self._note(f"lock state {number}", str(error))
                continue
            self._locks[number] = locks
            kept = self._opens.get(locks.open)
            if kept is None or kept.inode != locks.inode:
                self._note(f"lock state {number}", f"belongs to open {locks.open}, which has not opened inode {locks.inode}")
            if (locks.inode, locks.owner) in owners:
                self._note(f"lock state {number}", "is the second one of its owner")
            owners.add((locks.inode, locks.owner))

    def _ranges(self) -> None:
        files: defaultdict[int, list[ByteLock]] = defaultdict(list)
        for key, _ in self._view.walk(keys.RANGE):
            open, state, start, end, exclusive = split_range(key)
            where = f"range {start} to {end}"
            kept, locks = self._opens.get(open), self._locks.get(state)
            if kept is None:
                self._note(where, f"belongs to open {open}, which does not exist")
            elif state and (locks is None or locks.open != open):
                self._note(where, f"of open {open} belongs to lock state {state}, which is not that open's")
            else:
                files[kept.inode].append(ByteLock(start, end, exclusive, open, b"" if locks is None else locks.owner))
        for inode, ranges in files.items():
            ranges.sort()
            for one, other in _neighbours(ranges):
                same = one.owner == other.owner if one.owner or other.owner else one.open == other.open
                if not same and (one.exclusive or other.exclusive) and one.overlaps(other.start, other.end):
                    self._note(f"inode {inode}", f"is locked twice: {one.start} to {one.end}, and {other.start} to {other.end}")

    def _grants(self) -> None:
        files: defaultdict[int, list[Grant]] = defaultdict(list)
        holders = {(kept.inode, kept.key) for kept in self._opens.values()}
        delegations = {number for number, kept in self._opens.items() if kept.state is StateKind.DELEGATION}
        for key, value in self._view.walk(keys.GRANT):
            inode = int.from_bytes(key[1 : keys.BUCKET])
            where = f"grant {key[keys.BUCKET :].hex()} of inode {inode}"
            try:
                grant = decode_record(value, Grant)
            except Damaged as error:
                self._note(where, str(error))
                continue
            files[inode].append(grant)
            if (inode, grant.key) not in holders:
                self._note(where, "belongs to no open")
            if grant.rights and not grant.rights & READ:
                self._note(where, f"has rights {grant.rights} that are not given without reading")
            if grant.delegation:
                delegations.discard(grant.delegation)
                if grant.delegation not in self._opens:
                    self._note(where, f"is delegation {grant.delegation}, which does not exist")
        for number in delegations:
            self._note(f"open {number}", "is a delegation without a grant")
        for inode, grants in files.items():
            if any(grant.rights & WRITE for grant in grants) and sum(1 for grant in grants if grant.rights) > 1:
                self._note(f"inode {inode}", "is cached by others beside one who caches writes")

    def _dooms(self) -> None:
        users = {inode for kept in self._opens.values() for inode in (kept.inode, kept.base)}
        for key, value in self._view.walk(keys.PENDING):
            inode = int.from_bytes(key[1:])
            try:
                decode_record(value, Doom)
            except Damaged as error:
                self._note(f"inode {inode}", str(error))
            if inode not in users:
                self._note(f"inode {inode}", "is to be deleted with its last open, and has none")


def _neighbours(ranges: list[ByteLock]) -> Iterator[tuple[ByteLock, ByteLock]]:
    """Every two of the sorted ranges that may touch each other."""
    for place, one in enumerate(ranges, 1):
        for other in islice(ranges, place, None):
            if other.start >= one.end and other.start > one.start:
                break
            yield one, other


def _rights(kept: KeptOpen) -> int:
    return 0 if kept.state is StateKind.DELEGATION else kept.access
