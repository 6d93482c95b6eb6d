"""How the SMB gateways of a cluster deal with each other: sessions that end elsewhere, and gateways that are gone (`gateways.smb.neighbours`).

A client that has come to another node than the one where its session was has had a reason. So a gateway that has said nothing for `PATIENCE_S` when it is
asked about such a session counts as gone, whoever has waited for it so long: it is fenced, which is safe, and if it lives after all it finds out and begins
anew. What is safe about that is the fence at the volume, before anybody is given what the gateway had there, and not how long it was waited for.
"""

import asyncio
import struct
from collections.abc import Iterable
from typing import Protocol

import structlog

from gateways.smb.neighbours import Held
from sofs.cluster import Answer, Asked, Interconnect, NodeId
from sofs.errors import PeerError, SofsError
from sofs.processes import Processes
from sofs.runtime.ports import Clock
from sofs.volume.api import Binding, Bound, FenceGateway, Reply, Volume

log = structlog.get_logger("smb")

PREVIOUS = "smb.previous"
"""The interconnect's service."""
PATIENCE_S = 3.0
"""How long a gateway may be silent."""
AT_LEAST_S = 0.2
"""What the first who asks waits in any case: perhaps it is this process that has not listened."""
FENCED_S = 1.0
"""What a logon waits for its client's former gateway to be shut out of all volumes."""
AGAIN_S = 0.1
_SESSION = struct.Struct(">Q")  # its user's name follows; nobody's ends no session
_THERE = b"\1"


class Gateway(Protocol):
    """`gateways.smb.gateway.SmbGateway`, as far as others ask something of it."""

    def end_session(self, number: int, user: str) -> bool: ...


class Neighbours:
    """The others, as one node's SMB gateway knows them."""

    def __init__(self, processes: Processes, interconnect: Interconnect, clock: Clock) -> None:
        self._processes = processes
        self._interconnect = interconnect
        self._clock = clock
        self._fencing: set[asyncio.Task[None]] = set()
        self._asked: dict[int, float] = {}
        """When a gateway was first asked something that it has not answered."""

    def serve(self, gateway: Gateway) -> None:
        """Does for others from now on what is asked of `gateway`."""

        def end(asked: Asked) -> Answer:
            try:
                (number,) = _SESSION.unpack_from(asked.body)
                user = bytes(asked.body[_SESSION.size :]).decode("utf-8", "surrogatepass")
            except (struct.error, UnicodeDecodeError) as error:
                raise PeerError(f"a question about a session: {error}") from None
            return Answer(_THERE if gateway.end_session(number, user) else b"")

        self._interconnect.serve(PREVIOUS, end)

    async def end_session(self, number: int, user: str, volumes: Iterable[Volume], by: Binding) -> None:
        found = self._processes.node_of(number >> 32)
        if found is None or found == self._processes.me:
            return
        node, incarnation = found
        body = _SESSION.pack(number) + user.encode("utf-8", "surrogatepass")
        if await self._ask(node, incarnation, body) is None:
            await self._fence_all(incarnation, volumes, by)

    async def _ask(self, node: NodeId, incarnation: int, body: bytes) -> bytes | None:
        """What the gateway answers; None if it counts as gone. One that is known to have ended is not asked."""
        peer, began = self._interconnect.peer(node), self._clock.monotonic()
        first = self._asked.get(incarnation, 0.0)
        if began - first > 2 * PATIENCE_S:
            first = self._asked[incarnation] = began

        def left() -> float:
            return max(min(first, peer.heard) + PATIENCE_S, first + AT_LEAST_S) - self._clock.monotonic()

        while left() > 0 and not self._processes.gone(node, incarnation):
            try:
                answer = bytes((await peer.call(PREVIOUS, body, deadline_s=left())).body)
            except SofsError:
                await self._clock.sleep(max(min(left(), AGAIN_S), 0))
            else:
                self._asked.pop(incarnation, None)
                return answer
        log.info("gateway_does_not_answer", node=node, waited_s=round(self._clock.monotonic() - began, 3))
        return None

    async def _fence_all(self, gateway: int, volumes: Iterable[Volume], by: Binding) -> None:
        """What takes longer goes on behind the logon: whoever comes back to an open has it fenced there once more."""
        tasks = [asyncio.get_running_loop().create_task(self._fence(gateway, volume, by)) for volume in volumes]
        for task in tasks:
            self._fencing.add(task)
            task.add_done_callback(self._fencing.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=FENCED_S)

    async def _fence(self, gateway: int, volume: Volume, by: Binding) -> None:
        try:
            await _shut_out(volume, gateway, by)
        except SofsError as error:
            log.info("gateway_not_fenced", gateway=gateway, volume=volume.name, reason=str(error) or type(error).__name__)

    async def has(self, bound: Bound, volume: Volume, by: Binding) -> Held:
        node = self._processes.where(bound.gateway)
        # Of whom nobody has heard since this process began, and who is not in the store, is gone.
        answer = None if node is None else await self._ask(node, bound.gateway, _SESSION.pack(bound.session))
        if answer is not None:
            return Held.IN_USE if answer == _THERE else Held.FREE
        await _shut_out(volume, bound.gateway, by)
        return Held.FENCED


async def _shut_out(volume: Volume, gateway: int, by: Binding) -> None:
    log.warning("gateway_fenced", gateway=gateway, volume=volume.name)
    reply = volume.call(FenceGateway(gateway), None, by)
    if not isinstance(reply, Reply):
        await reply
