"""The lock of a data directory, and what it proves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.running import FILE, Ran, claim, ended
from sofs.errors import Unavailable
from sofs.runtime.ports import Files
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedRandom
from sofs.runtime.system_files import SystemFiles

NODE, OTHER = NodeId((1 << 63) - 1), NodeId(7)
FIRST, SECOND = Incarnation((1 << 62) + 1), Incarnation(2)


@pytest.fixture(params=["system", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Files, str]]:
    if request.param == "system":
        files = SystemFiles()
        yield files, str(tmp_path)
        files.close()
    else:
        simulated = SimulatedFiles(SimulatedRandom(1))
        simulated.make_directory("/data")
        yield simulated, "/data"


def test_a_directory_that_nobody_ran_on_names_nobody(place: tuple[Files, str]) -> None:
    assert ended(*place) is None


def test_the_first_process_follows_nobody_and_the_second_learns_who_has_ended(place: tuple[Files, str]) -> None:
    first = claim(*place, NODE, FIRST)
    assert first.former is None
    first.close()
    assert ended(*place) == Ran(NODE, FIRST)
    second = claim(*place, NODE, SECOND)
    assert second.former == Ran(NODE, FIRST)
    second.close()
    assert ended(*place) == Ran(NODE, SECOND)


def test_a_running_process_is_never_said_to_have_ended_and_keeps_others_out(place: tuple[Files, str]) -> None:
    running = claim(*place, NODE, FIRST)
    with pytest.raises(Unavailable, match="another node runs"):
        ended(*place)
    with pytest.raises(Unavailable, match="another node runs"):
        claim(*place, NODE, SECOND)
    running.close()
    assert ended(*place) == Ran(NODE, FIRST), "who was kept out has left no trace"


def test_a_torn_record_names_nobody(tmp_path: Path) -> None:
    files = SystemFiles()
    claim(files, str(tmp_path), NODE, FIRST).close()
    whole = (tmp_path / FILE).read_bytes()
    for torn in (whole[:20], whole[:10] + b"0" + whole[11:], bytes(len(whole)), b"x" * len(whole)):
        (tmp_path / FILE).write_bytes(torn)
        assert ended(files, str(tmp_path)) is None
    files.close()


def test_a_killed_process_is_known_to_have_ended(tmp_path: Path) -> None:
    script = f"""
from sofs.cluster.running import claim
from sofs.runtime.system_files import SystemFiles
held = claim(SystemFiles(), {str(tmp_path)!r}, {OTHER}, {FIRST})
print("up", flush=True)
input()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == "up\n"
        files = SystemFiles()
        with pytest.raises(Unavailable):
            ended(files, str(tmp_path))
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    assert ended(files, str(tmp_path)) == Ran(OTHER, FIRST)
    files.close()
