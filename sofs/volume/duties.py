"""Background duties, begun so that none ends unnoticed: what a bug stops would otherwise be missed only when it is needed."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog


def begin(duty: Coroutine[Any, Any, None], what: str) -> "asyncio.Task[None]":
    """Runs a duty as a task. If it ends by an error, that is logged at once, with its traceback."""
    task = asyncio.get_running_loop().create_task(duty)

    def ended(task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            structlog.get_logger(component="volume").error("duty_ended", duty=what, exc_info=error)

    task.add_done_callback(ended)
    return task
