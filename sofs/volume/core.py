"""What all handlers of a volume's requests share: records, gates, rights, new inodes, and the one commit that ends a request.

A handler runs without an await from its first look at a record to its commit, so it needs no locks of its own: whatever it saw still holds.
While it runs, `gate` collects the position on which its answer rests; `LocalVolume.call` sets it to 0 before, and puts it
into the error if the request fails.
"""

import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from sofs.errors import Closed, Fenced, NotDirectory, ReadOnly, Stale
from sofs.locks import LockManager
from sofs.runtime.ports import Clock
from sofs.types import Inode, Kind, Lsn, OpenId, Time
from sofs.volume import keys, security
from sofs.volume.access import SETGID, Judge, is_member, is_superuser, require
from sofs.volume.api import ARCHIVE, AnyToken, Attributes, Binding, Caller, Reply, Stateless, Target, Upcall, Upcalls
from sofs.volume.batch import Batch
from sofs.volume.data import Data
from sofs.volume.directory import Place, Slot, find, look
from sofs.volume.gateways import Gateways
from sofs.volume.inode import HAS_DESCRIPTOR, IS_STREAM, InodeRecord, attributes_of
from sofs.volume.kept import Kept
from sofs.volume.keyspace import KeySpace
from sofs.volume.listings import Listings
from sofs.volume.names import NameHash, check
from sofs.volume.openfile import OpenFile
from sofs.volume.pages import Done
from sofs.volume.register import Register
from sofs.volume.tokens import Tokens
from sofs.volume.watching import Watching

NUMBERS = keys.meta(b"inodes")
"""Inode numbers below this value (u64) may be in use; those from it on are not."""
_NUMBERS_AT_ONCE = 1024
FILES = keys.FILES
_U64 = struct.Struct("<Q")

R = TypeVar("R", bound=Reply)


class Wait(Exception):
    """A handler has to wait before it can go on: raised to `LocalVolume.call`, which waits and then calls the handler again, from the start."""

    def __init__(self, waiting: Awaitable[None], undo: Callable[[], None] | None = None) -> None:
        """`undo` takes back what the wait's success has changed."""
        super().__init__()
        self.waiting = waiting
        self.undo = undo


class Subject(NamedTuple):
    """What a request's target stands for."""

    inode: Inode
    record: InodeRecord
    caller: Caller
    open: OpenFile | None
    rights: int
    """Those of the open, or all that the stateless caller has."""


class Core:
    """A volume's parts, and what is done with them again and again."""

    read_only = False

    def __init__(
        self, keyspace: KeySpace, data: Data, locks: LockManager, clock: Clock, names: NameHash, judge: Judge, start: int, gateway: int = 0
    ) -> None:
        """`start` counts how often the volume was opened, from 1; `gateway` is the incarnation of this process's gateways, 0 if there are no others."""
        self.keys = keyspace
        self.get = keyspace.get
        # What is stable already gates nothing, and need not be sorted out here.
        self._gate = keyspace.changed
        self.data = data
        self.locks = locks
        self.clock = clock
        self.names = names
        self.judge = judge
        self.tokens = Tokens(keyspace, clock)
        self.listings = Listings(keyspace)
        self.entered: dict[tuple[Inode, Caller], bytes] = {}
        """Directories without a descriptor that a caller could enter, and their records then: as long as these are the same he still can."""
        self.gate = Lsn(0)
        self.register = Register()
        self.opens = self.register.opens
        self.by_inode = self.register.by_inode
        self.doomed = self.register.doomed
        self.kept = Kept(keyspace, locks, clock, self.register)
        self.gateway = gateway
        self.gateways = Gateways(keyspace)
        self.told_former: Callable[[int, OpenId], None] = lambda gateway, open: None
        """Called with a gateway incarnation and one of its opens that has gone over to another."""
        self.by = Binding(0, 0)
        """Through which gateway and session the request came that is being carried out."""
        self.parent_key = b""
        """The directory grant that the request under way does not break."""
        self.directories: set[Inode] = set()
        """Directories whose entries somebody may cache."""
        self.recalled: dict[Inode, float] = {}
        """When a delegation of the file was last recalled: another would be recalled soon, too."""
        self.grace = False
        """Records of opens and locks may have been lost, and those who had them may still come."""
        self.watching = Watching(self)
        self.upcalls: list[Upcalls] = []
        self.orphaned: Callable[[], None] = lambda: None
        """Called when there is something for the background to remove."""
        self.repeated: Counter[str] = Counter()
        """Requests that came once more and were not carried out again, by what they were known from, since the volume was opened here."""
        self.ended: Callable[[OpenId], None] = lambda open: None
        """Called when an open has ended that its gateway believes it has."""
        self.begin_grace: Callable[[], None] = lambda: None
        self.pasts: Callable[[], list[Core]] = list
        """The cores of the snapshots that somebody looks at."""
        self.forget_past: Callable[[int], None] = lambda number: None
        """Called with the number of a snapshot that is going."""
        self._next_number = self._reserved_numbers()
        self._last_open = start << 32

    def is_elsewhere(self, by: Binding) -> bool:
        """Whether the request came through the gateway of another process, which goes on when this one ends."""
        return by.gateway != self.gateway and bool(self.gateway and by.gateway)

    # Reading records

    def note(self, bucket: bytes) -> None:
        """The answer rests on this bucket's state."""
        gate = self._gate(bucket)
        if gate > self.gate:
            self.gate = gate

    def value(self, inode: Inode) -> bytes:
        """The inode record's bytes. Raises `Stale`."""
        key = keys.INODE + inode.to_bytes(8)
        self.note(key)
        value = self.get(key)
        if value is None:
            raise Stale(f"there is no inode {inode}")
        return value

    def record(self, inode: Inode) -> InodeRecord:
        return InodeRecord.decode(self.value(inode))

    def directory(self, inode: Inode) -> InodeRecord:
        """The record of what must be a directory, and one that still has a name."""
        record = self.record(inode)
        if record.kind != Kind.DIRECTORY:
            raise NotDirectory(f"inode {inode} is not a directory")
        if record.links == 0:
            raise Stale(f"directory {inode} has been removed")
        return record

    def file_of(self, inode: Inode, record: InodeRecord) -> tuple[Inode, InodeRecord]:
        """The file itself, or that whose stream this is: all but a stream's data and size is its file's (MS-FSA 2.1.1.5)."""
        if not record.marks & IS_STREAM:
            return inode, record
        return Inode(record.parent), self.record(Inode(record.parent))

    def descriptor(self, inode: Inode, record: InodeRecord) -> security.Descriptor | None:
        """The explicit security descriptor, if there is one."""
        if not record.marks & HAS_DESCRIPTOR:
            return None
        key = keys.descriptor(inode)
        self.note(key)
        value = self.get(key)
        assert value is not None, f"inode {inode} lacks its descriptor"
        return security.decode(value)

    def rights(self, inode: Inode, record: InodeRecord, caller: Caller) -> int:
        """All rights of the caller to the file by itself; a stream's are those of its file."""
        inode, record = self.file_of(inode, record)
        return self.judge.rights(record, self.descriptor(inode, record), caller)

    def require(self, inode: Inode, record: InodeRecord, caller: Caller, wanted: int) -> None:
        """Raises `AccessDenied` unless the caller has the rights `wanted`."""
        if caller.uid:
            require(self.rights(inode, record, caller), wanted)

    def find(self, parent: Inode, name: bytes, fold: bool) -> Slot | None:
        """The name's entry in a directory."""
        index = keys.ENTRY + parent.to_bytes(8)
        self.note(index)
        return find(self.get, index, self.names.first(name), name, fold)

    def look(self, parent: Inode, name: bytes, fold: bool) -> tuple[Slot | None, Place]:
        """The same with the place for a new entry; the name is checked. Raises `InvalidName`, `NameTooLong`."""
        check(name)
        index = keys.ENTRY + parent.to_bytes(8)
        self.note(index)
        return look(self.get, index, self.names.first(name), name, fold)

    def delete_pending(self, inode: Inode) -> bool:
        """Whether the file is deleted at its last close."""
        return inode in self.by_inode and self.locks.state(inode).delete_pending

    def attributes(self, inode: Inode) -> Attributes:
        """The newest attributes; a stream's are its own size and its file's everything else."""
        value = self.value(inode)
        found = attributes_of(value, inode)
        if value[1] & IS_STREAM:
            own = found
            found = attributes_of(self.value(own.parent), own.parent)
            found.inode, found.parent, found.size, found.allocated = inode, own.parent, own.size, own.allocated
            found.modified = max(found.modified, own.modified)
            found.change += own.change
            found.delete_pending = self.delete_pending(own.parent) or self.locks.state(inode).delete_pending
        elif inode in self.by_inode:
            found.delete_pending = self.locks.state(inode).delete_pending
        return found

    # Targets

    def stateless(self, target: Stateless) -> Attributes:
        """Attributes of a file reached by its handle. Raises `Stale` if it is another file by now, or has no name any more and nobody has it open."""
        inode = target.inode
        found = attributes_of(self.value(inode), inode)
        if target.generation and target.generation != found.generation:
            raise Stale(f"inode {inode} is of another generation")
        if found.links == 0 and inode not in self.by_inode:
            raise Stale(f"the last name of inode {inode} has been removed")
        if inode in self.by_inode:
            found.delete_pending = self.locks.state(inode).delete_pending
        return found

    def open_of(self, number: OpenId) -> OpenFile:
        found = self.opens.get(number)
        if found is None:
            raise Closed(f"open {number} has ended")
        if found.former and self.by in found.former:
            raise Fenced(f"open {number} has another owner by now")
        return found

    def subject(self, target: Target) -> Subject:
        """What the target stands for. Raises `Closed`, `Stale`."""
        if isinstance(target, Stateless):
            record = self.record(target.inode)
            if target.generation and target.generation != record.generation:
                raise Stale(f"inode {target.inode} is of another generation")
            # NFSv4 promises that what is open can be used by its handle whatever becomes of its names (RFC 8881 18.16.4, OPEN4_RESULT_PRESERVE_UNLINKED).
            if record.links == 0 and target.inode not in self.by_inode:
                raise Stale(f"the last name of inode {target.inode} has been removed")
            return Subject(target.inode, record, target.caller, None, self.rights(target.inode, record, target.caller))
        found = self.open_of(target)
        self.parent_key = found.parent_key
        return Subject(found.inode, self.record(found.inode), found.caller, found, found.access)

    # Making

    def _reserved_numbers(self) -> int:
        value = self.get(NUMBERS)
        assert value is not None, "a formatted volume reserves inode numbers"
        number: int = _U64.unpack(value)[0]
        return number

    def new_open(self) -> OpenId:
        """The number of an open: those of one start of the volume begin with a number of their own."""
        self._last_open += 1
        return OpenId(self._last_open)

    @property
    def next_number(self) -> int:
        """No inode has this number, or a higher one; nor will one that is made later, also after a restart, have a lower one."""
        # What failed requests have used up beyond the reservation is used again after a restart.
        return min(self._next_number, self._reserved_numbers())

    def new_number(self, batch: Batch) -> Inode:
        """An inode number that no file ever had; reserves more in the batch when they run out."""
        number = self._next_number
        limit = self._reserved_numbers()
        if number >= limit:
            # From this number on, not from the limit: requests that failed may have used up more than the next reservation.
            batch.put(NUMBERS, _U64.pack(number + _NUMBERS_AT_ONCE))
        self._next_number = number + 1
        return Inode(number)

    def new_record(
        self, parent: Inode, of: InodeRecord, kind: Kind, caller: Caller, mode: int | None, now: Time, fallback: int | None = None, flags: int = 0
    ) -> tuple[InodeRecord, security.Descriptor | None]:
        """The record of something new in directory `parent`, and the descriptor that it inherits.

        `mode` goes on top of what is inherited, `fallback` is for where nothing is. The group is the directory's if that has
        the setgid bit, which new directories get too (as BSD and Linux do).
        """
        is_directory = kind == Kind.DIRECTORY
        gid = caller.gid
        default = 0o755 if is_directory else 0o644
        if fallback is not None:
            default = fallback & 0o7777
        bits = default if mode is None else mode & 0o7777
        if of.mode & SETGID:
            gid = of.gid
            bits |= SETGID if is_directory else 0
            if bits & SETGID and not is_directory and not is_superuser(caller) and not is_member(caller, gid):
                bits &= ~SETGID  # or whoever may write there could make a program that runs as the directory's group
        inherited = None
        above = self.descriptor(parent, of)
        if above is not None:
            owner, group = self.sids(caller.uid, gid)
            inherited = security.inherit(above, is_directory, owner, group)
            if inherited is not None and mode is not None:
                inherited = security.chmod(inherited, bits, is_directory, owner, group)  # RFC 8881 6.4.3
            elif inherited is not None:
                bits = bits & ~0o777 | security.mode_of(inherited.dacl, owner, group)
        links = 2 if is_directory else 1
        if kind == Kind.FILE:
            flags |= ARCHIVE
        record = InodeRecord(kind, 0, bits, links, caller.uid, gid, 1, 0, 0, now, now, now, now, 1, flags, 0, 0, 0, parent, of.tree)
        return record, inherited

    def sids(self, uid: int, gid: int) -> tuple[bytes, bytes]:
        """Owner and group as SIDs."""
        known = self.judge.identities
        return security.sid_bytes(known.sid_of_uid(uid)), security.sid_bytes(known.sid_of_gid(gid))

    @staticmethod
    def put_record(batch: Batch, inode: Inode, record: InodeRecord) -> None:
        batch.put(keys.INODE + inode.to_bytes(8), record.encode())

    def put_new(self, batch: Batch, inode: Inode, record: InodeRecord, descriptor: security.Descriptor | None) -> InodeRecord:
        """Writes a new inode with its explicit descriptor, if it has one; gives the record as written. Raises `QuotaExceeded`."""
        self.data.quotas.create(record)
        if descriptor is not None:
            batch.put(keys.descriptor(inode), security.encode(descriptor))
            record = record._replace(marks=record.marks | HAS_DESCRIPTOR)
        self.put_record(batch, inode, record)
        batch.add(FILES, 1)
        return record

    @staticmethod
    def delete_record(batch: Batch, inode: Inode) -> None:
        batch.delete(keys.INODE + inode.to_bytes(8))
        batch.add(FILES, -1)

    # Ending a request

    def writable(self) -> None:
        """Raises `ReadOnly` if nothing may be changed."""
        if self.read_only:
            raise ReadOnly("the volume is read-only")

    def commit(self, batch: Batch, reply: R, token: AnyToken | None = None, reserved: bool = False) -> R:
        """Commits the batch, with the reply under the token if there is one, and gives the reply its gate.

        `reserved`: the batch gives space back, so it may use what is kept for that in a full log.
        """
        self.writable()
        return self.note_down(batch, reply, token, reserved)

    def note_down(self, batch: Batch, reply: R, token: AnyToken | None = None, reserved: bool = False) -> R:
        """As `commit`, for what is recorded about clients: also on a volume that may only be read."""
        if token is not None:
            self.tokens.store(batch, token, reply)
        reply.gate = self.put(batch, reserved)
        return reply

    def put(self, batch: Batch, reserved: bool = False) -> Lsn:
        """Commits the batch with all that has to be recorded about opens by now; gives its position."""
        kept = self.kept
        if not kept.dirty:
            return self.keys.commit(batch, reserved=reserved)
        changes = kept.add_to(batch)
        lsn = self.keys.commit(batch, reserved=reserved)
        kept.settled(changes, lsn)
        return lsn

    def await_room(self) -> None:
        """To be called by what gives space back, before it changes anything: waits if the log cannot even take that."""
        waiting = self.data.exhausted()
        if waiting is not None:
            raise Wait(waiting)

    def with_token(self, batch: Batch, token: AnyToken | None, reply: Reply) -> Batch:
        """The batch for a data operation, with the reply that a retry will get: it foretells what the operation does."""
        self.writable()
        if token is not None:
            self.tokens.store(batch, token, reply)
        return batch

    def guard(self, opened: OpenFile) -> Callable[[], None]:
        """For the batch of a request through an open that may have to wait: who takes the open over meanwhile, or has the file when it has ended, must not
        find his data overwritten by it."""
        by = self.by

        def check() -> None:
            if self.opens.get(opened.id) is not opened:
                raise Closed(f"open {opened.id} has ended")
            if by in opened.former:
                raise Fenced(f"open {opened.id} has another owner by now")

        return check

    def finish(self, done: Done | Awaitable[Done], answer: Callable[[Done], R]) -> R | Awaitable[R]:
        """What `answer` makes of a data operation's outcome, now or later; its gate is the operation's."""
        if isinstance(done, Done):
            reply = answer(done)
            reply.gate = done.lsn
            return reply
        return self._finish_later(done, answer)

    @staticmethod
    async def _finish_later(waiting: Awaitable[Done], answer: Callable[[Done], R]) -> R:
        done = await waiting
        reply = answer(done)
        reply.gate = done.lsn
        return reply

    def tell(self, upcall: Upcall) -> None:
        """Tells every gateway; each ignores what is not its own."""
        for hear in self.upcalls:
            hear(self.watching.volume, upcall)

    def changed(self, parent: Inode, name: bytes, action: int, inode: Inode, kind: int) -> None:
        """Tells those who watch that a directory's entry, which stands or stood for `inode`, was added (1), removed (2) or renamed (4, 5)."""
        self.entries_changed(parent)
        if self.watching.any:
            self.watching.entry(parent, name, action, inode, kind)

    def altered(self, inode: Inode, what: int, opened: OpenFile | None = None) -> None:
        """Tells those who watch that attributes or data of a file or stream have changed, through an open or without; `what` is bits of `api.Changed`."""
        if self.directories:
            self.attributes_changed(inode, opened)
        if self.watching.any:
            self.watching.altered(inode, what, opened)

    def attributes_changed(self, inode: Inode, opened: OpenFile | None = None) -> None:
        """What a directory's listing says of the file is no longer right."""
        if opened is not None:
            self.entries_changed(opened.parent)
        elif (value := self.get(keys.INODE + inode.to_bytes(8))) is not None:
            self.entries_changed(Inode(InodeRecord.decode(value).parent))

    def entries_changed(self, parent: Inode) -> None:
        """What is cached of a directory's entries is no longer right, but for the one whose `parent_key` it is."""
        if parent in self.directories:
            self.locks.change_entries(parent, self.parent_key)
            if not self.locks.state(parent).grants:
                self.directories.discard(parent)
