"""Opens that were kept, brought back from their records when the volume is opened (sofs/volume/kept_records.py says how they are recorded).

SMB's whose gateway has ended come back without their connections: each has its whole time to be reconnected in, or is ended if it was not to wait.
Those of gateways that go on are as they were, and so are NFSv4's. Nobody has asked
them for anything yet: a grant that was being recalled is recalled again when somebody is in its way again.
"""

from collections.abc import Callable
from typing import Any

import structlog

from sofs.locks import ByteLock, FileState, Grant, Opening
from sofs.types import Inode, OpenId
from sofs.volume import keys
from sofs.volume.api import Access, Binding, Caller, ShareMode
from sofs.volume.core import Core
from sofs.volume.disconnection import await_owner, end_lost
from sofs.volume.kept_records import Doom, KeptLocks, KeptOpen, decode_record, split_range
from sofs.volume.openfile import LockState, OpenFile, StateKind


def restore(core: Core, ended: Callable[[int], bool]) -> int:
    """Puts every kept open with its ranges and its grant in place; gives how many there were. `ended` says which gateway incarnations have."""
    opens = _opens(core, ended)
    for opened in opens:
        core.register.add(opened)
    _lock_states(core)
    states: dict[Inode, dict[str, Any]] = {}
    for opened in opens:
        _part(states, opened.inode)["opens"].append(_opening(opened))
        if opened.stream:
            quiet = Opening(opened.id, int(Access.READ_ATTRIBUTES), int(ShareMode.ALL), opened.mandatory)
            _part(states, opened.base)["opens"].append(quiet)
    _ranges(core, states)
    _grants(core, states)
    _dooms(core, states)
    for inode, parts in states.items():
        state = FileState(tuple(parts["opens"]), tuple(sorted(parts["ranges"])), tuple(parts["grants"]), parts["delete_pending"])
        core.locks.restore(inode, state)
    for opened in opens:
        core.kept.follow(opened)
        if not opened.connected and opened.keep is not None:
            await_owner(core, opened)
    core.kept.adopted()
    lost = [opened for opened in opens if not opened.connected and opened.keep is None]
    if lost:
        core.clock.call_soon(lambda: end_lost(core, lost))
    return len(opens)


def _part(states: dict[Inode, dict[str, Any]], inode: Inode) -> dict[str, Any]:
    return states.setdefault(inode, {"opens": [], "ranges": [], "grants": [], "delete_pending": False})


def _opens(core: Core, ended: Callable[[int], bool]) -> list[OpenFile]:
    found = []
    for key, value in core.keys.walk(keys.OPEN):
        record = decode_record(value, KeptOpen)
        gone = record.by.gateway in core.gateways.fenced or ended(record.by.gateway)
        opened = record.opened(OpenId(int.from_bytes(key[1:])), gone)
        if core.get(keys.inode(opened.inode)) is None or core.get(keys.inode(opened.base)) is None:
            structlog.get_logger(component="volume").error("open_of_no_file", open=opened.id, inode=opened.inode)
            continue
        found.append(opened)
    return found


def _opening(opened: OpenFile) -> Opening:
    access = 0 if opened.state is StateKind.DELEGATION else opened.access
    return Opening(
        opened.id,
        access,
        opened.share,
        opened.mandatory,
        opened.key,
        opened.delete_on_close,
        opened.connected,
        opened.keep is not None and opened.keep.persistent,
    )


def _lock_states(core: Core) -> None:
    for key, value in core.keys.walk(keys.LOCKS):
        kept = decode_record(value, KeptLocks)
        if kept.open in core.opens:
            core.register.add_locks(LockState(OpenId(int.from_bytes(key[1:])), kept.inode, kept.owner, kept.open, kept.sequence))


def _ranges(core: Core, states: dict[Inode, dict[str, Any]]) -> None:
    for key, value in core.keys.walk(keys.RANGE):
        open, state, start, end, exclusive = split_range(key)
        opened, locks = core.opens.get(open), core.register.locks.get(state)
        if opened is None or (state and locks is None):
            continue
        held = ByteLock(start, end, exclusive, open, b"" if locks is None else locks.owner)
        _part(states, opened.inode)["ranges"].extend([held] * int.from_bytes(value))


def _grants(core: Core, states: dict[Inode, dict[str, Any]]) -> None:
    for key, value in core.keys.walk(keys.GRANT):
        inode = Inode(int.from_bytes(key[1 : keys.BUCKET]))
        if inode in states:
            _part(states, inode)["grants"].append(decode_record(value, Grant))


def _dooms(core: Core, states: dict[Inode, dict[str, Any]]) -> None:
    for key, value in core.keys.walk(keys.PENDING):
        inode = Inode(int.from_bytes(key[1:]))
        if inode not in states:
            continue
        doom = decode_record(value, Doom)
        _part(states, inode)["delete_pending"] = True
        marked = core.opens.get(doom.open)
        core.doomed[inode] = marked if marked is not None else _shadow(doom, inode)


def _shadow(doom: Doom, inode: Inode) -> OpenFile:
    """Stands for the open that marked the file, and has ended since."""
    return OpenFile(doom.open, inode, doom.base, 0, 0, Caller(0, 0), Binding(0, 0), b"", b"", doom.parent, doom.name, doom.stream, 0, True)
