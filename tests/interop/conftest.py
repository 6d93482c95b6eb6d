"""Nodes and files for the tests with real clients."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.running import RunningNode


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One node for a module's tests; each test uses names of its own."""
    home = tmp_path_factory.mktemp("node")
    with RunningNode(home / "data") as running:
        yield running
    shutil.rmtree(home / "data")  # what stays would fill the disk over many runs


@pytest.fixture
def fresh_node(tmp_path: Path) -> Iterator[RunningNode]:
    """A node that a test may stop, kill and start; not yet started."""
    running = RunningNode(tmp_path / "data")
    yield running
    if running._process is not None:
        running.kill()
    shutil.rmtree(tmp_path / "data", ignore_errors=True)


def write_random(path: Path, mib: int, seed: int = 1) -> None:
    """A file no block of which repeats."""
    block = random.Random(seed).randbytes((1 << 20) - 8)
    with path.open("wb") as file:
        for number in range(mib):
            file.write(number.to_bytes(8, "big") + block)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
