"""The benchmark's clients and workloads, briefly, against a running node: what `make bench` measures must work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from bench.driver import drive
from bench.nfs import NfsFiles
from bench.nfs4 import Nfs4Files
from bench.servers import PROTECTIONS, Files, tree_s
from bench.smb import SmbFiles
from bench.workloads import WORKLOADS, Scene, prepare
from tests.interop.running import PASSWORD, USER, RunningNode


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with RunningNode(tmp_path_factory.mktemp("node") / "data") as running:
        yield running


@pytest.mark.parametrize("protocol", ["nfs", "nfs4", "smb", "smb-seal"])
def test_every_workload_runs(node: RunningNode, protocol: str) -> None:
    files: Files
    if protocol == "nfs":
        files = NfsFiles(node.nfs.host, node.nfs.port, node.nfs.port, f"/{node.nfs.share}")
    elif protocol == "nfs4":
        files = Nfs4Files(node.nfs.host, node.nfs.port, node.nfs.share)
    else:
        files = SmbFiles(node.smb.host, node.smb.port, USER, PASSWORD, node.smb.share, protocol, PROTECTIONS[protocol])
    scene = Scene(files, 8 << 20, 50)
    drive([files.channel()], [(0, prepare(scene))], 60)
    for workload in WORKLOADS:
        scene.taken = count()
        channels = [files.channel() for _ in range(workload.connections)]
        workers = [(index, workload.worker(scene)) for index in range(workload.connections) for _ in range(workload.depth)]
        figures = drive(channels, workers, 60 if workload.whole else 0.2)
        for channel in channels:
            channel.sock.close()
        assert figures.operations == 50 if workload.whole else figures.operations > 0, workload.title
        assert 0 < figures.p50_us <= figures.p99_us


def test_the_cpu_time_of_a_server_includes_its_children(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    script = f"{burn}import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint('x', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        assert tree_s(process.pid) >= 0.55
        process.stdin.close()
