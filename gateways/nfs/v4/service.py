"""What all connections of the NFSv4 server share."""

import asyncio
from typing import Any

from gateways.nfs.v4.table import read_operation
from sofs.volume.api import Binding

__all__ = ["Service"]


class Service:
    """The server instance of one node. `by` is this gateway's incarnation."""

    def __init__(self, by: Binding) -> None:
        self.by = by
        self.read = read_operation
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Sees to it that the task is not collected before its end."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
