"""CPU of all processes for one record of 4 KiB in a replicated log, on real sockets and files: `python -m bench.replicated_log DIRECTORY`.

The coordinator is this process, each standby one of its own; nothing lies above the log, and there is no TLS. One line for each number of
replicas, level and depth: microseconds a record, over all processes and for each.
"""

import asyncio
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.log.configuration import BEGINNING, Configuration, LogSettings
from sofs.log.follower import Follower
from sofs.log.remote import RemoteReplica
from sofs.log.replica import LocalReplica
from sofs.log.replicated import ReplicatedLog
from sofs.log.service import LogService
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.runtime.system_network import SystemNetwork
from sofs.types import Level, Lsn

SETTINGS = LogSettings(64 << 20, 4 << 30)
RUNS = ((Level.COMMITTED, 1, 4000), (Level.COMMITTED, 16, 1000), (Level.STABLE, 1, 1000), (Level.STABLE, 16, 300))
"""Level, depth, records for each of these hands."""
TRIES = 3


class Nothing:
    """A machine that does nothing."""

    def apply(self, lsn: Lsn, operations: bytes, address: int) -> None: ...

    def truncate(self, to: Lsn) -> None: ...


def _ports(count: int) -> dict[int, int]:
    """By node, a port that is free now."""
    found = {}
    for node in range(1, count + 1):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            found[node] = probe.getsockname()[1]
    return found


async def _open(node: int, ports: dict[int, int], directory: Path) -> tuple[NetworkInterconnect, LocalReplica]:
    net = NetworkInterconnect(
        SystemClock(),
        SystemRandom(),
        SystemNetwork(),
        (NodeId(node), Incarnation(node)),
        lambda other: [("127.0.0.1", ports[other])] if other in ports else [],
    )
    await net.listen("127.0.0.1", ports[node])
    path = directory / f"{len(ports)}-{node}"
    path.mkdir()
    replica = LocalReplica(SystemFiles(), str(path), 1, node, SETTINGS.segment_size)
    for index in range(3):
        replica.prepare(index)
    return net, replica


def _standby(node: int, ports: dict[int, int], directory: Path, pipe: Connection) -> None:
    """A process that follows, and says how much CPU it has used whenever it is asked."""

    async def follow() -> None:
        net, replica = await _open(node, ports, directory)
        configuration = Configuration(1, tuple(ports))

        async def read() -> Configuration:
            return configuration

        follower = Follower(
            SystemClock(),
            replica,
            Nothing(),
            configuration=configuration,
            end=BEGINNING,
            stable=BEGINNING,
            tail=(),
            checkpoint=BEGINNING,
            whole=True,
            settings=SETTINGS,
            read_configuration=read,
        )
        LogService(net).add(follower)
        ended = asyncio.Event()

        def asked() -> None:
            if pipe.recv() == "end":
                ended.set()
            else:
                follower.checkpoint = follower.mark  # so that it trims
                pipe.send(time.process_time())

        asyncio.get_running_loop().add_reader(pipe.fileno(), asked)
        pipe.send("ready")
        await ended.wait()
        await net.close()

    uvloop.install()
    asyncio.run(follow())


class Standbys:
    def __init__(self, ports: dict[int, int], directory: Path) -> None:
        self.processes, self.pipes = [], []
        for node in list(ports)[1:]:
            near, far = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(target=_standby, args=(node, ports, directory, far))
            process.start()
            near.recv()
            self.processes.append(process)
            self.pipes.append(near)

    def cpu(self) -> list[float]:
        """Seconds, of this process and of each standby."""
        for pipe in self.pipes:
            pipe.send("cpu")
        return [time.process_time(), *(pipe.recv() for pipe in self.pipes)]

    def end(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send("end")
            process.join()


async def _hand(log: ReplicatedLog, records: int, level: Level, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(records):
        done = loop.create_future()
        log.when(log.append(data[:60], [data]), level, lambda done=done: done.set_result(None))  # type: ignore[misc]
        await done


async def _measure(count: int, directory: Path) -> None:
    ports = _ports(count)
    standbys = Standbys(ports, directory)
    net, replica = await _open(1, ports, directory)
    clock, data = SystemClock(), os.urandom(4096)

    async def change(configuration: Configuration) -> None:
        raise AssertionError(f"a standby was lost: {configuration}")

    remotes = [RemoteReplica(net.peer(NodeId(node)), clock, node, f"node {node}", SETTINGS) for node in list(ports)[1:]]
    log = ReplicatedLog(clock, Nothing(), [replica], Configuration(1, tuple(ports)), change, BEGINNING, BEGINNING.lsn, SETTINGS, remotes)
    await log.establish()
    for level, depth, records in RUNS:
        best: Sequence[float] = ()
        for _ in range(TRIES):
            log.trim(log.stable)
            before = standbys.cpu()
            await asyncio.gather(*(_hand(log, records, level, data) for _ in range(depth)))
            used = [(now - then) / records / depth * 1e6 for then, now in zip(before, standbys.cpu(), strict=True)]
            best = used if not best or sum(used) < sum(best) else best
        each = ", ".join(f"{one:.1f}" for one in best)
        print(f"{count} replicas, {level.name.lower()}, depth {depth}: {sum(best):.1f} us a record ({each})", flush=True)
    await log.close()
    await net.close()
    standbys.end()


def main() -> None:
    uvloop.install()
    for count in (1, 2, 3):
        asyncio.run(_measure(count, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
