"""The lab's etcd: one member or three, on their own addresses."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from sofs.coordination.etcd import EtcdStore
from sofs.errors import ConfigError, SofsError, Unavailable
from sofs.lab.plan import Member

READY_S = 60.0


def binary() -> str:
    """Raises `ConfigError`, saying how to get it."""
    found = shutil.which("etcd")
    if found is None:
        raise ConfigError("a lab needs etcd: `apt-get install etcd-server` (Debian, Ubuntu), or put the binary of a release from etcd.io into PATH")
    return found


def command(member: Member, members: Sequence[Member], data: Path, synced: bool) -> list[str]:
    """What runs this member; the same at every start. Unless it is `synced` it survives no loss of power."""
    return [
        binary(), f"--name={member.name}", f"--data-dir={data}",
        f"--listen-client-urls=http://{member.client}", f"--advertise-client-urls=http://{member.client}",
        f"--listen-peer-urls=http://{member.peer}", f"--initial-advertise-peer-urls=http://{member.peer}",
        "--initial-cluster=" + ",".join(f"{each.name}=http://{each.peer}" for each in members),
        "--heartbeat-interval=100", "--election-timeout=1000", "--logger=zap", "--log-outputs=stderr", "--log-level=warn",
        # No kill takes what the kernel has.
        *([] if synced else ["--unsafe-no-fsync"]),
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {"ETCD_UNSUPPORTED_ARCH": os.uname().machine} if os.uname().machine not in ("x86_64", "amd64") else {}


async def answering(store: EtcdStore) -> None:
    """Waits until a majority answers. Raises `Unavailable`."""
    try:
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    await store.get("lab")
                    return
                except SofsError:
                    await asyncio.sleep(0.1)
    except TimeoutError:
        raise Unavailable(f"etcd did not become ready within {READY_S:.0f} s; its log is in the lab's directory") from None
