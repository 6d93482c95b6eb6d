"""Every adapter of every port, as one fixture: what a contract suite says holds for each of them."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from sofs.runtime.ports import Clock, Files, Network, Random
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_network import SimulatedNetwork
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.runtime.system_network import SystemNetwork

T = TypeVar("T")


@dataclass
class Host:
    """The ports of one host, and how to run a coroutine there."""

    name: str
    root: str
    address: str
    files: Files
    clock: Clock
    random: Random
    network: Network
    run: Callable[[Coroutine[Any, Any, Any]], Any]


def _system(tmp_path: Path, loop: asyncio.AbstractEventLoop, name: str) -> Iterator[Host]:
    files = SystemFiles()
    asyncio.set_event_loop(loop)
    yield Host(name, str(tmp_path), "127.0.0.1", files, SystemClock(), SystemRandom(), SystemNetwork(), loop.run_until_complete)
    files.close()
    loop.run_until_complete(asyncio.sleep(0))
    asyncio.set_event_loop(None)
    loop.close()


def _simulated() -> Iterator[Host]:
    loop, random = SimulatedLoop(), SimulatedRandom(1)
    files = SimulatedFiles(random, miss=0.5)
    files.make_directory("/data")
    network = SimulatedNetwork(random).host("10.0.0.1")
    yield Host("simulated", "/data", "10.0.0.1", files, SimulatedClock(loop), random, network, loop.run)
    loop.close()


@pytest.fixture(params=["system", "uvloop", "simulated"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    if request.param == "system":
        yield from _system(tmp_path, asyncio.new_event_loop(), "system")
    elif request.param == "uvloop":
        yield from _system(tmp_path, uvloop.new_event_loop(), "uvloop")
    else:
        yield from _simulated()
