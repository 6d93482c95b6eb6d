"""What ends or changes state: CLOSE, OPEN_DOWNGRADE, DELEGRETURN, TEST_STATEID, FREE_STATEID (RFC 8881 18.2, 18.6, 18.18, 18.38, 18.48)."""

import struct
from typing import Annotated, NamedTuple

from gateways.nfs.v4 import stateids
from gateways.nfs.v4.clients import Client
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.stateids import DELEGATION, LOCKS, OPEN, Held, other_of
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import INVALID, Stateid
from gateways.nfs.xdr import U32, Array
from sofs.types import OpenId
from sofs.volume.api import Access, Close, Downgrade, FreeState, Reply, ReturnGrant, ShareMode, State

_STATEID = struct.Struct(">I12s")
_CLOSED = _STATEID.pack(*INVALID)


def packed(stateid: Stateid) -> bytes:
    return _STATEID.pack(*stateid)


def client_of(c: Compound) -> Client:
    assert c.session is not None
    return c.session.client


class CloseArgs(NamedTuple):
    sequence: U32
    stateid: Stateid


def close(c: Compound, args: CloseArgs) -> Outcome:
    """The open's byte ranges go with it."""
    client = client_of(c)
    held = None if c.resumed is not None else stateids.find(c, args.stateid, OPEN)

    def answer(reply: Reply) -> bytes:
        if held is not None:
            for state in [state for state in client.states.values() if state.open == held.id and state.volume == held.volume]:
                del client.states[state.other]
        c.stateid = INVALID
        return _CLOSED

    return Ask(c.place.volume, Close(OpenId(0) if held is None else held.id), answer, changes=True)


class DowngradeArgs(NamedTuple):
    stateid: Stateid
    sequence: U32
    access: U32
    deny: U32


def open_downgrade(c: Compound, args: DowngradeArgs) -> Outcome:
    """To what some of the owner's OPENs together had asked for; here any part of what the open has will do."""
    client, volume = client_of(c), c.place.volume
    access, deny = args.access & ~0xFFFFFF00, args.deny
    if not 0 < access <= 3 or deny > 3:
        raise Failure(Status.INVAL)
    id = OpenId(0)
    if c.resumed is None:
        held = stateids.find(c, args.stateid, OPEN)
        if access & ~held.access or deny & ~held.deny:
            raise Failure(Status.INVAL)
        id = held.id

    def answer(state: State) -> bytes:
        changed = client.states.get(other_of(volume.id, state.id))
        if changed is not None:
            changed.access, changed.deny = access, deny
            changed.came_to(state.sequence)
            c.stateid = changed.stateid
        return _STATEID.pack(state.sequence, other_of(volume.id, state.id))

    rights = (Access.READ_DATA if access & 1 else 0) | (Access.WRITE_DATA | Access.APPEND_DATA if access & 2 else 0)
    share = ShareMode.ALL & ~(deny & (ShareMode.READ | ShareMode.WRITE))
    return Ask(volume, Downgrade(id, int(rights), int(share)), answer, changes=True)


class StateidArgs(NamedTuple):
    """DELEGRETURN4args, FREE_STATEID4args."""

    stateid: Stateid


def delegreturn(c: Compound, args: StateidArgs) -> Outcome:
    client = client_of(c)
    held = None if c.resumed is not None else stateids.find(c, args.stateid, DELEGATION)

    def answer(reply: Reply) -> bytes:
        if held is not None:
            client.states.pop(held.other, None)
        return b""

    return Ask(c.place.volume, ReturnGrant(OpenId(0) if held is None else held.id), answer, changes=True)


class TestStateidArgs(NamedTuple):
    stateids: Annotated[tuple[Stateid, ...], Array(Stateid, 4096)]


def test_stateid(c: Compound, args: TestStateidArgs) -> Outcome:
    client = client_of(c)
    results = [_status(client.states.get(stateid.other), stateid) for stateid in args.stateids]
    return struct.pack(f">{len(results) + 1}I", len(results), *results)


def _status(held: Held | None, stateid: Stateid) -> Status:
    if held is None:
        return Status.BAD_STATEID
    if held.revoked:
        return Status.DELEG_REVOKED
    try:
        stateids.check_sequence(held, stateid.sequence)
    except Failure as failure:
        return failure.status
    return Status.OK


def free_stateid(c: Compound, args: StateidArgs) -> Outcome:
    """Locks of an owner that holds none any more, and delegations that were taken away."""
    client, stateid = client_of(c), stateids.resolve(c, args.stateid)
    if c.resumed is not None:  # it was carried out before a crash: only the volume has yet to be told apart
        volume = stateids.volume_of(c, stateid.other)
        return Ask(volume, FreeState(OpenId(0)), lambda _: b"", changes=True)
    held = client.states.get(stateid.other)
    if held is None:
        raise Failure(Status.BAD_STATEID)
    if held.revoked:
        del client.states[held.other]
        client.revoked -= 1
        return b""
    stateids.check_sequence(held, stateid.sequence)
    if held.kind != LOCKS:
        raise Failure(Status.LOCKS_HELD)

    def answer(reply: Reply) -> bytes:
        client.states.pop(held.other, None)
        return b""

    return Ask(c.service.volume(held.volume), FreeState(held.id), answer, changes=True)
