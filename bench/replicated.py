"""`python -m bench.replicated [--seconds 3] [--quick]`: what a replicated write costs, all daemons counted, and what etcd has to do with it.

Three nodes and an etcd of one member on the loopback, nodes talking over TLS; a volume with one, two and three copies on distinct hosts, each
coordinated by the node to which the client connects (or, in the rows marked so, by another, to which it forwards). Volumes are made at different nodes, so
that none is moved for balance' sake meanwhile. Prints JSON lines: the client's view, and CPU microseconds per operation of all nodes together, less what
they use when nothing is asked of them. What is put off (checkpoints, destaging) is waited for and counted as in `make bench`; what the kernel's workers do
for syncs is not, here as there. `wake_ups` are the nodes' per operation; `others` is how much of the machine something else used; and before and after
everything a byte is passed to and fro between two processes, which tells how dear a wake-up is at the moment (7 us of CPU here).

The last lines tell the requests that etcd got in all that time beyond those of as much time without load, per 10,000 operations and by kind, and a table
with the peers' figures from the same kind of measure (their CPU per operation, two replicas).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import tempfile
import time
import urllib.request
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from bench.driver import Worker, drive
from bench.nfs import NfsFiles
from bench.servers import busy_s, tree_s
from bench.smb import Protection, SmbFiles
from bench.workloads import Scene, create_extra, prepare, random_write, random_write_stable, random_write_sync
from sofs.admin import api
from tests.contracts.etcd_server import EtcdServer, free_ports
from tests.elastic import PASSWORD, USER, Member, sofs

SIZE = 32 << 20
DISK_GIB = 6.0
SETTLE_S = 10.0
COPIES_S = 60.0
IDLE_S = 20.0
POLICIES = {1: "simple", 2: "mirror(2) across host", 3: "mirror(3) across host"}
FORWARDED = "2-elsewhere"
"""The volume of two copies to which the client comes by another node."""
HOMES = {"1": 0, "2": 1, "3": 2, FORWARDED: 1}
"""Which node coordinates each. The first has the system volume besides: so no node has two more than another."""
PEERS = {
    ("smb", "random write 4 KiB"): "Gluster 1,067-1,082",
    ("nfs", "random write 4 KiB"): "Gluster 622-663",
    ("smb", "random write 4 KiB + fsync"): "Gluster 2,455-2,613, Ceph 2,333-3,188",
    ("nfs", "random write 4 KiB + fsync"): "Gluster 1,176-1,242, Ceph 1,353-3,111",
    ("smb", "create+write 4 KiB+close"): "Gluster 9,853, Ceph 9,804",
    ("nfs", "create+write 4 KiB+close"): "Gluster 4,349, Ceph 6,343",
}


class Row(NamedTuple):
    name: str
    depth: int
    worker: Any


ROWS = (
    Row("random write 4 KiB", 1, random_write),
    Row("random write 4 KiB", 16, random_write),
    Row("random write 4 KiB + fsync", 1, random_write_sync),
    Row("random write 4 KiB + fsync", 16, random_write_sync),
    Row("random write 4 KiB stable", 1, random_write_stable),
    Row("random write 4 KiB stable", 16, random_write_stable),
    Row("create+write 4 KiB+close", 1, create_extra),
)


class Cluster:
    """Three nodes with a volume for each number of copies."""

    def __init__(self, directory: Path) -> None:
        smb, nfs, *interconnect = free_ports(5)
        self.smb, self.nfs = smb, nfs
        self.nodes = [Member(directory / f"n{number}", f"127.77.{directory.stat().st_ino % 250 + 1}.{number}", smb, nfs) for number in (1, 2, 3)]
        self._places = [f"{node.address}:{port}" for node, port in zip(self.nodes, interconnect, strict=True)]
        (directory / "etcd").mkdir()
        self.etcd = EtcdServer(directory / "etcd")

    async def start(self) -> None:
        self.etcd.start()
        first = self.nodes[0]
        where = ("--etcd", f"127.0.0.1:{self.etcd.port}", "--address", self._places[0], "--name", first.name)
        await sofs("cluster", "init", "--data", first.data, *where)
        token = (await sofs("cluster", "token", "--data", first.data, "--reusable"))["token"]
        for node, place in zip(self.nodes[1:], self._places[1:], strict=True):
            await sofs("cluster", "join", token, "--data", node.data, "--address", place, "--name", node.name)
        for node in self.nodes:
            await node.start()
        await sofs("pool", "create", "bench", "--data", first.data)
        for node in self.nodes:
            await sofs("disk", "add", "--data", node.data, node.data / "disks" / "bench", "--pool", "bench", "--size-gib", DISK_GIB)
        for name, policy in [*((str(copies), policy) for copies, policy in POLICIES.items()), (FORWARDED, POLICIES[2])]:
            await sofs("volume", "create", f"v{name}", "--data", self.nodes[HOMES[name]].data, "--pool", "bench", "--policy", policy)
            first.admin.ask(api.Operations.create_share, api.Share(name=f"s{name}", volume=f"v{name}", squash="none"))

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        self.etcd.stop()

    def cpu_s(self) -> float:
        return sum(tree_s(node.pid) for node in self.nodes)

    def wake_ups(self) -> int:
        """How often the nodes' threads have waited for something."""
        found = 0
        for node in self.nodes:
            for status in Path(f"/proc/{node.pid}/task").glob("*/status"):
                found += int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)$", status.read_text(), re.MULTILINE)[0])
        return found

    def _wrong(self) -> list[str]:
        """The volumes that are not where the rows say that they are, or have not as many copies."""
        volumes = self.nodes[0].admin.ask(api.Operations.volumes)
        found = {volume.name: (volume.coordinator, sum(replica.in_sync for replica in volume.replicas)) for volume in volumes}
        wanted = {f"v{name}": (self.nodes[home].name, int(name[0])) for name, home in HOMES.items()}
        return [f"{name} at {found[name]} instead of {each}" for name, each in wanted.items() if found[name] != each]

    async def settle(self) -> None:
        """Until all volumes have their copies."""
        until = time.monotonic() + COPIES_S
        while self._wrong():
            assert time.monotonic() < until, self._wrong()
            await asyncio.sleep(0.2)

    def check(self) -> None:
        wrong = self._wrong()
        assert not wrong, f"coordinator and copies: {wrong}"

    def etcd_requests(self) -> Counter[str]:
        """All that it has been asked, by whomever, by kind; what comes over a stream counts, too."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.etcd.port}/metrics") as answer:
            text = answer.read().decode()
        found: Counter[str] = Counter()
        for kind, number in re.findall(r'^grpc_server_msg_received_total\{.*grpc_method="(\w+)".*\} (\S+)$', text, re.MULTILINE):
            found[kind] += int(float(number))
        return found

    def files(self, protocol: str, name: str, node: Member) -> NfsFiles | SmbFiles:
        if protocol == "smb":
            return SmbFiles(node.address, self.smb, USER, PASSWORD, f"s{name}", "smb", Protection.SIGNED)
        return NfsFiles(node.address, self.nfs, self.nfs, f"/s{name}")


class Bench:
    def __init__(self, cluster: Cluster, seconds: float) -> None:
        self._cluster = cluster
        self._seconds = seconds
        self.operations = 0
        self.loaded_s = 0.0
        self.loaded_requests: Counter[str] = Counter()
        self.idle_requests: Counter[str] = Counter()
        self.idle_cpu = 0.0
        self.rows: list[dict[str, Any]] = []

    def rest(self) -> None:
        """What the nodes do when nothing is asked of them, per second."""
        cpu, requests = self._cluster.cpu_s(), self._cluster.etcd_requests()
        time.sleep(IDLE_S)
        self.idle_cpu = (self._cluster.cpu_s() - cpu) / IDLE_S
        self.idle_requests = self._cluster.etcd_requests() - requests
        each = {kind: round(number / IDLE_S, 2) for kind, number in self.idle_requests.items()}
        print(json.dumps({"idle": True, "cpu_ms_per_s": round(1e3 * self.idle_cpu, 1), "etcd_requests_per_s": each}), flush=True)

    def share(self, protocol: str, copies: int, forwarded: bool) -> None:
        name = FORWARDED if forwarded else str(copies)
        node = self._cluster.nodes[0 if forwarded else HOMES[name]]
        scene = Scene(self._cluster.files(protocol, name, node), SIZE, 0)
        self._drive(scene, prepare(scene), 1, 300.0)
        self._settle()
        for row in ROWS:
            self._row(scene, row, copies, forwarded)
        self._cluster.check()

    def _drive(self, scene: Scene, worker: Worker, depth: int, seconds: float, more: Any = None) -> Any:
        channel = scene.files.channel()
        workers = [(0, worker)] + [(0, more(scene)) for _ in range(depth - 1)]
        try:
            return drive([channel], workers, seconds)
        finally:
            channel.sock.close()

    def _row(self, scene: Scene, row: Row, copies: int, forwarded: bool) -> None:
        scene.taken = count()
        cpu, requests, began = self._cluster.cpu_s(), self._cluster.etcd_requests(), time.monotonic()
        waits, busy, own = self._cluster.wake_ups(), busy_s() - cpu, time.process_time()
        figures = self._drive(scene, row.worker(scene), row.depth, self._seconds, row.worker)
        waits = self._cluster.wake_ups() - waits
        others = busy_s() - self._cluster.cpu_s() - busy - (time.process_time() - own)
        loaded = time.monotonic() - began
        self._settle()
        elapsed = time.monotonic() - began
        used = self._cluster.cpu_s() - cpu - elapsed * self.idle_cpu
        self.operations += figures.operations
        self.loaded_s += elapsed
        self.loaded_requests += self._cluster.etcd_requests() - requests
        found = {
            "workload": row.name,
            "depth": row.depth,
            "protocol": scene.files.protocol,
            "copies": copies,
            "forwarded": forwarded,
            "ops_s": round(figures.rate, 1),
            "p50_us": round(figures.p50_us),
            "p99_us": round(figures.p99_us),
            "cpu_us": round(1e6 * used / figures.operations, 1),
            "wake_ups": round(waits / figures.operations, 1),
            "others": f"{max(0.0, others) / loaded / (os.cpu_count() or 1):.0%}",
        }
        self.rows.append(found)
        print(json.dumps(found), flush=True)

    def _settle(self) -> None:
        """Until the nodes do hardly more than at rest."""
        deadline = time.monotonic() + SETTLE_S
        before = self._cluster.cpu_s()
        while time.monotonic() < deadline:
            time.sleep(1.0)
            now = self._cluster.cpu_s()
            if now - before < self.idle_cpu + 0.02:
                return
            before = now

    def report(self) -> None:
        each = 1e4 / max(1, self.operations)
        more = {
            kind: round(each * (self.loaded_requests[kind] - self.loaded_s * self.idle_requests[kind] / IDLE_S), 3)
            for kind in self.loaded_requests | self.idle_requests
        }
        print(json.dumps({"operations": self.operations, "etcd_requests_per_10000": round(sum(more.values()), 3), "by_kind": more}))
        print(f"{'CPU us per operation, all nodes':44} {'1 copy':>8} {'2':>8} {'3':>8}   peers, two replicas")
        for protocol in ("nfs", "smb"):
            for row in ROWS:
                for forwarded in (False, True):
                    cells = [self._cell(protocol, row, copies, forwarded) for copies in POLICIES]
                    if any(cells):
                        title = f"{protocol} {row.name} x{row.depth}{', forwarded' if forwarded else ''}"
                        peers = "" if forwarded else PEERS.get((protocol, row.name), "")
                        print(f"{title:44} " + " ".join(f"{cell:>8}" for cell in cells) + f"   {peers}")

    def _cell(self, protocol: str, row: Row, copies: int, forwarded: bool) -> str:
        wanted = (row.name, row.depth, protocol, copies, forwarded)
        for found in self.rows:
            if (found["workload"], found["depth"], found["protocol"], found["copies"], found["forwarded"]) == wanted:
                return str(round(found["cpu_us"]))
        return ""


def exchange_us() -> float:
    """CPU of one process that answers a byte, over the loopback, each time it gets one."""
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if not child:
        there = listener.accept()[0]
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while there.recv(1):
            there.send(b"x")
        os._exit(0)
    with socket.create_connection(listener.getsockname()) as here:
        here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(20_000):
            here.send(b"x")
            here.recv(1)
    listener.close()
    used = os.wait4(child, 0)[2]
    return 1e6 * (used.ru_utime + used.ru_stime) / 20_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.replicated")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each row")
    parser.add_argument("--protocols", default="nfs,smb")
    parser.add_argument("--quick", action="store_true", help="two copies only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sofs-replicated-", dir="/var/tmp") as directory:
        asyncio.run(measure(Path(directory), options.seconds, options.protocols.split(","), (2,) if options.quick else tuple(POLICIES)))


async def measure(directory: Path, seconds: float, protocols: list[str], copies: tuple[int, ...]) -> None:
    """The load is no coroutine: the loop, which holds the processes, stands still meanwhile."""
    cluster = Cluster(directory)
    try:
        await cluster.start()
        bench = Bench(cluster, seconds)
        await cluster.settle()
        print(json.dumps({"exchange_us": round(exchange_us(), 1), "load": os.getloadavg()}), flush=True)
        bench.rest()
        for protocol in protocols:
            for each in copies:
                bench.share(protocol, each, False)
            bench.share(protocol, 2, True)
        print(json.dumps({"exchange_us": round(exchange_us(), 1), "load": os.getloadavg()}), flush=True)
        bench.report()
    finally:
        cluster.stop()
        await asyncio.sleep(0.5)  # the loop takes notice of the processes' ends


if __name__ == "__main__":
    main()
