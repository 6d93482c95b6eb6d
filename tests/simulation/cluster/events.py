"""What nodes log, in a simulation: an error that nobody foresaw is a violation, everything else is for whoever replays a seed aloud."""

import asyncio
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from sofs.runtime.simulated_loop import SimulatedLoop
from sofs.runtime.simulated_process import CURRENT

__all__ = ["listen"]


def listen(loud: bool = False) -> None:
    """Has whatever nodes log come here."""
    structlog.configure(
        processors=[_judged, _shown if loud else _dropped],
        wrapper_class=structlog.make_filtering_bound_logger(0 if loud else 30),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )


def _judged(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Logging with a traceback says that a bug was survived: none is to be survived here. Nor does any node send what another cannot read."""
    process = CURRENT.get()
    if (event.get("exc_info") or event["event"] == "cluster.peer_error") and not (process is not None and process.ended):
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        error = sys.exc_info()[1] if event.get("exc_info") else None
        loop.failures.append(error if isinstance(error, Exception) else AssertionError(f"{event}"))
    return event


def _dropped(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    raise structlog.DropEvent


def _shown(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    process = CURRENT.get()
    now = asyncio.get_running_loop().time()
    fields = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("event", "exc_info"))
    return f"{now:12.6f} {process.name if process else '':8} [{method}] {event['event']} {fields}"
