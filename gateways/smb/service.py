"""What all connections of the SMB gateway share: settings, shares, users, sessions, opens."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from gateways.buffers import Buffers
from gateways.eager import begin
from gateways.exports import Shares
from gateways.identity import Identities
from gateways.server import Link
from gateways.smb.connection import Connection
from gateways.smb.crypto import Dialect
from gateways.smb.durable import Durables
from gateways.smb.guesses import Guesses
from gateways.smb.handle import MAX_HANDLES, Channel, Handle, Session, Tree
from gateways.smb.leases import Leases
from gateways.smb.neighbours import Alone, Neighbours
from gateways.smb.notices import Watched
from sofs.errors import SofsError
from sofs.runtime.interfaces import Interface
from sofs.runtime.ports import Clock, Random
from sofs.types import VolumeId
from sofs.volume.api import Binding, Close, Disconnect, Dropped, LoseOpens, Noticed, Recall, Reply, Resumed, Revoked, Upcall, Volume

log = structlog.get_logger("smb")

STRANGER_S = 60.0
"""How long a connection may stay without a logon."""
MAX_SESSIONS = 20_000
OPENS_OF_USER = 131_072
"""Over all sessions: each open takes some 2 KiB. They are counted at every `COUNTED`th open of a session."""
COUNTED = 64
ENDING_S = 10.0
"""What opens may take to be closed when the gateway stops. What is open still then ends like that of a process that is gone."""


@dataclass(frozen=True)
class SmbSettings:
    """The gateway's part of the node's configuration."""

    name: str = "sofs"
    """The server's name, as NetBIOS and RPC tell it."""
    workgroup: str = "WORKGROUP"
    signing_required: bool = True
    encryption: str = "offered"
    """off, offered, required."""
    minimum_dialect: Dialect = Dialect.SMB_2_0_2
    session_lifetime_s: float = 0.0
    """After this time a user has to log on again; 0: never."""
    guid: bytes = field(default=bytes(16))
    """ServerGuid: this node's, the same after each start."""
    anonymous: bool = False
    """Whether an anonymous client may connect to IPC$ and list shares."""


class SmbService:
    """Makes a `Connection` for every client (`accept`), and keeps what outlives a connection.

    `gateway` is this gateway's incarnation: it is part of every session id, so that no session of an earlier start is mistaken for one of this.
    """

    def __init__(
        self,
        settings: SmbSettings,
        shares: Shares,
        identities: Identities,
        clock: Clock,
        random: Random,
        gateway: int,
        neighbours: Neighbours | None = None,
        on_fenced: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_fenced` is called when this incarnation has been shut out of a volume."""
        self.settings = settings
        self.shares = shares
        self.identities = identities
        self.clock = clock
        self.random = random
        self.gateway = gateway
        self.neighbours = neighbours or Alone()
        self._on_fenced = on_fenced
        self.buffers = Buffers()
        self.notices = Watched()
        self.token_key = random.bytes(32)
        """Authenticates the tokens of offloaded transfers."""
        self.leases = Leases()
        self.durables = Durables()
        self.guesses = Guesses()
        self._attended: set[Volume] = set()
        self.connections: set[Connection] = set()
        self.sessions: dict[int, Session] = {}
        self.interfaces: Callable[[], list[Interface]] = list
        """This host's addresses."""
        self.listening: Callable[[], list[str]] = list
        """Where the gateway listens."""
        self._next_session = 1
        self._next_handle = 1
        self._closing: set[asyncio.Task[Any]] = set()

    def accept(self, link: Link) -> Connection:
        connection = Connection(self, link)
        self.connections.add(connection)
        connection.deadline = self.clock.call_later(STRANGER_S, partial(self._drop_stranger, connection))
        return connection

    def _drop_stranger(self, connection: Connection) -> None:
        if connection in self.connections and not connection.authenticated:
            connection.link.close(f"no logon in {STRANGER_S:.0f} s")

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.leases.went(connection)
        if connection.deadline is not None:
            connection.deadline.cancel()

    # Sessions

    def new_session(self, connection: Connection) -> Channel | None:
        """A session that has yet to log on, on its first connection; None when there are too many."""
        if len(self.sessions) >= MAX_SESSIONS:
            return None
        number = self._number()
        session = Session(number, Binding(self.gateway, number))
        session.created = self.clock.monotonic()
        session.client = connection.client_guid
        self.sessions[number] = session
        return self.add_channel(session, connection)

    def _number(self) -> int:
        """A session's number that is not in use. The gateway's half never changes, however many have logged on."""
        while True:
            number = (self.gateway & 0xFFFFFFFF) << 32 | (self._next_session & 0xFFFFFF) << 8 | self.random.number(8)
            self._next_session += 1
            if number not in self.sessions:
                return number

    def add_channel(self, session: Session, connection: Connection) -> Channel:
        """One more connection for the session; it has yet to log on there."""
        channel = Channel(session, connection)
        session.channels.append(channel)
        connection.channels[session.number] = channel
        return channel

    def end_channel(self, channel: Channel) -> None:
        """The session leaves the channel's connection; without any it ends. Who is still trying to join it does not keep it."""
        session = channel.session
        if channel not in session.channels:
            return
        if any(each.ready for each in session.channels if each is not channel):
            self._leave(channel)
        else:
            self.end_session(session)

    def _leave(self, channel: Channel) -> None:
        session = channel.session
        session.channels.remove(channel)
        channel.ready = False
        channel.connection.channels.pop(session.number, None)
        channel.connection.give_up_writes(session)
        self.leases.left(channel.connection)

    def end_session(self, session: Session, lost: bool = True) -> None:
        """Closes everything the session holds, unless it is `lost` and its client may come back for some of it (MS-SMB2 3.3.7.1).

        Its later requests are answered USER_SESSION_DELETED.
        """
        session.ready = False
        self.sessions.pop(session.number, None)
        for channel in list(session.channels):
            self._leave(channel)
        for handle in list(session.handles.values()):
            self.drop(handle, lost)
        session.trees.clear()

    def end_tree(self, tree: Tree) -> None:
        tree.session.trees.pop(tree.number, None)
        for handle in [handle for handle in tree.session.handles.values() if handle.tree is tree]:
            self.drop(handle)

    def refresh(self) -> None:
        """Takes note that `shares` has been replaced: who is connected to a share that is gone, or is another one now, is disconnected."""
        for session in list(self.sessions.values()):
            for tree in list(session.trees.values()):
                if tree.share is not None and not tree.follow(self.shares.named(tree.share.name)):
                    self.end_tree(tree)

    def refresh_users(self) -> None:
        """Takes note that `identities` knows other users: sessions end of those who are gone, or could not log on any more as they did.

        Other groups count from the next logon on, as with Windows.
        """
        for session in list(self.sessions.values()):
            for before in session.accounts.values():
                now = self.identities.named(before.name)
                if now is None or (now.uid, now.nt_hash, now.sid) != (before.uid, before.nt_hash, before.sid):
                    log.info("session_ended", user=before.name, reason="the user has been deleted or has another password")
                    self.end_session(session, lost=False)
                    break

    def give_up(self, volume: Volume) -> None:
        """Ends the connections with a share on this volume: what they have asked it may never be answered. What has been done of that nobody here knows;
        so nothing that is open there through this gateway by now is anybody's any more."""
        for session in list(self.sessions.values()):
            if any(tree.volume is volume for tree in session.trees.values()):
                for channel in session.channels:
                    channel.connection.link.close("a volume has failed")
        self._begin(self._ask(volume, LoseOpens(), Binding(self.gateway, 0)))

    def attend(self, volume: Volume) -> None:
        """Hears what the volume has to tell, from the first connection to one of its shares on."""
        if volume not in self._attended:
            self._attended.add(volume)
            volume.subscribe(self.tell)

    def tell(self, volume: VolumeId, upcall: Upcall) -> None:
        """`sofs.volume.api.Upcalls`: each is told of all opens, and leaves alone those that are not the gateway's."""
        if isinstance(upcall, Recall):
            self.leases.recall(volume, upcall)
        elif isinstance(upcall, Revoked):
            self.leases.revoked(volume, upcall.key)
        elif isinstance(upcall, Dropped):
            self.durables.dropped(volume, upcall.open)
        elif isinstance(upcall, Noticed):
            self.notices.noticed(volume, upcall)
        elif isinstance(upcall, Resumed):
            self.watch_again(volume)
        elif upcall.gateway == self.gateway:
            self.fenced()

    # Other nodes

    def fenced(self) -> None:
        """This gateway has been shut out, as if it had died: nothing that its clients have is theirs through it any more. They are to come again."""
        log.error("gateway_fenced", sessions=len(self.sessions))
        for session in list(self.sessions.values()):
            for channel in list(session.channels):
                channel.connection.link.close("this gateway has been fenced")
            self.end_session(session)
        self._on_fenced()

    def end_previous(self, number: int, user: str) -> bool:
        """The user's client has logged on anew and has given up this session (MS-SMB2 3.3.5.5.3). False if it is not here."""
        old = self.sessions.get(number)
        if old is not None and old.ready and old.user == user and not old.anonymous:
            self.end_session(old)
        return number >> 32 == self.gateway & 0xFFFFFFFF

    def volumes(self) -> list[Volume]:
        """Those with shares."""
        ids = sorted({share.volume for share in self.shares.all() if share.smb.enabled})
        return [volume for id in ids if (volume := self.shares.served(id)) is not None]

    def watch_again(self, volume: VolumeId) -> None:
        """What was watched in the volume is not any more, and what has happened since is not known: clients are to look for themselves, once it is watched."""
        for handle in list(self.handles()):
            if handle.notices is not None and handle.volume.id == volume:
                self._begin(self._watch(handle))

    async def _watch(self, handle: Handle) -> None:
        notices = handle.notices
        assert notices is not None
        try:
            reply = handle.volume.call(notices.watch, None, handle.session.binding)
            if not isinstance(reply, Reply):
                await reply
        except SofsError as error:
            log.info("watch_failed", open=handle.id, error=str(error) or type(error).__name__)
        notices.lost()

    # Opens

    def next_handle(self) -> int:
        number = self._next_handle
        self._next_handle += 1
        return number

    def sessions_of(self, user: str) -> list[Session]:
        return [session for session in self.sessions.values() if session.ready and session.user == user]

    def has_room(self, session: Session) -> bool:
        """Whether the session, and its user in all of them, may have one more open."""
        count = len(session.handles)
        if count >= MAX_HANDLES:
            return False
        return count % COUNTED != COUNTED - 1 or sum(len(each.handles) for each in self.sessions_of(session.user)) < OPENS_OF_USER

    def handles(self) -> Iterator[Handle]:
        for session in self.sessions.values():
            yield from session.handles.values()

    def drop(self, handle: Handle, lost: bool = False) -> None:
        """Closes an open whose client does not wait for the answer; one that outlives its connection only if that is not merely `lost`."""
        handle.session.handles.pop(handle.number, None)
        self.leases.detach(handle)
        stays = lost and self.durables.went(handle)
        if not stays:
            self.durables.ended(handle)
        self.notices.end(handle)
        if handle.pipe is None:
            self._begin(self._ask(handle.volume, Disconnect(handle.id) if stays else Close(handle.id), handle.session.binding))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something for which no client waits."""
        task_or_none = begin(work)
        if isinstance(task_or_none, asyncio.Task):
            self._closing.add(task_or_none)
            task_or_none.add_done_callback(self._closing.discard)

    async def _ask(self, volume: Volume, request: Close | Disconnect | LoseOpens, by: Binding) -> None:
        try:
            reply = volume.call(request, None, by)
            if not isinstance(reply, Reply):
                await reply
        except SofsError as error:
            log.info("opens_not_ended", request=type(request).__name__, error=str(error) or type(error).__name__)

    async def stop(self) -> None:
        """Ends all sessions, and waits until their opens are closed."""
        for session in list(self.sessions.values()):
            self.end_session(session)
        if self._closing:
            await asyncio.wait(self._closing, timeout=ENDING_S)
