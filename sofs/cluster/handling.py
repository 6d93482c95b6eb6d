"""How a service's handler is asked, whoever calls, and what becomes of what it answers or raises."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from sofs.cluster import Answer, Asked, Handler, Outcome, Then
from sofs.errors import NotSupported, PeerError, SofsError, Unavailable
from sofs.runtime.later import Later

log = structlog.get_logger("cluster")


class Services(dict[bytes, Handler]):
    """A node's, by name."""

    complete = True
    """Else the node is starting, and some are not there yet."""


def ask_handler(services: Services, name: bytes, asked: Asked) -> Outcome | Later[Answer] | Awaitable[Answer]:
    """What the handler answers, at once or later. Raises `PeerError` only."""
    handler = services.get(name)
    if handler is None:
        if not services.complete:
            return Unavailable("the node is starting")
        return NotSupported(f"no service {name.decode(errors='replace')!r} on this node")
    try:
        return handler(asked)
    except SofsError as error:
        return error
    except PeerError:
        raise
    except Exception:
        return _blunder(name)


def outcome_of(name: bytes, future: "asyncio.Future[Answer]") -> Outcome:
    """What a handler that has waited answers in the end. Raises `PeerError` only."""
    try:
        return future.result()
    except asyncio.CancelledError:
        return Unavailable("the node is stopping")
    except SofsError as error:
        return error
    except PeerError:
        raise
    except Exception:
        return _blunder(name)


def tell(then: Then, outcome: Outcome) -> None:
    """Calls whoever has asked. A mistake of theirs is logged, and nobody else's business."""
    try:
        then(outcome)
    except Exception:
        log.exception("cluster.answer_failed")


def _blunder(name: bytes) -> SofsError:
    """To be called where an exception is handled."""
    log.exception("cluster.handler_failed", service=name.decode(errors="replace"))
    return Unavailable("an error of the node's own; its log has the details")


class Waiting:
    """Handlers that wait, so that they can be given up together."""

    def __init__(self) -> None:
        self.count = 0
        self._tasks: set[asyncio.Future[Answer]] = set()

    def add(self, outcome: Awaitable[Answer], done: Callable[["asyncio.Future[Answer]"], None]) -> None:
        self.count += 1
        future = asyncio.ensure_future(outcome)
        if future is not outcome:
            self._tasks.add(future)  # a task of ours, which nobody else would cancel

        def finished(future: "asyncio.Future[Answer]") -> None:
            self.count -= 1
            self._tasks.discard(future)
            done(future)

        future.add_done_callback(finished)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
