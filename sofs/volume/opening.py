"""An open that has found its file: its place in the lock engine, its grant, its records, and its reply.

Nothing of it shows before all of that is done, and what fails on the way leaves nothing behind. An open that outlives its connection is recorded in the
batch that also makes or empties its file. An NFSv4 OPEN by an owner that has the file open already makes that open larger
(RFC 8881 18.16.3).
"""

from collections.abc import Callable

from sofs.errors import Grace, InvalidArgument, NoGrace, SofsError
from sofs.locks import HANDLE, READ, WRITE, Grant, GrantKind, Opening
from sofs.locks.ranges import TO_END
from sofs.types import Inode, Kind, Time
from sofs.volume.api import Access, Action, AnyToken, Attributes, Binding, Keep, Lock, Open, Opened, ShareMode, Wish
from sofs.volume.batch import Batch
from sofs.volume.core import Core, Wait
from sofs.volume.openfile import OpenFile, StateKind
from sofs.volume.sharing import check_base, check_streams

_ALL = int(Access.ALL)
_WRITES = int(Access.WRITE_DATA | Access.APPEND_DATA)
_DELEGATED_READ = int(Access.READ_DATA | Access.EXECUTE | Access.READ_ATTRIBUTES)
_DELEGATED_WRITE = _DELEGATED_READ | _WRITES | int(Access.WRITE_ATTRIBUTES)
_QUIET_S = 60.0
"""After a recall, so long nobody gets a delegation of the file who has not asked for one."""
_MOST_RECALLS = 10_000


Place = tuple[Inode, bytes, tuple[bytes, ...]]
"""Directory, name and whole path by which a file is opened."""


def check_grace(core: Core, request: Open | Lock) -> None:
    """Raises `Grace` for what is new while others may still reclaim what they had, `NoGrace` for what is reclaimed at any other time."""
    if core.grace and not request.reclaim:
        raise Grace("records of opens and locks may have been lost; who had them may reclaim them first")
    if request.reclaim and not core.grace:
        raise NoGrace("there is nothing to reclaim")


def answer_again(core: Core, request: Open) -> Opened | None:
    """The answer to an open with the same CreateGuid, if it has been carried out."""
    known = core.register.by_guid.get((request.client, request.guid)) if request.guid and not request.anew else None
    if known is None or known.caller.uid != request.caller.uid:
        return None
    if not request.away:
        answer = known.answer if known.caller == request.caller else None
        core.repeated["create_guid"] += answer is not None
        return answer
    if known.connected and known.by == core.by:
        return None
    core.repeated["create_guid"] += 1
    # A restart has forgotten the answer; whoever takes the open over is told all there is to know.
    action = Action.OPENED if known.answer is None else known.answer.action
    attributes = core.attributes(known.inode)
    return Opened(
        core.gate, known.id, action, attributes, known.access, known.maximal, known.path, known.stream, key=known.key, sequence=0
    )  # fmt: skip


def admit(core: Core, request: Open, inode: Inode | None) -> None:
    """Raises `InvalidArgument` for a lease key under which its client has opened another file (MS-SMB2 3.3.5.9.8). `inode` is None for one that is made."""
    wish = request.wish
    if wish is None or wish.kind is not GrantKind.LEASE:
        return
    for opened in core.register.leases.get(wish.key, {}).values():
        if opened.inode != inode:
            raise InvalidArgument("the lease key stands for another file")
        return


def make_open(core: Core, request: Open, place: Place, inode: Inode, kind: int, access: int) -> OpenFile:
    id, wish = core.new_open(), request.wish
    key, lease = request.owner, None
    if not request.mandatory:
        key = request.client
    elif wish is not None:
        key = wish.key or b"oplock" + id.to_bytes(8)
        lease = wish.key if wish.kind is GrantKind.LEASE else None
    parent, name, path = place
    return OpenFile(
        id, inode, inode, access, request.share, request.caller, core.by, request.owner, request.guid, parent, name, request.stream, kind,
        request.mandatory, request.delete_on_close, key=key, lease=lease, parent_key=request.parent_key, client=request.client, path=path,
        combinations=() if request.mandatory else ((access, request.share),),
    )  # fmt: skip


# The lock engine


def share(core: Core, opened: OpenFile, request: Open, overwrite: bool) -> None:
    """Puts the open into the lock engine. Raises `SharingViolation`, `DeletePending`, `Delayed`, `Wait`."""
    locks, base = core.locks, opened.base
    if opened.stream:
        check_base(core, base, opened.share)
        # The file cannot go while its stream is open; otherwise the two do not know of each other.
        locks.open(base, Opening(opened.id, int(Access.READ_ATTRIBUTES), int(ShareMode.ALL), opened.mandatory))
    elif opened.access & Access.DELETE and base in core.by_inode:
        check_streams(core, base)
    access = opened.access | (Access.WRITE_DATA if overwrite else 0)
    persistent = request.keep is not None and request.keep.persistent
    opening = Opening(opened.id, access, opened.share, opened.mandatory, opened.key, opened.delete_on_close, persistent=persistent)
    try:
        waiting = locks.open(opened.inode, opening, overwrite=overwrite, wait=opened.mandatory)
    except SofsError:
        if opened.stream:
            locks.close(base, opened.id)
        raise
    if waiting is not None:
        if opened.stream:
            locks.close(base, opened.id)
        raise Wait(waiting, lambda: let_go(core, opened, held=False))
    if access != opened.access:
        locks.change_open(opened.inode, opened.id, opened.access, opened.share)


def let_go(core: Core, opened: OpenFile, held: bool = True) -> None:
    """Takes an open that is not going to be out of the lock engine, without the consequences of a close."""
    core.locks.abandon(opened.inode, opened.id)
    if opened.stream and held:
        core.locks.abandon(opened.base, opened.id)


def give_up(core: Core, opened: OpenFile, undo: Callable[[], None] | None) -> None:
    """The open has failed after it had its place in the lock engine."""
    if undo is None:
        let_go(core, opened)
    else:
        undo()


def grow(core: Core, held: OpenFile, request: Open, granted: int, overwrite: bool) -> Callable[[], None]:
    """Gives an NFSv4 open the rights and denials of another OPEN by its owner; gives what takes that back. Raises `SharingViolation`, `Delayed`."""
    former = held.access, held.share, held.sequence, held.combinations
    access, share_mode = held.access | granted, held.share & request.share
    while_emptied = access | (Access.WRITE_DATA if overwrite else 0)
    waiting = core.locks.change_open(held.inode, held.id, while_emptied, share_mode, overwrite=overwrite)
    assert waiting is None, "NFS does not wait"
    if while_emptied != access:
        core.locks.change_open(held.inode, held.id, access, share_mode)
    held.access, held.share, held.sequence = access, share_mode, held.sequence + 1
    held.combinations = tuple(dict.fromkeys((*held.combinations, (granted, request.share))))
    core.kept.touch(held)

    def undo() -> None:
        if held.id not in core.opens:
            return  # closed while its file was being emptied
        held.access, held.share, held.sequence, held.combinations = former
        core.locks.change_open(held.inode, held.id, held.access, held.share)
        core.kept.touch(held)

    return undo


# Grants


def wished(core: Core, opened: OpenFile, wish: Wish) -> Grant | None:
    """Asks for an SMB grant for an open; gives what its key holds now."""
    rights = wish.rights
    if opened.kind == Kind.DIRECTORY:
        # Only version 2 has directory leases, and nobody writes to a directory through a cache (MS-SMB2 3.3.5.9.11).
        if wish.kind is not GrantKind.LEASE or wish.version < 2:
            return None
        rights &= READ | HANDLE
    elif opened.kind != Kind.FILE:
        return None
    grant = core.locks.request(opened.inode, opened.key, wish.kind, rights, epoch=wish.epoch, version=wish.version)
    if opened.kind == Kind.DIRECTORY and grant is not None and grant.rights:
        core.directories.add(opened.inode)
    return grant


def delegate(core: Core, opened: OpenFile, wish: Wish, by: Binding) -> OpenFile | None:
    """Gives an NFSv4 client a delegation of what it has open, if nobody is in its way and, unless it must, if that looks useful."""
    if opened.kind != Kind.FILE or opened.stream or core.locks.state(opened.inode).grant(opened.key) is not None:
        return None
    if not wish.must and core.clock.monotonic() - core.recalled.get(opened.inode, -_QUIET_S) < _QUIET_S:
        return None
    rights = READ if not opened.access & _WRITES else wish.rights & (READ | WRITE)
    if not wish.must and opened.access & _WRITES and not rights & WRITE:
        return None  # its own writes are not cached, and somebody else's would take it away
    id = core.new_open()
    given = OpenFile(
        id, opened.inode, opened.inode, _DELEGATED_WRITE if rights & WRITE else _DELEGATED_READ, int(ShareMode.ALL), opened.caller, by,
        b"", b"", opened.parent, opened.name, b"", opened.kind, False, state=StateKind.DELEGATION, key=opened.key, client=opened.client,
        keep=Keep(-1), path=opened.path,
    )  # fmt: skip
    core.locks.open(opened.inode, Opening(id, 0, int(ShareMode.ALL), False, opened.key))
    if core.locks.request(opened.inode, opened.key, GrantKind.DELEGATION, rights, delegation=id) is None:
        core.locks.abandon(opened.inode, id)
        return None
    core.register.add(given)
    core.kept.follow(given)
    return given


def _kept_delegation(core: Core, opened: OpenFile) -> OpenFile | None:
    """The delegation that a client reclaims, if its record has not been lost."""
    grant = core.locks.state(opened.inode).grant(opened.key)
    return None if grant is None or grant.kind is not GrantKind.DELEGATION else core.opens.get(grant.delegation)


def note_recall(core: Core, inode: Inode) -> None:
    """A delegation of the file is being recalled."""
    if len(core.recalled) >= _MOST_RECALLS:
        core.recalled.clear()
    core.recalled[inode] = core.clock.monotonic()


def _reclaimed(core: Core, opened: OpenFile) -> None:
    """The client has the open still. The ranges that it has it will reclaim next; others it may have given back."""
    if not opened.unclaimed:
        return
    opened.unclaimed = False
    core.kept.touch(opened)
    for state in core.register.locks_of.get(opened.inode, {}).values():
        if state.open == opened.id:
            core.locks.unlock(opened.inode, opened.id, 0, TO_END, owner=state.owner)


# The end


UNTOLD = Attributes(Inode(0), 0, Kind.FILE, 0, 0, 0, 0, 0, 0, Time(0), Time(0), Time(0), Time(0), 0, 0, (0, 0), Inode(0))
"""In a token in place of an open's attributes: whoever answers from it looks them up."""


def conclude(
    core: Core,
    opened: OpenFile,
    request: Open,
    action: Action,
    maximal: int,
    attributes: Attributes | None,
    batch: Batch | None,
    token: AnyToken | None,
    undo: Callable[[], None] | None = None,
) -> Opened:
    """The open is in the lock engine: gives it its grant, commits `batch` with its records, and answers.

    `attributes` is None where they are known only after the commit: the token then has `UNTOLD` ones. `undo` is given for an open that was there
    before. What fails is to be followed by `give_up`.
    """
    wish, grant, given, kept = request.wish, None, None, None
    opened.maximal = maximal & _ALL
    if undo is None:
        if wish is not None and opened.mandatory:
            grant = wished(core, opened, wish)
        opened.keep = _keep(request.keep, opened, grant)
        core.register.add(opened)
        if opened.keep is not None or core.is_elsewhere(opened.by):
            core.kept.follow(opened)
    if wish is not None and not opened.mandatory:
        kept = _kept_delegation(core, opened) if request.reclaim else None
        given = kept or delegate(core, opened, wish, opened.by)
    if request.reclaim:
        for each in (opened, kept):
            if each is not None:
                _reclaimed(core, each)
    reply = Opened(
        core.gate, opened.id, action, attributes or UNTOLD, opened.access, opened.maximal, opened.path, opened.stream, sequence=opened.sequence,
    )  # fmt: skip
    _tell_grant(reply, opened, grant, given)
    try:
        if batch is not None:
            core.commit(batch, reply, token)
        elif core.kept.dirty or token is not None:
            core.note_down(Batch(), reply, token)
    except SofsError:
        if given is not None and given is not kept:
            forget(core, given)
            let_go(core, given)
        if undo is None:
            forget(core, opened)
        raise
    if attributes is None:
        reply.attributes = core.attributes(opened.inode)
    opened.change = reply.attributes.change
    if opened.guid:
        opened.answer = reply
    return reply


def forget(core: Core, opened: OpenFile) -> None:
    """The open is no more; the lock engine and its file are the caller's business."""
    core.register.remove(opened)
    core.watching.forget(opened.id)
    if opened.timer is not None:
        opened.timer.cancel()
        opened.timer = None
    if opened.recorded:
        core.kept.forget(opened)


def _keep(keep: Keep | None, opened: OpenFile, grant: Grant | None) -> Keep | None:
    """How the open outlives its connection: an SMB one only if nobody else can do anything about its file without its giving way (MS-SMB2 3.3.5.9.6)."""
    if keep is None or not opened.mandatory or keep.persistent:
        return keep
    return keep if grant is not None and grant.rights & HANDLE else None


def _tell_grant(reply: Opened, opened: OpenFile, grant: Grant | None, given: OpenFile | None) -> None:
    if opened.keep is not None:
        reply.keep_ms = opened.keep.timeout_ms
    reply.key = opened.key
    if grant is not None:
        reply.grant, reply.epoch, reply.breaking, reply.version = grant.rights, grant.epoch, grant.recalling, grant.version
    if given is not None:
        reply.delegation = given.id
        reply.grant = READ | WRITE if given.access & _WRITES else READ
