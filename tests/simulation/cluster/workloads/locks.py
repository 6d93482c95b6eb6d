"""Byte-range locks of both protocols on one file: at no instant of true time do two clients hold what excludes each other.

A client holds a lock from the moment it is told so until it sends the unlock. Its open outlives gateways, coordinators and connections: an SMB client
reconnects its persistent handle at another gateway, an NFS client goes on using its open there. What it wrote under an exclusive lock is what it reads
under it. Only when the verifier says that memory was lost may opens and locks be gone.
"""

from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, cast

import msgspec

from sofs.errors import Closed, Fenced, LockConflict, LockNotHeld, NotFound, SharingViolation, SofsError, Stale
from sofs.types import Inode, Level, OpenId
from sofs.volume.api import Access, Binding, Bound, Close, Disposition, Keep, Lock, Open, Opened, Reconnect, Reply, ShareMode, Unlock, Volume
from tests.simulation.cluster.client import SUPER, Client, stateless
from tests.simulation.cluster.workloads.base import Workload

__all__ = ["Locks"]

_PLACE = 64
_PLACES = 3
_RIGHTS = Access.READ_DATA | Access.WRITE_DATA | Access.READ_ATTRIBUTES | Access.SYNCHRONIZE
_USER = b"S-1-5-21-1-2-3-1000"


@dataclass
class _Held:
    start: int
    count: int
    exclusive: bool
    verifier: int

    def excludes(self, other: "_Held") -> bool:
        return (self.exclusive or other.exclusive) and self.start < other.start + other.count and other.start < self.start + self.count


class _Locker:
    """One client with its open."""

    def __init__(self, client: Client, number: int, smb: bool) -> None:
        self.client = client
        self.smb = smb
        self.id = b"%d" % number
        self.open: OpenId | None = None
        self.verifier = 0
        """When the open was made."""
        self.gateway = 0
        """The incarnation that it is connected through."""
        self.session = 0
        """And the client's session there."""
        self.guid = b""
        self.opens = 0
        self.holds: list[_Held] = []
        self.closing = False
        """The CLOSE has been sent: from then on the open may be gone, also if nobody says so."""

    def owner(self) -> bytes:
        return b"" if self.smb else b"locker " + self.id


class Locks(Workload):
    """All clients share the file."""

    clients_at_most = 4

    async def prepare(self) -> None:
        self.file: Inode = await self.make(self.clients[0], self.directory, b"shared")
        client = self.clients[0]
        await client.write(stateless(self.file), 0, b" " * (_PLACE * _PLACES), client.token(), Level.STABLE)
        self.lockers: dict[str, _Locker] = {}
        for number, client in enumerate(self.clients):
            locker = self.lockers[client.name] = _Locker(client, number, smb=self.random.chance(0.5))
            if locker.smb:
                client.reattach = lambda locker=locker: self._reconnect(locker)

    async def turn(self, client: Client) -> None:
        locker = self.lockers[client.name]
        try:
            if locker.open is None:
                await self._open(locker)
            elif locker.holds and self.random.chance(0.5):
                await self._unlock(locker, locker.holds[self.random.below(len(locker.holds))])
            elif locker.holds and self.random.chance(0.6):
                await self._use(locker, locker.holds[self.random.below(len(locker.holds))])
            elif len(locker.holds) < 2:
                await self._lock(locker)
            elif self.random.chance(0.2):
                await self._close(locker)
        except _Lost:
            await self._forget(locker)

    async def _forget(self, locker: _Locker) -> None:
        """Ends what is left of an open that was lost, or whose locks were: nobody else would ever come for it."""
        client, id = locker.client, locker.open
        client.note("lost open", id)
        locker.open = None
        locker.holds.clear()
        if id is not None:
            with suppress(Closed, Stale, NotFound):
                await client.call(Close(id), client.token(), Level.STABLE)

    async def _open(self, locker: _Locker) -> None:
        locker.opens += 1
        client = locker.client
        locker.guid = b"%-8b%8d" % (locker.id, locker.opens)
        name = b"client " + client.name.encode()
        keep = Keep(3_600_000, True, _USER) if locker.smb else Keep(-1)
        request = Open(
            SUPER, self.directory, (b"shared",), _RIGHTS, ShareMode.ALL, Disposition.OPEN, owner=locker.owner() or b"smb " + locker.id,
            guid=locker.guid if locker.smb else b"", mandatory=locker.smb, client=name[:16], keep=keep,
        )  # fmt: skip
        answer = await client.call(request, client.token(), Level.COMMITTED)
        opened = cast(Opened, answer.reply)
        locker.open, locker.verifier, locker.gateway, locker.session = opened.open, answer.verifier, answer.gateway, client.session
        client.note("opened", opened.open, "smb" if locker.smb else "nfs")
        if locker.smb and opened.sequence == 0:
            locker.gateway = 0
            await self._reconnect(locker)

    async def _reconnect(self, locker: _Locker) -> int:
        """Takes the open over to the gateway at which the client is now; gives that one's incarnation."""
        if locker.open is None:
            return 0
        client = locker.client
        node = client.machine.node
        if node is not None and (node.incarnation, client.session) == (locker.gateway, locker.session):
            return locker.gateway
        request = Reconnect(SUPER, locker.open, locker.guid, (b"client " + client.name.encode())[:16], _USER, None)
        while True:
            try:
                # Without a token of the client's: what one gateway was answered says nothing of another one's connection.
                answer = await client.call(request, level=Level.COMMITTED)
            except (NotFound, Closed, Stale) as error:
                if locker.closing:
                    raise _Closed from None
                self._gone(locker, error)
            reply = answer.reply
            if not isinstance(reply, Bound):
                client.note("reconnected", locker.open)
                locker.gateway, locker.session = answer.gateway, client.session
                return answer.gateway
            if reply.gateway == answer.gateway:
                # An attempt whose answer the client did not wait for has connected the open to this very gateway. A real one knows that the client's
                # session of then is no more.
                request = msgspec.structs.replace(request, former=Binding(reply.gateway, reply.session))
            else:
                await self.cluster.shut_out(reply.gateway, client)

    def _gone(self, locker: _Locker, error: SofsError) -> NoReturn:
        """An open may be gone only with the memory of the volume. Raises `_Lost`."""
        verifier = self.cluster.verifier(self.volume)
        assert verifier != locker.verifier, (
            f"{locker.client.name}: open {locker.open} with {len(locker.holds)} locks is gone ({error!r}), and the verifier is the same"
        )
        raise _Lost

    async def _lock(self, locker: _Locker) -> None:
        assert locker.open is not None
        start = self.random.below(_PLACES)
        wanted = _Held(start, 1 + self.random.below(_PLACES - start), self.random.chance(0.7), 0)
        if any(wanted.start < held.start + held.count and held.start < wanted.start + wanted.count for held in locker.holds):
            return  # NFS would change the lock it has, SMB have two
        client = locker.client
        request = Lock(locker.open, wanted.start * _PLACE, wanted.count * _PLACE, wanted.exclusive, owner=locker.owner())
        try:
            answer = await client.call(request, client.token(), Level.COMMITTED)
        except LockConflict:
            return
        except (Closed, Stale, NotFound) as error:
            self._gone(locker, error)
        wanted.verifier = answer.verifier
        client.note("locked", wanted.start, wanted.count, "exclusive" if wanted.exclusive else "shared", f"{answer.verifier:x}")
        for other in self.lockers.values():
            for held in other.holds:
                if held.verifier == wanted.verifier and other is not locker:
                    assert not held.excludes(wanted), (
                        f"{client.name} was given {wanted} while {other.client.name} ({'smb' if other.smb else 'nfs'}) holds {held}"
                    )
        locker.holds.append(wanted)

    async def _unlock(self, locker: _Locker, held: _Held) -> None:
        assert locker.open is not None
        locker.holds.remove(held)
        client = locker.client
        try:
            await client.call(Unlock(locker.open, held.start * _PLACE, held.count * _PLACE, owner=locker.owner()), client.token(), Level.COMMITTED)
        except LockNotHeld as error:
            locker.holds.append(held)
            self._gone(locker, error)
        except (Closed, Stale, NotFound) as error:
            self._gone(locker, error)
        client.note("unlocked", held.start, held.count)

    async def _use(self, locker: _Locker, held: _Held) -> None:
        """Writes under an exclusive lock, and reads it back: nobody else can have written meanwhile."""
        assert locker.open is not None
        client = locker.client
        at = held.start * _PLACE
        mark = b"%s %d" % (client.name.encode(), client.tokens)
        try:
            if held.exclusive:
                written = await client.write(locker.open, at, mark.ljust(_PLACE), client.token(), Level.COMMITTED)
                await self.world_pause()
                data, answer = await client.read(locker.open, at, _PLACE)
                same = answer.verifier == written.verifier
                assert data == mark.ljust(_PLACE) or not same, f"{client.name} holds {held}, wrote {mark!r} and reads {data!r}"
            else:
                first, before = await client.read(locker.open, at, _PLACE)
                await self.world_pause()
                second, after = await client.read(locker.open, at, _PLACE)
                same = before.verifier == after.verifier == held.verifier
                assert first == second or not same, f"{client.name} holds {held}, and {first!r} became {second!r}"
        except (Closed, Stale, NotFound, LockConflict) as error:
            self._gone(locker, error)

    async def world_pause(self) -> None:
        await self.world.pause(self.random.fraction() * 0.2)

    async def _close(self, locker: _Locker) -> None:
        assert locker.open is not None
        client = locker.client
        locker.holds.clear()  # once this is sent, they may be gone
        request, token = Close(locker.open), client.token()

        def close(volume: Volume, by: Binding) -> Reply | Awaitable[Reply]:
            locker.closing = True
            return volume.call(request, token, by)

        try:
            await client.send(close, Level.STABLE, "Close")
        except (Closed, Stale, NotFound, Fenced, SharingViolation) as error:
            self._gone(locker, error)
        except _Closed:
            pass
        finally:
            locker.closing = False
        locker.open = None
        client.note("closed")

    async def leave(self, client: Client) -> None:
        locker = self.lockers[client.name]
        try:
            for held in list(locker.holds):
                await self._unlock(locker, held)
            if locker.open is not None:
                await self._close(locker)
        except _Lost:
            await self._forget(locker)

    async def verify(self, client: Client) -> None:
        """Whoever comes now gets every lock: nothing is left that nobody holds."""
        locker = _Locker(client, 100 + client.tokens, smb=False)
        await self._open(locker)
        assert locker.open is not None
        request = Lock(locker.open, 0, _PLACE * _PLACES, True, owner=locker.owner())
        try:
            await client.call(request, client.token(), Level.COMMITTED)
        except LockConflict as error:
            assert self.cluster.memory_lost, f"{self.kind}{self.number}: a lock is left that nobody holds: {error}"
        await self._close(locker)


class _Closed(Exception):
    """The client's open is gone, as it has asked: the CLOSE was carried out, and its answer lost."""


class _Lost(Exception):
    """The client's open is gone, as it may be."""
