"""`sofs node died`, as a service manager runs it after the node's process has ended."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.records import DeadRecord
from sofs.cluster.running import claim
from sofs.coordination import keys
from sofs.coordination.etcd import EtcdStore
from sofs.runtime.system_files import SystemFiles
from tests.contracts.etcd_server import EtcdServer
from tests.interop.running import SOFS

NODE, INCARNATION = NodeId(0x1234), Incarnation(0x5678)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path)
    server.start()
    yield server
    server.stop()


def died(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SOFS, "node", "died", "--config", str(config)], capture_output=True, text=True, timeout=60)


def recorded(server: EtcdServer) -> DeadRecord | None:
    async def ask() -> DeadRecord | None:
        store = EtcdStore([("127.0.0.1", server.port)])
        try:
            entry = await store.get(keys.dead(NODE))
            return DeadRecord.decode(entry.value) if entry else None
        finally:
            await store.close()

    return asyncio.run(ask())


def test_a_process_is_recorded_as_dead_only_when_it_has_ended(etcd: EtcdServer, tmp_path: Path) -> None:
    config = tmp_path / "node" / "sofs.toml"
    config.parent.mkdir()
    config.write_text(f"[node]\ndata_dir = 'data'\n[coordination]\nkind = 'etcd'\nendpoints = ['127.0.0.1:{etcd.port}']\n")
    data = config.parent / "data"
    data.mkdir()
    assert "nothing to record" in died(config).stdout, "nobody ever ran there"
    files = SystemFiles()
    running = claim(files, str(data), NODE, INCARNATION)
    refused = died(config)
    assert refused.returncode == 1 and "another node runs" in refused.stderr
    assert recorded(etcd) is None
    running.close()
    files.close()
    done = died(config)
    assert done.returncode == 0, done.stderr
    assert recorded(etcd) == DeadRecord(incarnation=INCARNATION, by="its service manager")
