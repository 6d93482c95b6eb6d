"""`sofs lab` as a child, and this process in its network."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from sofs.admin import api
from sofs.admin.client import AdminClient
from sofs.lab import control

SOFS = str(Path(sys.executable).with_name("sofs"))
STOP_S = 90.0
CLONE_NEWNET = 0x40000000
REPEATED = re.compile(r'^sofs_requests_repeated_total\{protocol="(\w+)"\} (\S+)$', re.MULTILINE)


Counted = dict[tuple[str, int, str], int]
"""By node, process and what counts."""


class Laboratory:
    """A running lab. `enter` puts the calling thread, and all that it starts, into its network for good."""

    def __init__(self, data: Path, nodes: int = 4, members: int = 3, images: bool = False) -> None:
        """`images`: on file systems of its own, which can lose power."""
        self.data = data
        self._command = [SOFS, "lab", "--data", str(data), "--nodes", str(nodes), "--etcd", str(members), "--netns"]
        self._command += ["--images"] if images else []
        self._process: subprocess.Popen[str] | None = None
        self.about: dict[str, Any] = {}

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / "lab.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the lab did not start:\n{(self.data / 'lab.log').read_text()[-4000:]}"
        self.about = json.loads(line)

    def enter(self) -> None:
        """Only root may."""
        libc = ctypes.CDLL(None, use_errno=True)
        space = os.open(f"/proc/{self.about['pid']}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(space, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(space)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            finally:
                self._process.kill()
                self._process.wait()
                assert self._process.stdout
                self._process.stdout.close()
                self._process = None

    # What can be done and asked; none of it blocks the loop

    async def do(self, *command: str) -> dict[str, Any]:
        said: dict[str, Any] = await asyncio.to_thread(control.ask, self.data, *command)
        return said

    @property
    def names(self) -> list[str]:
        return [node["name"] for node in self.about["nodes"]]

    @property
    def vips(self) -> list[str]:
        return list(self.about["vips"])

    def address(self, name: str) -> str:
        return next(str(node["smb"]).partition(":")[0] for node in self.about["nodes"] if node["name"] == name)

    def admin(self, name: str, timeout: float = 10.0) -> AdminClient:
        return AdminClient(data=next(Path(node["data"]) for node in self.about["nodes"] if node["name"] == name), timeout=timeout)

    async def volume(self, at: str) -> api.Volume:
        """The volume, as this node knows it."""
        volumes = await asyncio.to_thread(self.admin(at).ask, api.Operations.volumes)
        return next(volume for volume in volumes if volume.name == self.about["volume"])

    async def holders(self, at: str) -> dict[str, str]:
        """By virtual address the node that has it, as this node knows it; empty: none has."""
        return {vip.address: vip.holder for vip in await asyncio.to_thread(self.admin(at).ask, api.Operations.vips)}

    async def crowded(self, at: str) -> list[str]:
        """Virtual addresses that are not at a node of their own, as this node knows it."""
        holders = await self.holders(at)
        nodes = list(holders.values())
        return [f"{address} is at {node or 'no node'}" for address, node in holders.items() if not node or nodes.count(node) > 1]

    async def repeated(self, at: str) -> Counted:
        """How many requests this node's process has known again: its gateways, and the volume if it coordinates that."""
        admin = self.admin(at)
        status = await asyncio.to_thread(admin.ask, api.Operations.status)
        text = await asyncio.to_thread(admin.metrics)
        counted = {(at, status.pid, match[1]): int(float(match[2])) for match in REPEATED.finditer(text)}
        for volume in status.volumes:
            if volume.coordinator == at:
                again = sum(count for figure, count in volume.figures.items() if figure.startswith("again_"))
                counted[at, status.pid, f"volume {volume.name}"] = again
        return counted

    async def cluster(self, at: str) -> api.Cluster:
        return await asyncio.to_thread(self.admin(at).ask, api.Operations.cluster)
