"""A slice of `make failover`, and `sofs lab` as its users see it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.failover.laboratory import SOFS, Laboratory

ROUND = ("kill -9 of the coordinator", "coordinator cut off", "planned move")
"""What there is time for in every run of the tests."""

needs_xfs = pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs mkfs.xfs")
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def _elsewhere(play: Callable[[Path, Connection], None], data: Path) -> Any:
    """What a process of its own sends, which has a lab there."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=play, args=(data, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        log = data / "lab.log"
        raise AssertionError(log.read_text()[-3000:] if log.exists() else "its process ended") from None
    finally:
        process.join(120)
        process.kill()


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
    lost, wrong, errors, rounds, acknowledged, messages = _elsewhere(_play, tmp_path / "lab")
    assert (lost, wrong, errors) == (0, 0, 0), "\n".join(messages)
    assert rounds == len(ROUND) and acknowledged > 0


def _lose_power(data: Path, answer: Connection) -> None:
    """In a process of its own, since it moves into the lab's network. Answers the boot ids and the files, before and after."""
    import asyncio

    from tests.failover.harness import NFS_PORT
    from tests.failover.nfs3 import Nfs3Directory

    lab = Laboratory(data, nodes=2, members=1, images=True)

    def boots() -> set[str]:
        return {Path("/proc", str(node["pid"]), "root", "proc/sys/kernel/random/boot_id").read_text() for node in lab.about["nodes"]}

    async def play() -> None:
        directory = Nfs3Directory(lab.vips, NFS_PORT, lab.about["share"], "d", 1)
        directory.cautious = True
        await directory.open()
        await directory.create("stable")
        for number in range(3):
            await directory.write("stable", 5000 * number, bytes([number + 1]) * 5000)
        before = boots()
        await lab.do("power-off")
        lab.about = await lab.do("power-on")
        files = await directory.read_all()
        await directory.close()
        answer.send((before, boots(), {name: len(content) for name, content in files.items()}))

    try:
        lab.start()
        lab.enter()
        asyncio.run(play())
    finally:
        lab.stop()


def _take_down(directory: Path, answer: Connection) -> None:
    """In a process of its own, since it moves into a mount namespace. Answers what is there afterwards, and what a descriptor of before was told."""
    from sofs.lab.images import Images

    images, at = Images(directory / "images"), directory / "n1"
    images.mount("n1", at)
    with (at / "synced").open("wb") as synced:
        synced.write(b"s" * 10000)
        os.fsync(synced.fileno())
    held = os.open(at / "unsynced", os.O_RDWR | os.O_CREAT)
    os.write(held, b"u" * 1_000_000)
    images.go_down(at)
    told = ""
    try:
        os.pread(held, 10, 0)
    except OSError as error:
        told = os.strerror(error.errno or 0)
    os.close(held)
    images.unmount(at)
    images.mount("n1", at)
    unsynced = at / "unsynced"
    answer.send(((at / "synced").stat().st_size, unsynced.stat().st_size if unsynced.exists() else 0, told))


@needs_xfs
def test_an_image_that_goes_down_has_what_was_synced_and_fails_whoever_has_it_open(tmp_path: Path) -> None:
    assert _elsewhere(_take_down, tmp_path) == (10000, 0, "Input/output error")


@needs_xfs
def test_a_lab_on_images_loses_power_and_nothing_that_was_stable(tmp_path: Path) -> None:
    before, after, files = _elsewhere(_lose_power, tmp_path / "lab")
    assert len(before) == len(after) == 1 and before != after, "hosts that were started anew have another boot id"
    assert files == {"stable": 15000}
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(), "nothing is mounted outside the lab"


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
