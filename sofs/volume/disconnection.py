"""SMB opens whose connection is gone: Disconnect, Reconnect, and the end of those to whom nobody comes back (MS-SMB2 3.3.7.1, 3.3.5.9.7 and .12).

Time stands still for them while the volume is not served: after a restart each waits its whole time again.
"""

from collections.abc import Sequence

from sofs.errors import NotFound, SofsError
from sofs.locks import HANDLE
from sofs.volume.api import Action, AnyToken, Bound, Disconnect, Keep, Opened, Reconnect, Reply, Retain
from sofs.volume.batch import Batch
from sofs.volume.closing import end_open, must_delete
from sofs.volume.core import Core, Wait
from sofs.volume.openfile import OpenFile

_AGAIN_S = 1.0
"""When there was no room to delete what the end of an open deletes."""
MOST_FORMER = 16
_SLICE = 64


def disconnect(core: Core, request: Disconnect, token: AnyToken | None) -> Reply:
    opened = core.open_of(request.open)
    reply = Reply(core.gate)
    if not opened.connected:
        return reply
    if opened.keep is None or not _stays(core, opened, opened.keep):
        if must_delete(core, opened):
            core.await_room()
        end_open(core, opened, reply, token)
        return reply
    _go_away(core, opened)
    if opened.recorded and token is not None:
        core.note_down(Batch(), reply, token, reserved=True)
    return reply


def _go_away(core: Core, opened: OpenFile) -> None:
    """The open is without a connection from now on, and waits."""
    opened.connected = False
    core.locks.disconnect(opened.inode, opened.id)
    core.kept.touch(opened)
    await_owner(core, opened)


def lose(core: Core, opened: OpenFile) -> None:
    """The gateway through which an SMB open was reached is gone: as a Disconnect, but nobody waits for the answer."""
    if opened.connected and opened.keep is not None and _stays(core, opened, opened.keep):
        _go_away(core, opened)
    elif opened.connected or opened.keep is None:
        _give_up(core, opened)


def end_lost(core: Core, opens: Sequence[OpenFile]) -> None:
    """Ends opens that nobody can come back to, some in each round of the loop. Whoever runs into one that is left makes it give way."""
    for opened in opens[:_SLICE]:
        if core.opens.get(opened.id) is opened and opened.timer is None:
            _give_up(core, opened)
    if len(opens) > _SLICE:
        core.clock.call_soon(lambda: end_lost(core, opens[_SLICE:]))


def _stays(core: Core, opened: OpenFile, keep: Keep) -> bool:
    """A durable open stays while its owner could have kept the handle in its cache: nothing that it would have to answer is asked of it."""
    if keep.persistent or keep.timeout_ms < 0:
        return True
    grant = core.locks.state(opened.inode).grant(opened.key)
    return grant is not None and not grant.recalling and bool(grant.rights & HANDLE)


def await_owner(core: Core, opened: OpenFile) -> None:
    """Begins to wait for the owner of a disconnected open."""
    assert opened.keep is not None and opened.timer is None
    if opened.keep.timeout_ms >= 0:
        opened.timer = core.clock.call_later(opened.keep.timeout_ms / 1000, lambda: _give_up(core, opened))


def _give_up(core: Core, opened: OpenFile) -> None:
    """Nobody came back in time."""
    opened.timer = None
    try:
        if must_delete(core, opened):
            core.await_room()
        end_open(core, opened)
    except Wait as wait:
        if hasattr(wait.waiting, "cancel"):
            wait.waiting.cancel()
        opened.timer = core.clock.call_later(_AGAIN_S, lambda: _give_up(core, opened))
        return
    except SofsError:
        return  # the volume has failed, and serves nobody any more
    core.ended(opened.id)


def retain(core: Core, request: Retain, token: AnyToken | None) -> Reply:
    opened = core.open_of(request.open)
    before, opened.keep = opened.keep, request.keep
    if before is None and not opened.recorded:
        core.kept.follow(opened)
    else:
        core.kept.touch(opened)
    return core.note_down(Batch(), Reply(core.gate), token)


def reconnect(core: Core, request: Reconnect, token: AnyToken | None) -> Opened | Bound:
    opened = core.opens.get(request.open)
    if opened is None or opened.keep is None or not opened.mandatory or (opened.connected and opened.by == core.by):
        raise NotFound(f"nobody can come back to open {request.open}")
    fits = (opened.keep.user, opened.lease) == (request.user, request.key)
    if not fits or request.guid not in (b"", opened.guid) or request.client not in (b"", opened.client):
        raise NotFound(f"open {request.open} is somebody else's")
    if opened.connected and opened.by != request.former:
        return Bound(core.gate, *opened.by)
    if opened.timer is not None:
        opened.timer.cancel()
        opened.timer = None
    if opened.by != core.by:
        former = [binding for binding in (*opened.former, opened.by) if binding != core.by]
        opened.former = tuple(former[-MOST_FORMER:])
        opened.by, left = core.by, opened.by.gateway
        if left != core.by.gateway:
            core.told_former(left, opened.id)
    opened.caller, opened.connected = request.caller, True
    core.locks.reconnect(opened.inode, opened.id)
    core.kept.touch(opened)
    grant = core.locks.state(opened.inode).grant(opened.key)
    reply = Opened(
        core.gate, opened.id, Action.OPENED, core.attributes(opened.inode), opened.access, opened.maximal, opened.path, opened.stream,
        keep_ms=opened.keep.timeout_ms, key=opened.key,
    )  # fmt: skip
    if grant is not None:
        reply.grant, reply.epoch, reply.breaking, reply.version = grant.rights, grant.epoch, grant.recalling, grant.version
    try:
        core.note_down(Batch(), reply, token, reserved=True)
    except SofsError:
        # Whoever is told that it failed comes back once more.
        opened.connected = False
        core.locks.disconnect(opened.inode, opened.id)
        await_owner(core, opened)
        raise
    if opened.guid:
        opened.answer = reply
    if reply.breaking:
        core.clock.call_soon(lambda: core.locks.remind(opened.inode, opened.key))  # behind the answer
    core.repeated["reconnected"] += 1
    return reply
