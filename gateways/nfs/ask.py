"""Asking a volume on behalf of a call.

A handler decides; it does no I/O. It gives either the results of its procedure, or an `Ask`: a request for a volume and what
to make of the answer (results, or the next `Ask`). `perform` carries that out: at once when the volume answers at once,
which is the rule, else in a task. The results are told when the gate of all that was consulted is open.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import structlog

from gateways.nfs.rpc import Call
from sofs.errors import SofsError
from sofs.types import Level, Lsn, VolumeId
from sofs.volume.api import Binding, Reply, Request, Token, Volume

log = structlog.get_logger("nfs")


class Ask(NamedTuple):
    """A request, and what to do with its answer."""

    volume: Volume
    request: Request
    answer: Callable[[Any], "Outcome"]
    """From the reply (of the class that `request` names) to results."""


Outcome = bytes | Ask


class Performer:
    """Carries `Ask`s out for one gateway incarnation."""

    def __init__(self, by: Binding) -> None:
        self.by = by
        self.barriers: Mapping[VolumeId, asyncio.Future[None]] = {}
        """Volumes of which nothing may be asked yet, and what to wait for."""

    def held_up(self, call: Call, volume: Volume, again: Callable[[Call], None]) -> bool:
        """Whether the volume may not be asked yet: then `again` is called with the call as soon as it may. To be asked before anything is."""
        barrier = self.barriers.get(volume.id) if self.barriers else None
        if barrier is None:
            return False

        async def wait() -> None:
            await asyncio.wait([barrier])
            again(call)

        self.later(call, wait())
        return True

    def perform(self, call: Call, outcome: Outcome, token: Token | None, level: Level, fail: Callable[[SofsError], None]) -> None:
        """Takes an outcome to its end: replies to `call`, or calls `fail`, once the gate is open at `level`."""
        gate, volume = Lsn(0), None
        try:
            while isinstance(outcome, Ask):
                volume = outcome.volume
                reply = volume.call(outcome.request, token, self.by)
                if not isinstance(reply, Reply):
                    self.later(call, self._resume(call, outcome, reply, level, fail, gate))
                    return
                gate = max(gate, reply.gate)
                token = None  # only the first request changes something
                outcome = outcome.answer(reply)
        except SofsError as error:
            fail(error)
            return
        self._tell(call, outcome, volume, gate, level)

    async def _resume(
        self, call: Call, ask: Ask, reply: Reply | Awaitable[Reply], level: Level, fail: Callable[[SofsError], None], gate: Lsn
    ) -> None:
        try:
            while True:
                answered = reply if isinstance(reply, Reply) else await reply
                gate = max(gate, answered.gate)
                outcome = ask.answer(answered)
                if not isinstance(outcome, Ask):
                    break
                ask = outcome
                reply = ask.volume.call(ask.request, None, self.by)
        except SofsError as error:
            fail(error)
            return
        self._tell(call, outcome, ask.volume, gate, level)

    def later(self, call: Call, work: Any) -> None:
        """Runs a coroutine that ends by answering `call`, unless the connection ends first. A bug in it costs that client its connection."""

        async def guarded() -> None:
            try:
                await work
            except Exception:
                log.exception("call_failed", peer=call.connection.peer, procedure=call.procedure)
                call.connection.link.close("a bug of ours, see the log")

        task = asyncio.get_running_loop().create_task(guarded())
        call.connection.waiting.add(task)
        task.add_done_callback(call.connection.waiting.discard)

    @staticmethod
    def _tell(call: Call, results: bytes, volume: Volume | None, gate: Lsn, level: Level) -> None:
        if volume is None:
            call.reply(results)
        else:
            volume.when(gate, level, lambda: call.reply(results))
