"""A real volume on real files, served by both gateways: in the test's own event loop, or as a process that can be killed.

The process is `python -m tests.served_both DIR INCARNATION BOOT`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateways.exports import Share, Shares, SmbOptions
from gateways.identity import Identities, domain_sid
from gateways.nfs.gateway import NfsGateway
from gateways.smb.gateway import SmbGateway
from gateways.smb.service import SmbSettings
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.volume.volume import LocalVolume
from tests.served import OPEN, VOLUME, volume_on
from tests.served_smb import USERS

SHARES = [Share("data", 1, VOLUME, nfs=OPEN), Share("safe", 2, VOLUME, nfs=OPEN, smb=SmbOptions(continuously_available=True))]
READY_S = 30


@dataclass
class Node:
    """Where the two gateways of a node answer; in the test's own process also they themselves."""

    smb: int
    nfs: int
    smb_gateway: SmbGateway | None = None
    volume: LocalVolume | None = None

    async def settled(self) -> None:
        """Until the SMB gateway has noticed that its clients are gone."""
        assert self.smb_gateway is not None
        async with asyncio.timeout(20):
            while self.smb_gateway.service.sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def forgotten(self) -> None:
        """Until the leases of all NFSv4 clients have run out."""
        assert self.volume is not None
        async with asyncio.timeout(20):
            while self.volume.core.register.by_client:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def both_on(path: Path, incarnation: int = 1, lease_s: float = 90, boot: bytes = b"b") -> AsyncIterator[Node]:
    """The volume in `path` behind an SMB and an NFS gateway at free ports. Another `boot` means that the host has been down."""
    async with volume_on(path, lease_s, boot) as volume:
        shares = Shares(lambda number: volume if number == VOLUME else None)
        shares.replace(SHARES)
        users = Identities(domain_sid(b"tests of sofs"), USERS)
        loop, clock, random = asyncio.get_running_loop(), SystemClock(), SystemRandom()
        smb = SmbGateway(SmbSettings(), shares, users, clock, random, incarnation, loop)
        nfs = NfsGateway(
            shares, key=bytes(range(32)), incarnation=incarnation + 1000, groups=lambda uid: (), loop=loop, clock=clock, random=random, users=users,
            system=lambda: volume, lease_s=lease_s,
        )  # fmt: skip
        await nfs.load()
        try:
            yield Node(smb.listen("127.0.0.1", 0), nfs.listen("127.0.0.1", 0), smb, volume)
        finally:
            await smb.stop()
            await nfs.stop()


class Process:
    """Such a node in a process of its own, which ends by SIGKILL and in no other way."""

    def __init__(self, path: Path, incarnation: int, boot: bytes = b"b") -> None:
        command = [sys.executable, "-m", "tests.served_both", str(path), str(incarnation), boot.decode()]
        root = Path(__file__).parents[1]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
        )

    async def ready(self) -> Node:
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_S):
            line = await asyncio.to_thread(self._process.stdout.readline)
        assert line.startswith(b"ready "), line
        smb, nfs = map(int, line.split()[1:])
        return Node(smb, nfs)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


async def _main(path: Path, incarnation: int, boot: bytes) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    async with both_on(path, incarnation, boot=boot) as node:
        print(f"ready {node.smb} {node.nfs}", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()))
