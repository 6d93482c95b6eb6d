"""A real volume on real files, served by the SMB gateway: in the test's own event loop, or as a process (`python -m tests.served_smb DIR PORT`)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateways.exports import Share, Shares, SmbOptions
from gateways.identity import Identities, User, domain_sid
from gateways.smb.gateway import SmbGateway
from gateways.smb.service import SmbSettings
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.volume.volume import LocalVolume
from tests.served import VOLUME, volume_on

USERS = [User.new("alice", "secret", 1000, 1000, (1500,)), User.new("bob", "hidden", 1001, 1001), User.new("root", "wheel", 0, 0)]
SHARES = [
    Share("data", 1, VOLUME, comment="what tests write"),
    Share("sealed", 2, VOLUME, smb=SmbOptions(encrypt=True)),
    Share("fixed", 3, VOLUME, read_only=True),
    Share("safe", 4, VOLUME, smb=SmbOptions(continuously_available=True)),
    Share("onlynfs", 5, VOLUME, smb=SmbOptions(enabled=False)),
]


@dataclass
class Served:
    volume: LocalVolume
    shares: Shares
    gateway: SmbGateway
    port: int


@asynccontextmanager
async def smb_on(
    path: Path, settings: SmbSettings = SmbSettings(), shares: Sequence[Share] = SHARES, port: int = 0, incarnation: int = 1
) -> AsyncIterator[Served]:
    """The volume in `path` behind an SMB gateway, by default at a free port."""
    async with volume_on(path) as volume:
        offered = Shares(lambda number: volume if number == VOLUME else None)
        offered.replace(shares)
        identities = Identities(domain_sid(b"tests of sofs"), USERS)
        loop = asyncio.get_running_loop()
        gateway = SmbGateway(settings, offered, identities, SystemClock(), SystemRandom(), incarnation, loop)
        bound = gateway.listen("127.0.0.1", port)
        try:
            yield Served(volume, offered, gateway, bound)
        finally:
            await gateway.stop()


async def _main(path: Path, port: int) -> None:
    async with smb_on(path, port=port) as served:
        print(f"ready: smb://127.0.0.1:{served.port}/data", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
