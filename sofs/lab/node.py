"""A node of the lab: its process, and what to do when that ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from sofs.admin.client import AdminClient
from sofs.errors import Unavailable
from sofs.lab import setup
from sofs.lab.plan import Machine
from sofs.lab.process import Child
from sofs.lab.readiness import Readiness

log = structlog.get_logger("lab")

READY_S = 90.0
"""For a node, after a kill under load, too."""


class RunningNode:
    """`data` is where its processes find its data, `seen` where others do."""

    def __init__(self, machine: Machine, data: Path, seen: Path, prefix: Sequence[str], on_end: Callable[[int], None]) -> None:
        self.machine = machine
        self.data = data
        self.seen = seen
        # Not in its data, which may be unmounted while it does not run.
        self.readiness = Readiness(data.parent, machine.name)
        self._on_end = on_end
        self.process = Child(
            machine.name,
            [*prefix, setup.program("sofsd"), "--config", str(setup.config_path(data))],
            data.parent / f"{machine.name}.log",
            environment={"NOTIFY_SOCKET": self.readiness.address},
            on_end=self._ended,
        )

    def _ended(self, status: int) -> None:
        self.readiness.forget()
        log.info("node.ended", node=self.machine.name, status=status)
        self._on_end(status)

    async def start(self) -> None:
        """Until clients can connect. Raises `Unavailable` with the end of its log."""
        self.process.start()
        await self.wait_ready()

    async def wait_ready(self) -> None:
        ready = asyncio.create_task(self.readiness.wait())
        over = asyncio.create_task(self.process.ended())
        try:
            done, _ = await asyncio.wait((ready, over), timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            over.cancel()
        if ready not in done:
            how = f"ended with status {over.result()}" if over in done else f"did not become ready within {READY_S:.0f} s"
            raise Unavailable(f"node {self.machine.name} {how}; the end of its log:\n{self.process.tail()}")

    @property
    def admin(self) -> AdminClient:
        return AdminClient(data=self.data)

    def describe(self) -> dict[str, Any]:
        ran = setup.identity(self.data)
        machine = self.machine
        return {
            "name": machine.name,
            "id": f"{ran:016x}",
            "pid": self.process.pid,
            "state": "paused" if self.process.paused else "ready" if self.readiness.ready else "running" if self.process.pid else "down",
            "smb": f"{machine.address}:{machine.smb_port}",
            "nfs": f"{machine.address}:{machine.nfs_port}",
            "admin": f"{machine.address}:{machine.admin_port}",
            "data": str(self.seen),
        }
