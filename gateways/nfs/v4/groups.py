"""Groups of NFSv4.1 clients: which of them this node is the home of, and the way to the others' homes (PROTOCOLS, "Sessions have a home").

A group is one server instance (so_major_id), a `Service`, at one node at a time, its *home*. Client and session ids name their group. A COMPOUND whose
group's home is another node is handed there whole, and the answer passed back; while a group is on its way from one home to another, it waits here. A new
client belongs to the group of the address that it came to. Who is whose home is not decided here: that is the node's business (`Homes`), which says when a
group is to be taken, released or given up.

A node that is alone has one group and asks nobody anything.
"""

import asyncio
import struct
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import structlog

from gateways.nfs.rpc import Call, RpcConnection
from gateways.nfs.v4.clients import FIRST_GROUP
from gateways.nfs.v4.forwarding import RemoteConnection, pack_header, read_header
from gateways.nfs.v4.service import Service
from gateways.nfs.v4.underway import UnderWay
from sofs.errors import Fenced, NotFound, SofsError, Unavailable
from sofs.runtime.ports import Buffer, Clock
from sofs.types import VolumeId
from sofs.volume.api import Binding, FencedOff, FenceGateway, Noticed, Reply, Upcall, Volume

log = structlog.get_logger("nfs")

PATIENCE_S = 45.0
"""How long a COMPOUND waits for a home. Then its connection is closed and the client sends it again: Linux would do so by itself after 60 s."""
QUIET_S = 10.0
"""How long a group that is to be released waits for what is under way."""
AGAIN_S = 0.5
_FIRST = struct.Struct(">IH")  # the first operation, and the group's number in the id that its arguments begin with
_NAMING = frozenset({41, 43, 44, 53, 57})
"""BIND_CONN_TO_SESSION, CREATE_SESSION, DESTROY_SESSION, SEQUENCE, DESTROY_CLIENTID."""
_EXCHANGE_ID = 42


class Homes(Protocol):
    """What the node knows of groups, by their numbers."""

    def known(self, group: int) -> bool: ...

    def group_at(self, address: str) -> int:
        """The group to which new clients belong that came to this address of the node."""

    async def ask(self, group: int, header: bytes, message: Buffer, wanted: Callable[[], bool]) -> Sequence[Buffer] | None:
        """What the group's home answers; waits while that cannot be reached, as long as it is `wanted`. None: this node is the home. What was asked may have
        been carried out more than once, or none of the times. Raises `Unavailable` after a while, and `NotFound` for a group that there is not."""

    def forget(self, groups: Iterable[int], connection: int) -> None:
        """The connection with this number, over which COMPOUNDs of these groups have come, has ended: tells their homes."""


class Groups:
    """The groups whose home is here.

    `make` makes the service of a group; it is given how it hears a volume, its number, the former homes that are to be fenced, and what the group's former
    service here has left under way. `volumes` gives those that are exported, `gateway` is this gateway's incarnation.
    """

    def __init__(
        self,
        make: Callable[[Callable[[Volume], None], int, Sequence[int], UnderWay | None], Service],
        clock: Clock,
        volumes: Callable[[], Mapping[VolumeId, Volume]],
        homes: Homes | None = None,
        gateway: int = 0,
    ) -> None:
        self._make = make
        self._clock = clock
        self._volumes = volumes
        self._homes = homes
        self._gateway = gateway
        self.only: Service | None = make(self.hear, FIRST_GROUP, (), None) if homes is None else None
        """The one group of a node that is alone."""
        self.here: dict[int, Service] = {} if self.only is None else {FIRST_GROUP: self.only}
        self._nobody = make(self.hear, 0, (), None) if homes is not None else None
        """Answers what names no group there is."""
        self._coming: dict[int, asyncio.Task[None]] = {}
        self._tenures: dict[int, int] = {}
        """Of those that are here or coming."""
        self._loading: dict[int, Service] = {}
        self._under_way: dict[int, UnderWay] = {}
        """Of the last service of each group that has been here: what it has left concerns the next one."""
        self._turn: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.barriers: dict[VolumeId, asyncio.Future[None]] = {}
        """Volumes at which the former home of a group that was taken over has yet to be fenced: nothing is asked there meanwhile for clients that may
        have come from it, and of whom no session says so (NFSv3)."""
        self._numbers: dict[RpcConnection, tuple[int, set[int]]] = {}
        self._last = 0
        self._remote: dict[tuple[int, int], RemoteConnection] = {}
        self._heard: set[VolumeId] = set()
        self.on_fenced: Callable[[], None] = lambda: None
        """Called when this gateway incarnation has been shut out of a volume."""

    async def start(self) -> None:
        """Of a node that is alone: brings back what its clients had. Raises `SofsError`."""
        if self.only is not None:
            await self.only.load()
            await self.only.settle()

    async def stop(self) -> None:
        for task in (*self._tasks, *self._coming.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._coming.values(), return_exceptions=True)
        for service in (*self.here.values(), *([self._nobody] if self._nobody else [])):
            await service.stop()

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Whose a COMPOUND is

    def route(self, call: Call, at: int, begin: Callable[[Service], None]) -> None:
        """Carries out a COMPOUND, whose first operation stands at `at`, by `begin` with its service; if that is not here, has it carried out there."""
        homes, nobody = self._homes, self._nobody
        assert homes is not None and nobody is not None
        try:
            number, group = _FIRST.unpack_from(call.data, at)
        except struct.error:
            begin(nobody)
            return
        if number in _NAMING:
            if not homes.known(group):
                group = FIRST_GROUP  # an id from before there were groups, if it is any at all
        elif number == _EXCHANGE_ID:
            group = homes.group_at(call.connection.link.local)
        else:
            begin(nobody)  # what is no one's can only be refused
            return
        service = self.here.get(group)
        if service is not None:
            begin(service)
        else:
            self._begin(self._hold(homes, call, group, begin))

    async def _hold(self, homes: Homes, call: Call, group: int, begin: Callable[[Service], None]) -> None:
        """Waits until the group's home is here, or another home has answered. Gives up with the connection: its client sends again what was not answered."""
        connection = call.connection
        until = self._clock.monotonic() + PATIENCE_S
        header = pack_header(group, self._number(connection, group), connection.link.peer_port, connection.peer)
        while connection.open:
            service = self.here.get(group)
            if service is not None:
                begin(service)
                return
            if self._clock.monotonic() > until:
                connection.link.close(f"group {group} has no home that can be reached")
                return
            try:
                answer = None if group in self._coming else await homes.ask(group, header, call.data, lambda: connection.open)
            except NotFound:
                assert self._nobody is not None
                begin(self._nobody)
                return
            except SofsError as error:
                log.info("nfs4.home_not_reached", group=group, reason=str(error))
                await self._clock.sleep(AGAIN_S)
                continue
            if answer is not None:
                connection.answer(call, answer)
                return
            await self._next_turn()

    def _number(self, connection: RpcConnection, group: int) -> int:
        known = self._numbers.get(connection)
        if known is None:
            self._last += 1
            known = self._numbers[connection] = self._last, set()
            connection.ended.append(partial(self._ended, connection))
        known[1].add(group)
        return known[0]

    def _ended(self, connection: RpcConnection) -> None:
        number, groups = self._numbers.pop(connection)
        assert self._homes is not None
        self._homes.forget(groups, number)

    async def _next_turn(self) -> None:
        """Until a group has come or gone, or a moment has passed."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._turn], timeout=AGAIN_S)

    def look_again(self) -> None:
        """A group has come or gone, or has another home: who waits for it goes on."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.set_result(None)

    # For other nodes

    def forwarded(
        self, node: int, header: bytes, message: bytes, connect: Callable[[str, int], RemoteConnection]
    ) -> Coroutine[Any, Any, Sequence[Buffer] | None]:
        """Carries out a COMPOUND that came to another node. None: this is not its group's home, or not any more, and it may have been carried out in part.
        `connect` makes what stands for a client's connection; it is known from now on, so that nothing is begun once its end has been told."""
        group, number, port, peer = read_header(header)
        connection = self._remote.get((node, number))
        if connection is None:
            connection = connect(peer, port)
            if self.has(group):
                self._remote[node, number] = connection
        connection.groups.add(group)
        return self._carry_out(connection, group, message)

    async def _carry_out(self, connection: RemoteConnection, group: int, message: bytes) -> Sequence[Buffer] | None:
        while group in self._coming:
            await self._next_turn()
        service = self.here.get(group)
        if service is None or not connection.open:
            return None
        answer = connection.carry_out(message, service)
        service.under_way.until_dropped(answer)
        await asyncio.wait([answer])
        return None if answer.cancelled() else answer.result()

    def forget(self, node: int, connection: int | None = None) -> None:
        """A connection of another node's has ended, or all of them."""
        for place in [place for place in self._remote if place[0] == node and connection in (None, place[1])]:
            self._remote.pop(place).closed("its node says so")

    def _let_go(self, group: int) -> None:
        """The group is not here any more: of connections of other nodes that are used for nothing else here nobody would say that they have ended."""
        for place, connection in list(self._remote.items()):
            if group in connection.groups and not any(map(self.has, connection.groups)):
                self._remote.pop(place).closed(f"group {group} has another home")

    # Homes come and go

    def take(self, group: int, fences: Sequence[int], tenure: int = 0) -> None:
        """This node is the home of the group from now on; the gateway incarnations of its former homes are shut out first where it has anything to do. What
        this node knows from an earlier `tenure` is forgotten: the group has had another home in between."""
        if self.has(group):
            if self._tenures[group] == tenure:
                return
            self.give_up(group)
        self._tenures[group] = tenure
        if fences:
            for id, volume in self._volumes().items():
                self._shut(id, volume, fences)
        self._coming[group] = asyncio.get_running_loop().create_task(self._take(group, fences))

    async def _take(self, group: int, fences: Sequence[int]) -> None:
        try:
            while True:
                service = self._loading[group] = self._make(self.hear, group, fences, self._under_way.get(group))
                self._under_way[group] = service.under_way
                try:
                    await service.load()
                    if not service.stopped:
                        break
                except SofsError as error:
                    if isinstance(error, Fenced):
                        self.on_fenced()
                    log.warning("nfs4.group_not_loaded", group=group, reason=str(error) or type(error).__name__)
                await service.stop()
                await self._clock.sleep(AGAIN_S)
            self.here[group] = service
            self._begin(self._settle(service))
        finally:
            if self._coming.get(group) is asyncio.current_task():
                del self._coming[group]
                self._loading.pop(group, None)
            self.look_again()

    async def _settle(self, service: Service) -> None:
        while self.here.get(service.group) is service:
            try:
                await service.settle()
                return
            except SofsError as error:
                log.info("nfs4.volume_not_settled", group=service.group, reason=str(error) or type(error).__name__)
                await self._clock.sleep(AGAIN_S)

    def _shut(self, id: VolumeId, volume: Volume, fences: Sequence[int]) -> None:
        before = self.barriers.get(id)
        barrier = self.barriers[id] = asyncio.get_running_loop().create_future()
        self._begin(self._fence(volume, fences, before, barrier))

    async def _fence(self, volume: Volume, fences: Sequence[int], before: "asyncio.Future[None] | None", barrier: "asyncio.Future[None]") -> None:
        if before is not None:
            await asyncio.wait([before])
        left = list(fences)
        while left:
            try:
                reply = volume.call(FenceGateway(left[-1]), None, Binding(self._gateway, 0))
                if not isinstance(reply, Reply):
                    await reply
                left.pop()
            except SofsError as error:
                log.info("nfs.not_fenced", volume=volume.name, reason=str(error) or type(error).__name__)
                await self._clock.sleep(AGAIN_S)
        if self.barriers.get(volume.id) is barrier:
            del self.barriers[volume.id]
        barrier.set_result(None)

    async def release(self, group: int) -> None:
        """The group's home is about to be another node: what is under way is carried out, and nothing begun any more. Raises `Unavailable` if that takes
        too long; then it stays."""
        coming = self._coming.get(group)
        if coming is not None:
            await asyncio.wait([coming], timeout=QUIET_S)
        service = self.here.pop(group, None)
        if service is None:
            raise Unavailable(f"group {group} is not here")
        until = self._clock.monotonic() + QUIET_S
        while not service.idle:
            if self._clock.monotonic() > until:
                self.keep(service)
                raise Unavailable(f"requests of group {group} do not come to their end")
            await self._clock.sleep(0.002)
        await service.stop()
        self._let_go(group)

    def keep(self, service: Service) -> None:
        self.here[service.group] = service
        self.look_again()

    def has(self, group: int) -> bool:
        return group in self.here or group in self._coming

    def give_up(self, group: int) -> None:
        """Another node is, or was, the home, without having asked."""
        coming = self._coming.pop(group, None)
        if coming is not None:
            coming.cancel()
            self._loading.pop(group, None)
        service = self.here.pop(group, None)
        self.look_again()
        if service is not None:
            log.warning("nfs4.group_lost", group=group)
            service.abandon()
            self._begin(service.stop())
        self._let_go(group)

    def begin_anew(self) -> None:
        """A volume has failed under this process, which lives: what it was asked may never be answered, or is lost though it was. As after a new start, all
        groups here go by what records and volumes know; requests wait until they do."""
        for service in self._loading.values():
            service.abandon()  # what it reads may never come
        for group, service in list(self.here.items()):
            if service is not self.only:
                self.give_up(group)
                self.take(group, service.fences, self._tenures[group])

    def described(self) -> dict[bytes, tuple[str, str]]:
        """Each client's protocol and address, for operators."""
        found: dict[bytes, tuple[str, str]] = {}
        for service in self.here.values():
            found |= service.described()
        return found

    # Upcalls

    def hear(self, volume: Volume) -> None:
        """The volume's upcalls reach all groups from now on."""
        if volume.id not in self._heard:
            self._heard.add(volume.id)
            volume.subscribe(self.tell)

    def tell(self, volume: VolumeId, upcall: Upcall) -> None:
        if isinstance(upcall, FencedOff):
            if upcall.gateway == self._gateway:
                self.on_fenced()
        elif not isinstance(upcall, Noticed):  # NFS opens watch nothing
            for service in self.here.values():
                service.tell(volume, upcall)
