"""What an operator is told while the coordination store is down."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sofs.config import Config
from sofs.errors import Unavailable
from sofs.node import Node


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
