"""How the SMB gateways of a cluster deal with each other: sessions that end elsewhere, and gateways that are gone (`gateways.smb.neighbours`)."""

import asyncio
import struct
from collections.abc import Iterable
from typing import Protocol

import structlog

from sofs.cluster import Answer, Asked, Interconnect, NodeId
from sofs.errors import SofsError
from sofs.processes import Processes
from sofs.volume.api import Binding, FenceGateway, Reply, Volume

__all__ = ["Neighbours"]

log = structlog.get_logger("smb")

PREVIOUS = "smb.previous"
"""The interconnect's service."""
PATIENCE_S = 3.0
"""What a logon waits for the end of its client's former session."""
_SESSION = struct.Struct(">Q")


class Gateway(Protocol):
    """`gateways.smb.gateway.SmbGateway`, as far as others ask something of it."""

    def end_session(self, number: int, user: str) -> None: ...


class Neighbours:
    """The others, as one node's SMB gateway knows them."""

    def __init__(self, processes: Processes, interconnect: Interconnect) -> None:
        self._processes = processes
        self._interconnect = interconnect
        self._fencing: set[asyncio.Task[None]] = set()

    def serve(self, gateway: Gateway) -> None:
        """Does for others from now on what is asked of `gateway`."""

        def end(asked: Asked) -> Answer:
            (number,) = _SESSION.unpack_from(asked.body)
            gateway.end_session(number, bytes(asked.body[_SESSION.size :]).decode("utf-8", "surrogatepass"))
            return Answer(b"")

        self._interconnect.serve(PREVIOUS, end)

    async def end_session(self, number: int, user: str, volumes: Iterable[Volume], by: Binding) -> None:
        found = self._processes.node_of(number >> 32)
        if found is None or found == self._processes.me:
            return
        node, incarnation = found
        if not self._processes.gone(node, incarnation):
            body = _SESSION.pack(number) + user.encode("utf-8", "surrogatepass")
            try:
                await self._interconnect.peer(NodeId(node)).call(PREVIOUS, body, deadline_s=PATIENCE_S)
                return
            except SofsError as error:
                log.info("previous_session_not_ended", node=node, reason=str(error) or type(error).__name__)
        if self._processes.gone(node, incarnation):
            await self._fence_all(incarnation, volumes, by)

    async def _fence_all(self, gateway: int, volumes: Iterable[Volume], by: Binding) -> None:
        """What takes longer goes on behind the logon: whoever comes back to an open has it fenced there once more."""
        tasks = [asyncio.get_running_loop().create_task(self._fence(gateway, volume, by)) for volume in volumes]
        for task in tasks:
            self._fencing.add(task)
            task.add_done_callback(self._fencing.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE_S)

    async def _fence(self, gateway: int, volume: Volume, by: Binding) -> None:
        try:
            await _ask(volume, gateway, by)
        except SofsError as error:
            log.info("gateway_not_fenced", gateway=gateway, volume=volume.name, reason=str(error) or type(error).__name__)

    async def shut_out(self, gateway: int, volume: Volume, by: Binding) -> bool:
        node = self._processes.where(gateway)
        # Of whom nobody has heard since this process began, and who is not in the store, is gone.
        if node is not None and not self._processes.gone(node, gateway):
            return False
        await _ask(volume, gateway, by)
        return True


async def _ask(volume: Volume, gateway: int, by: Binding) -> None:
    log.warning("gateway_fenced", gateway=gateway, volume=volume.name)
    reply = volume.call(FenceGateway(gateway), None, by)
    if not isinstance(reply, Reply):
        await reply
