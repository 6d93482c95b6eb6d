"""What an operator is told while the coordination store is down."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sofs.admin import api
from sofs.config import Config
from sofs.errors import NotFound, Unavailable
from sofs.node import Node


def test_a_volume_is_settled_on_request(tmp_path: Path) -> None:
    config = Config()
    config.node.data_dir = str(tmp_path / "data")
    disk = tmp_path / "disk"

    async def main() -> None:
        node = await Node.open(config)
        try:
            await node.operations.add_disk(api.NewDisk(str(disk)))
            await node.operations.create_volume(api.NewVolume("v"))
            data = node._host.named("v").data
            assert data is not None
            with pytest.raises(NotFound):
                await node.operations.settle_volume("w")
            before = data.cleaner._destager.destaged
            for number in range(40):
                await node.operations.create_snapshot(api.SnapshotName("v", f"s{number}"))
            end = (await node.operations.volume("v")).figures["log_end"]
            settled = await node.operations.settle_volume("v")
            assert before < end <= data.cleaner._destager.destaged
            assert settled.figures["log_behind_checkpoint_bytes"] < 1000
            await node.operations.settle_volume("v")
        finally:
            await node.close()

    asyncio.run(main())


def test_status_and_figures_need_no_coordination_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    config.node.data_dir = str(tmp_path)

    async def down(*given: Any) -> Any:
        raise Unavailable("etcd does not answer")

    async def main() -> None:
        node = await Node.open(config)
        try:
            with monkeypatch.context() as patched:
                for name in ("get", "range", "transact"):
                    patched.setattr(node._store, name, down)
                assert (await node.operations.status()).shares == []
                assert b"sofs_uptime_seconds" in await node.operations.metrics()
                with pytest.raises(Unavailable):
                    await node.operations.shares()
        finally:
            await node.close()

    asyncio.run(main())
