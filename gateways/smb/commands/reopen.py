"""The CREATEs that open nothing new: a client comes back to an open that outlived its connection, or repeats a CREATE whose reply it has missed.

MS-SMB2 3.3.5.9.7 and 3.3.5.9.12 (reconnect), 3.3.5.9.10 (replay), 3.3.5.9.13 (another instance of the same application).
"""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from gateways.smb.durable import Durable, Return
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.handle import Handle
from gateways.smb.header import FLAG_REPLAY
from gateways.smb.info.attributes import as_opened
from gateways.smb.leases import LEVEL_LEASE
from gateways.smb.names import Path
from gateways.smb.neighbours import Held
from gateways.smb.status import Failure, Status
from sofs.errors import AccessDenied, InvalidArgument, NotFound
from sofs.volume.api import Action, Binding, Bound, Found, GetAttributes, Opened, Reconnect, Volume

if TYPE_CHECKING:
    from gateways.smb.commands.create import Asked

_WRITE_THROUGH = 2
_OTHERS = 3
"""Sessions that one open is found bound to, one after another, until its client is told to try again."""


class Gone(Failure):
    """The volume knows no such open."""


def owner(exchange: Exchange) -> str:
    """Who may come back to an open that is made now: its user's SID."""
    sids = exchange.session.caller.sids
    return sids[0] if sids else f"uid {exchange.session.caller.uid}"


# Coming back


async def come_back(exchange: Exchange, path: Path, to: Return, asked: "Asked", options: int) -> Answer:
    from gateways.smb.commands.create import hold, level_granted, respond

    tree, service = exchange.tree, exchange.connection.service
    assert tree.volume is not None
    before = service.durables.away(tree.volume.id, to.open)
    if before is not None and (before.session.caller.uid, before.tree.root) != (exchange.session.caller.uid, tree.root):
        raise Failure(Status.ACCESS_DENIED if before.tree.root == tree.root else Status.OBJECT_NAME_NOT_FOUND)
    if before is not None:
        to = _compare(before, path, to, asked)
    opened = await _reconnect(exchange, to, asked)
    number = service.next_handle() if before is None else before.number  # the whole FileId stays, where it is known
    handle = Handle(number, tree, opened.open, opened.access, opened.path)
    handle.write_through = bool(options & _WRITE_THROUGH)
    handle.began = exchange.sequence & 0xFFFF
    service.durables.back(handle, to, opened.keep_ms)
    hold(exchange, handle, opened, asked)
    level = level_granted(handle, opened, asked)
    return respond(handle, as_opened(opened.attributes, opened.stream), Action.OPENED, opened.maximal, level, asked)


def _fold(name: tuple[bytes, ...]) -> list[str]:
    return [part.decode("utf-8", "surrogateescape").upper() for part in name]


def _compare(before: Handle, path: Path, to: Return, asked: "Asked") -> Return:
    """Raises `Failure` where what this gateway remembers of the open does not fit, in ways of which the volume knows nothing."""
    durable = before.durable
    assert durable is not None
    if asked.lease is not None and _fold(before.name) != _fold(path.components):
        raise Failure(Status.INVALID_PARAMETER)
    if durable.persistent is not to.persistent and not durable.resilient:
        raise Failure(Status.OBJECT_NAME_NOT_FOUND if durable.persistent else Status.INVALID_PARAMETER)
    if durable.version == 1 and not any(to.guid):
        return to._replace(guid=b"")  # it has none: zeros are as good
    return to


async def _reconnect(exchange: Exchange, to: Return, asked: "Asked") -> Opened:
    key = exchange.connection.client_guid + asked.lease.key if asked.lease is not None else None
    request = Reconnect(exchange.session.caller, to.open, to.guid, to.client, owner(exchange).encode(), key)
    volume = exchange.tree.volume
    assert volume is not None
    try:
        opened = await _ask(exchange, request, volume)
        for _ in range(_OTHERS):
            if not isinstance(opened, Bound):
                break
            await _free(exchange, opened, request, volume)
            opened = await _ask(exchange, request, volume)  # somebody else may have come back to it meanwhile
        if isinstance(opened, Bound):
            raise NotFound(f"open {to.open} is connected already")
    except (NotFound, AccessDenied, InvalidArgument) as error:
        failure = Failure(Status.OBJECT_NAME_NOT_FOUND)
        failure.gate = error.gate
        raise failure from None
    return opened


async def _ask(exchange: Exchange, request: Reconnect, volume: Volume) -> Opened | Bound:
    try:
        opened: Opened | Bound = await exchange.call(request, volume)
    except NotFound as error:
        gone = Gone(Status.OBJECT_NAME_NOT_FOUND)
        gone.gate = error.gate
        raise gone from None
    return opened


async def _free(exchange: Exchange, bound: Bound, request: Reconnect, volume: Volume) -> None:
    """The volume believes the open to be connected. Its gateway may be gone without anybody having noticed; or the session is gone that had come back to it
    before, and to which the volume's answer did not come in time. Raises `NotFound` where somebody has it: that client is to give up its session first."""
    service = exchange.connection.service
    if bound.gateway == service.gateway:
        held = Held.IN_USE if bound.session in service.sessions else Held.FREE
    else:
        held = await service.neighbours.has(bound, volume, exchange.session.binding)
    if held is Held.IN_USE:
        raise NotFound(f"open {request.open} is connected already")
    request.former = Binding(bound.gateway, bound.session) if held is Held.FREE else None


# Asking again


def earlier(exchange: Exchange, durable: Durable | None) -> Handle | None:
    """The open that this CREATE has made already. Raises `Failure` if it is still being made, or this is no repetition."""
    if durable is None or not durable.guid:
        return None
    return exchange.connection.service.durables.lookup(durable, bool(exchange.flags & FLAG_REPLAY))


def again(exchange: Exchange, known: Handle, asked: "Asked") -> Coroutine[Any, Any, Answer]:
    """Answers a repeated CREATE as the first one was. Raises `Failure` if it does not ask for the same."""
    if known.tree.volume is not exchange.tree.volume or known.session.caller.uid != exchange.session.caller.uid:
        raise Failure(Status.ACCESS_DENIED)
    if known.session is not exchange.session and known.session.ready:
        raise Failure(Status.DUPLICATE_OBJECTID)
    if exchange.session.handles.get(known.number) is not known:
        return _taken_up(exchange, known, asked)
    lease = known.holding.lease if known.holding is not None else b""
    if asked.lease is not None and asked.lease.key != lease:
        raise Failure(Status.ACCESS_DENIED)
    return _again(exchange, known, asked)


async def _taken_up(exchange: Exchange, known: Handle, asked: "Asked") -> Answer:
    """The session of the first one has ended: what it made waits for this client. The volume may not know it: its coordinator was lost before anything of it
    was anywhere else, and so it was never answered. Then it is carried out now."""
    from gateways.smb.commands.create import handle

    durables, durable = exchange.connection.service.durables, known.durable
    assert durable is not None
    durables.begin(durable)  # what is repeated meanwhile is to come again
    try:
        to = Return(known.id, durable.guid, durable.client, durable.version, durable.persistent)
        return await come_back(exchange, Path(known.name), to, asked, 0)
    except Gone:
        durables.ended(known)
        durables.failed(durable)
    except BaseException:
        durables.waits(known, durable)
        raise
    answer: Answer = await handle(exchange)
    return answer


async def _again(exchange: Exchange, known: Handle, asked: "Asked") -> Answer:
    from gateways.smb.commands.create import respond

    durable = known.durable
    assert durable is not None
    found: Found = await exchange.call(GetAttributes(known.id), known.volume)
    exchange.handle = known
    # The oplock level that is asked for, as Windows has it: what has been broken meanwhile, the client will be told as well.
    level = asked.level if asked.lease is None else LEVEL_LEASE
    return respond(known, as_opened(found.attributes, known.stream), durable.action, durable.maximal, level, asked)


async def own(exchange: Exchange, opened: Opened, asked: "Asked") -> Opened:
    """After a restart, the volume answers a repeated CREATE with the open that the first one made; it has to be taken over. Raises `Failure`; `Gone` where
    that open has ended meanwhile."""
    durable = asked.durable
    if durable is None or opened.sequence:
        return opened
    taken = await _reconnect(exchange, Return(opened.open, durable.guid, durable.client, durable.version), asked)
    taken.action = opened.action
    return taken


def replace_instance(exchange: Exchange, durable: Durable) -> None:
    """Closes the open of another instance of the same application, on another machine: it has been moved here."""
    if not durable.app:
        return
    service = exchange.connection.service
    other = service.durables.instance(durable.app)
    if other is None or other.durable is None or other.durable.client == durable.client or other.tree.root != exchange.tree.root:
        return
    if other.volume is exchange.tree.volume and other.session.caller.uid == exchange.session.caller.uid:
        service.drop(other)
