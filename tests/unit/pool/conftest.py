"""The pool's tests run on real files and on simulated ones."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sofs.runtime.ports import Files, Random
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedLoop, SimulatedRandom
from sofs.runtime.system_clock import SystemRandom
from sofs.runtime.system_files import SystemFiles


@dataclass
class Host:
    """Where a test's pool lives, and how to run its coroutines."""

    root: str
    files: Files
    random: Random
    run: Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["system", "simulated"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    if request.param == "system":
        files = SystemFiles(threads=2)
        yield Host(str(tmp_path), files, SystemRandom(), asyncio.run)
        files.close()
    else:
        loop, random = SimulatedLoop(), SimulatedRandom(1)
        simulated = SimulatedFiles(random, miss=0.5)
        simulated.make_directory("/data")
        yield Host("/data", simulated, random, loop.run)
        loop.close()
