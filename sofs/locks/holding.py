"""Grants given, answered, and ended for want of an answer."""

import msgspec

from sofs.errors import NotFound
from sofs.locks import grants
from sofs.locks.grants import HANDLE, READ, WRITE, Grant, GrantKind
from sofs.locks.recalls import QUIET, recall_upcall, remove
from sofs.locks.sharing import WRITES
from sofs.locks.state import STATELESS, Dropped, FileState, Revoked, Step, replace_grant
from sofs.types import OpenId


def request(
    state: FileState, key: bytes, kind: GrantKind, wanted: int, *, epoch: int = 0, version: int = 2, delegation: OpenId = STATELESS
) -> FileState:
    """Gives the holder `key`, whose open is there already, as much of `wanted` as others leave room for.

    Never less than it has, and more only if that is all that was asked for (smbtorture smb2.lease.upgrade3). A grant that is being recalled is
    not changed. `epoch` and `version` are those of a lease that is new; `delegation` is the open that would stand for one.
    """
    held = state.grant(key)
    if held is None:
        rights = room(state, key, kind, wanted)
        if not rights and kind is not GrantKind.LEASE:
            return state
        new = Grant(key, kind, rights, rights, rights, epoch + 1 & 0xFFFF, version, delegation)
        return msgspec.structs.replace(state, grants=(*state.grants, new))
    if held.recalling or held.kind is not kind or wanted == held.rights or held.rights & ~wanted:
        return state
    if room(state, key, kind, wanted) != wanted:
        return state
    more = msgspec.structs.replace(held, rights=wanted, target=wanted, told=wanted, epoch=held.epoch + 1 & 0xFFFF)
    return replace_grant(state, key, more)


def acknowledge(state: FileState, key: bytes, kept: int) -> Step:
    """The holder's answer to a recall. Raises `NotFound`, `NotRecalled`, and `InvalidArgument` if it keeps more than it was told."""
    held = state.grant(key)
    if held is None:
        raise NotFound("there is no such grant")
    left, tell = grants.acknowledge(held, kept)
    step = Step(replace_grant(state, key, left))
    if tell is None:
        return step
    kept_now = msgspec.structs.replace(held, rights=kept)
    return step._replace(upcalls=(recall_upcall(state, kept_now, left, tell),))


def remind(state: FileState, key: bytes) -> Step:
    """Tells a holder that is back what it has yet to answer: it may have gone without having heard of it. The epoch is a new one, so that nobody takes
    this for what the holder was told when it came back (clients leave alone what is not newer)."""
    held = state.grant(key)
    if held is None or not held.recalling:
        return Step(state)
    again = msgspec.structs.replace(held, epoch=held.epoch + 1 & 0xFFFF)
    state = replace_grant(state, key, again)
    return Step(state, (recall_upcall(state, again, again, again.told),))


def expire(state: FileState, key: bytes) -> Step:
    """The time for the holder's answer is over. A delegation's open goes with it."""
    held = state.grant(key)
    if held is None or not held.recalling:
        return Step(state)
    opens = tuple(sharer.id for sharer in state.sharers(key))
    left = replace_grant(state, key, grants.revoke(held))
    revoked = Revoked(key, held.kind, opens, held.delegation)
    if not held.delegation:
        return Step(left, (revoked,))
    left, delete = remove(left, held.delegation)
    return Step(left, (revoked, Dropped(held.delegation, delete)))


def room(state: FileState, key: bytes, kind: GrantKind, wanted: int) -> int:
    """How much of `wanted` can be granted beside the other users (MS-FSA 2.1.5.18)."""
    if not wanted & READ:
        return 0
    others = [held for held in state.opens if held.key != key and held.access & ~QUIET]
    foreign = [held for held in state.grants if held.key != key]
    mine = {held.id for held in state.opens if held.key == key}
    if any(held.open not in mine for held in state.ranges) or any(held.rights & WRITE for held in foreign):
        return 0
    if kind is GrantKind.DELEGATION:
        if wanted & WRITE:
            return 0 if others or foreign else READ | WRITE
        return 0 if any(held.access & WRITES for held in others) else READ
    if kind is GrantKind.OPLOCK:
        if any(held.kind is GrantKind.LEASE and held.rights & HANDLE for held in foreign):
            return 0
        return READ if others or foreign else wanted
    if any(held.kind is GrantKind.OPLOCK for held in foreign):
        wanted &= ~HANDLE
    return wanted & ~WRITE if others or foreign else wanted
