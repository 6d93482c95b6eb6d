"""More than a thousand crashes in simulation. More, and a replay of one: `python -m tests.simulation.crash`."""

import subprocess
import sys

import pytest

from tests.simulation import crash

POINTS = {"whole": 250}
"""Other layers than these: 100. What goes wrong only when several parts meet needs more."""
PIECES = 2


@pytest.mark.parametrize("piece", range(PIECES))
@pytest.mark.parametrize("layer", sorted(crash.SCENARIOS))
def test_no_crash_breaks_a_promise(layer: str, piece: int) -> None:
    command = [sys.executable, "-m", "tests.simulation.crash", "--layer", layer, "--points", str(POINTS.get(layer, 100))]
    command += ["--seed", str(1000 * piece + 1), "--jobs", "1"]
    # A process of its own, so that a failure can be replayed: see there.
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith(" points, 0 violations\n")
