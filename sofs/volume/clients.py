"""What gateways ask about their clients: all of a client's state, its end, records of their own, the slots of NFSv4.1 sessions, the end of a grace."""

from sofs.errors import InvalidArgument
from sofs.locks.recalls import recall_upcall
from sofs.volume import keys
from sofs.volume.api import (
    AnyToken,
    BeginGrace,
    ClientList,
    ClientStates,
    EndClient,
    EndGrace,
    EndUnclaimed,
    ForgetSession,
    KeepRecords,
    ListClient,
    ListClients,
    ListRecords,
    ListSlots,
    Recall,
    Records,
    Reply,
    Slots,
    StateInfo,
)
from sofs.volume.batch import Batch
from sofs.volume.closing import end_open, must_delete
from sofs.volume.core import Core
from sofs.volume.disconnection import MOST_FORMER
from sofs.volume.kept import GRACE
from sofs.volume.openfile import OpenFile, StateKind
from sofs.volume.register import remember

_MOST_NAME, _MOST_VALUE = 200, 3072
_RECORDS = keys.bucket(keys.CLIENT, 0)
_SESSION = 16


def list_client(core: Core, request: ListClient, token: AnyToken | None) -> ClientStates:
    """Who asks for a client's states is its gateway from now on: what the client is to give back is asked of that one."""
    states: list[StateInfo] = []
    for opened in core.register.by_client.get(request.client, {}).values():
        if opened.by != core.by and not opened.mandatory:
            _rebind(core, opened)
        states.append(StateInfo(opened.id, opened.state, opened.sequence, opened.inode, opened.owner, opened.id, opened.access, opened.share))
        for locks in core.register.locks_of.get(opened.inode, {}).values():
            if locks.open == opened.id:
                states.append(StateInfo(locks.id, StateKind.LOCKS, locks.sequence, locks.inode, locks.owner, locks.open, opened.access, opened.share))
    return ClientStates(core.gate, states)


def _rebind(core: Core, opened: OpenFile) -> None:
    former = [binding for binding in (*opened.former, opened.by) if binding != core.by]
    opened.former, opened.by = tuple(former[-MOST_FORMER:]), core.by
    core.kept.touch(opened)
    state = core.locks.state(opened.inode)
    grant = state.grant(opened.key)
    if opened.state is StateKind.DELEGATION and grant is not None and grant.recalling:
        core.tell(Recall(opened.inode, *recall_upcall(state, grant, grant, grant.told)))


def end_client(core: Core, request: EndClient, token: AnyToken | None) -> Reply:
    """Each open in a batch of its own: what was done before a crash need not be done again after it. Those in snapshots end too.
    From now on the client can open nothing."""
    for past in core.pasts():
        end_client(past, request, None)
    remember(core.register.departed, request.client)
    opens = list(core.register.by_client.get(request.client, {}).values())
    for opened in opens:
        if must_delete(core, opened):
            core.await_room()
        end_open(core, opened)
    reply = Reply(core.gate)
    if opens and token is not None:
        core.note_down(Batch(), reply, token)
    return reply


def end_unclaimed(core: Core, request: EndUnclaimed, token: AnyToken | None) -> ClientStates:
    for opened in list(core.register.by_client.get(request.client, {}).values()):
        if opened.unclaimed:
            if must_delete(core, opened):
                core.await_room()
            end_open(core, opened)
    return list_client(core, ListClient(request.client), None)


def list_clients(core: Core, request: ListClients, token: AnyToken | None) -> ClientList:
    clients = [client for client, opens in core.register.by_client.items() if any(not opened.mandatory for opened in opens.values())]
    sessions = dict.fromkeys(key[1 : 1 + _SESSION] for key, _ in core.keys.walk(keys.SLOT))
    return ClientList(core.gate, clients, list(sessions))


def begin_grace(core: Core, request: BeginGrace, token: AnyToken | None) -> Reply:
    core.begin_grace()
    return Reply(core.gate)


def end_grace(core: Core, request: EndGrace, token: AnyToken | None) -> Reply:
    reply = Reply(core.gate)
    if core.grace:
        batch = Batch()
        batch.delete(GRACE)
        core.note_down(batch, reply, reserved=True)
        core.grace = False
    return reply


def keep_records(core: Core, request: KeepRecords, token: AnyToken | None) -> Reply:
    batch = Batch()
    for name, value in request.changes:
        if not 0 < len(name) <= _MOST_NAME or len(value or b"") > _MOST_VALUE:
            raise InvalidArgument(f"a record of {len(value or b'')} bytes under a key of {len(name)}")
        if value is None:
            batch.delete(keys.client(name))
        else:
            batch.put(keys.client(name), value)
    return core.note_down(batch, Reply(core.gate), token)


def list_records(core: Core, request: ListRecords, token: AnyToken | None) -> Records:
    core.note(_RECORDS)
    start = keys.client(request.prefix)
    found = []
    for key, value in core.keys.scan(_RECORDS, start):
        if not key.startswith(start):
            break
        found.append((key[keys.BUCKET :], value))
    return Records(core.gate, found)


def list_slots(core: Core, request: ListSlots, token: AnyToken | None) -> Slots:
    _check_session(request.session)
    core.note(keys.slots(request.session)[: keys.BUCKET])
    return Slots(core.gate, core.tokens.slots(request.session))


def forget_session(core: Core, request: ForgetSession, token: AnyToken | None) -> Reply:
    _check_session(request.session)
    batch = Batch()
    core.tokens.forget(batch, request.session)
    if not batch.count:
        return Reply(core.gate)
    return core.note_down(batch, Reply(core.gate))


def _check_session(session: bytes) -> None:
    if len(session) != _SESSION:
        raise InvalidArgument(f"a session id of {len(session)} bytes")
