"""A slice of `make failover`, and `sofs lab` as its users see it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.failover.laboratory import SOFS, Laboratory

ROUND = ("kill -9 of the coordinator", "coordinator cut off", "planned move")
"""What there is time for in every run of the tests."""

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def _play(data: Path, answer: Connection) -> None:
    """In a process of its own, since it moves into the lab's network."""
    import asyncio

    from tests.failover.faults import FAULTS
    from tests.failover.harness import Harness

    lab = Laboratory(data, nodes=3)
    try:
        lab.start()
        lab.enter()
        score = asyncio.run(Harness(lab, 1, seed=1).run([fault for fault in FAULTS if fault.name in ROUND], 1))
    finally:
        lab.stop()
    answer.send((score.lost, score.wrong, score.errors, score.rounds, score.acknowledged, score.messages))


def test_clients_of_three_protocols_lose_nothing_when_the_coordinator_dies_is_cut_off_or_moves(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_play, args=(tmp_path / "lab", theirs))
    process.start()
    theirs.close()
    try:
        lost, wrong, errors, rounds, acknowledged, messages = ours.recv()
    except EOFError:
        raise AssertionError((tmp_path / "lab" / "lab.log").read_text()[-3000:]) from None
    finally:
        process.join(120)
        process.kill()
    assert (lost, wrong, errors) == (0, 0, 0), "\n".join(messages)
    assert rounds == len(ROUND) and acknowledged > 0


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_nothing_that_a_killed_lab_started_outlives_it(tmp_path: Path) -> None:
    lab = Laboratory(tmp_path / "lab", nodes=2, members=1)
    lab.start()
    started = children(lab.about["pid"])
    assert len(started) == 3
    assert lab._process is not None
    lab._process.kill()
    lab._process.wait()
    deadline = 50
    while any(_lives(pid) for pid in started) and deadline:
        deadline -= 1
        subprocess.run(["sleep", "0.1"], check=True)
    assert not [pid for pid in started if _lives(pid)]
    lab.start()
    assert sorted(lab.names) == ["n1", "n2"], "the same directory serves again"
    said = json.loads(subprocess.run([SOFS, "lab", "kill", "n2", "--data", str(lab.data)], capture_output=True, check=True).stdout)
    assert {node["name"]: node["state"] for node in said["nodes"]} == {"n1": "ready", "n2": "down"}
    unknown = subprocess.run([SOFS, "lab", "kill", "n9", "--data", str(lab.data)], capture_output=True, text=True)
    assert unknown.returncode == 1 and "no node n9" in unknown.stderr
    lab.stop()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_without_etcd_it_says_how_to_get_it(tmp_path: Path) -> None:
    outcome = subprocess.run([SOFS, "lab", "--data", str(tmp_path / "lab")], env={**os.environ, "PATH": "/nowhere"}, capture_output=True, text=True)
    assert outcome.returncode == 1 and "apt-get install etcd-server" in outcome.stderr
