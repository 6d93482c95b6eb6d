"""`python -m bench [--quick]`: see the package's chapter."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from bench.driver import Figures, drive
from bench.servers import PROTOCOLS, Ganesha, Samba, Server, Sofs, busy_s
from bench.workloads import WORKLOADS, Scene, Workload, prepare

INSIDE = "SOFS_BENCH_INSIDE"
SETTLE_S = 8.0
"""Longest wait for work that a server has put off."""
NOISE = 0.25
"""CPUs' worth of somebody else's work during a run from which on its figures are marked."""


class Options(argparse.Namespace):
    quick: bool
    seconds: float
    rounds: int
    size_mib: int
    names: int
    only: str
    protocols: str
    servers: str
    data: Path


def options() -> Options:
    parser = argparse.ArgumentParser(prog="make bench", description="sofs beside Samba and NFS-Ganesha, in one run")
    parser.add_argument("--quick", action="store_true", help="about five minutes instead of fifteen; figures are rougher")
    parser.add_argument("--seconds", type=float, help="per run (2; quick: 1)")
    parser.add_argument("--rounds", type=int, help="runs per cell, of which the median counts (3; quick: 1)")
    parser.add_argument("--size-mib", type=int, help="of each large file (256; quick: 64)")
    parser.add_argument("--names", type=int, help="files of the large directory (10000; quick: 2000)")
    parser.add_argument("--only", default="", help="workloads whose title contains this")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="of %(default)s; sealed and plain SMB have rows of data in bulk only")
    parser.add_argument("--servers", default="samba,ganesha,sofs")
    parser.add_argument("--data", type=Path, default=Path("/var/tmp"), help="a directory of the file system that all use")
    chosen = parser.parse_args(namespace=Options())
    chosen.seconds = chosen.seconds or (1.0 if chosen.quick else 2.0)
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 3)
    chosen.size_mib = chosen.size_mib or (64 if chosen.quick else 256)
    chosen.names = chosen.names or (2000 if chosen.quick else 10_000)
    return chosen


def enter_namespace() -> None:
    """Goes on in namespaces of its own: rpcbind can run there, and whatever is started ends with it."""
    if os.geteuid() != 0:
        sys.exit("make bench needs root: NFS-Ganesha opens files by handle, and rpcbind and smbd want it too")
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m", "bench", *sys.argv[1:]]
    sys.exit(subprocess.run(command, env={**os.environ, INSIDE: "1"}).returncode)


def prepare_namespace() -> None:
    for command in ("ip link set lo up", "mount -t tmpfs none /run", "rpcbind -w"):
        subprocess.run(command.split(), check=True)


class Cell:
    """One workload at one server."""

    def __init__(self, server: Server, scene: Scene, workload: Workload, seconds: float) -> None:
        scene.taken = count()
        files = scene.files
        channels = [files.channel() for _ in range(workload.connections)]
        workers = [(index, workload.worker(scene)) for index in range(workload.connections) for _ in range(workload.depth)]
        busy, client, cpu = busy_s(), time.process_time(), server.cpu_s()
        self.figures: Figures = drive(channels, workers, 300.0 if workload.whole else seconds)
        client = time.process_time() - client
        used = server.cpu_s() - cpu
        self.noise = max(busy_s() - busy - client - used, 0.0) / self.figures.seconds
        self.client_us = client / self.figures.operations * 1e6
        settled = settle(server, cpu) if workload.writes else used
        for channel in channels:
            channel.sock.close()
        self.later_us = in_place(server) / self.figures.operations * 1e6 if workload.writes else 0.0
        self.cpu_us = settled / self.figures.operations * 1e6
        self.cpu_at_once_us = used / self.figures.operations * 1e6

    def row(self, server: Server, scene: Scene, workload: Workload) -> dict[str, Any]:
        return {
            "workload": workload.name,
            "connections": workload.connections,
            "depth": workload.depth,
            "protocol": scene.files.protocol,
            "dialect": scene.files.label,
            "server": server.name,
            "operations": self.figures.operations,
            "ops_s": round(self.figures.rate, 1),
            "p50_us": round(self.figures.p50_us),
            "p99_us": round(self.figures.p99_us),
            "cpu_us": round(self.cpu_us, 1),
            "cpu_at_once_us": round(self.cpu_at_once_us, 1),
            "later_us": round(self.later_us, 1),
            "client_us": round(self.client_us, 1),
            "noise": round(self.noise, 2),
        }


def settle(server: Server, since: float) -> float:
    """Waits until the server is idle; its CPU time since then."""
    deadline = time.monotonic() + SETTLE_S
    before = server.cpu_s()
    while time.monotonic() < deadline:
        time.sleep(0.7)
        now = server.cpu_s()
        if now - before < 0.02:
            return now - since
        before = now
    return server.cpu_s() - since


def in_place(server: Server) -> float:
    """Has what was written put in its place; the CPU time that this takes."""
    before = server.cpu_s()
    server.put_in_place()
    return server.cpu_s() - before


class Bench:
    """All cells, and the table at the end."""

    def __init__(self, chosen: Options, home: Path) -> None:
        self._chosen = chosen
        kinds: dict[str, Callable[[Path], Server]] = {"samba": Samba, "ganesha": Ganesha, "sofs": Sofs}
        self._servers: list[Server] = [kinds[name](home) for name in chosen.servers.split(",")]
        self._rows: list[dict[str, Any]] = []

    def run(self) -> int:
        try:
            for server in self._servers:
                server.start()
            for protocol in self._chosen.protocols.split(","):
                self._protocol(protocol)
        finally:
            for server in self._servers:
                server.stop()
        return self._report()

    def _protocol(self, protocol: str) -> None:
        chosen = self._chosen
        scenes = []
        for server in self._servers:
            files = server.files(protocol)
            if files is not None:
                scene = Scene(files, chosen.size_mib << 20, chosen.names)
                drive([files.channel()], [(0, prepare(scene))], 300)
                settle(server, 0)
                server.put_in_place()
                scenes.append((server, scene))
        wanted = [workload for workload in WORKLOADS if chosen.only in workload.title]
        if protocol in ("smb-seal", "smb-plain"):
            # What protection costs shows where there is most to protect, and where messages are most.
            wanted = [workload for workload in wanted if workload.bulk]
        if any(workload.fills or workload.needs for workload in wanted):
            # The directory is filled by the row that makes all its files.
            wanted = [workload for workload in WORKLOADS if workload in wanted or workload.fills]
        for workload in wanted:
            self._workload(workload, scenes)

    def _workload(self, workload: Workload, scenes: list[tuple[Server, Scene]]) -> None:
        """All servers in turn, several times over; the run with the median of CPU time counts."""
        rounds = 1 if workload.whole else self._chosen.rounds
        runs: list[list[dict[str, Any]]] = [[] for _ in scenes]
        for _ in range(rounds):
            for (server, scene), rows in zip(scenes, runs, strict=True):
                rows.append(Cell(server, scene, workload, self._chosen.seconds).row(server, scene, workload))
        peer: dict[str, Any] | None = None
        for (server, scene), rows in zip(scenes, runs, strict=True):
            row = sorted(rows, key=lambda row: float(row["cpu_us"]))[len(rows) // 2]
            if workload.name == "list":
                row["workload"] = f"list {scene.names:,}"
            if server.name == "sofs" and peer is not None:
                row["peer"] = peer["server"]
                row["ratio"] = round(peer["cpu_us"] / max(row["cpu_us"], 0.1), 2)
                row["ops_ratio"] = round(row["ops_s"] / peer["ops_s"], 2)
            peer = row
            self._rows.append(row)
            print(json.dumps(row), flush=True)

    def _report(self) -> int:
        figures = f"{'ops/s':>9} {'p50 us':>8} {'p99 us':>8} {'CPU us':>8} {'later':>8} {'ratio':>6} {'ops':>6}"
        print(f"\n{'workload':34} {'protocol':9} {'server':8} {figures}")
        for row in self._rows:
            title = f"{row['workload']} {row['connections']}x{row['depth']}"
            ratio = f"{row['ratio']:6.2f} {row['ops_ratio']:6.2f}" if "ratio" in row else ""
            later = f"{row['later_us']:.1f}" if row["later_us"] else ""
            mark = " (noisy)" if row["noise"] > NOISE else ""
            print(
                f"{title:34} {row['protocol']:9} {row['server']:8} {row['ops_s']:9.0f} {row['p50_us']:8d} {row['p99_us']:8d}"
                f" {row['cpu_us']:8.1f} {later:>8} {ratio}{mark}"
            )
        compared = [row for row in self._rows if "ratio" in row]
        if not compared:
            print("bench: nothing to compare")
            return 1
        worst = min(compared, key=lambda row: float(row["ratio"]))
        good = sum(row["ratio"] >= 1.0 for row in compared)
        title = f"{worst['workload']} {worst['connections']}x{worst['depth']}"
        print(f"bench: worst ratio {worst['ratio']:.2f} ({title}, {worst['protocol']}); at least 1.0 on {good} of {len(compared)} rows")
        return 0


def main() -> int:
    chosen = options()
    if INSIDE not in os.environ:
        enter_namespace()
    prepare_namespace()
    home = Path(tempfile.mkdtemp(prefix="sofs-bench-", dir=chosen.data))
    home.chmod(0o755)
    try:
        return Bench(chosen, home).run()
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
