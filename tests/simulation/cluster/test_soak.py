"""Whole clusters in simulation, some seeds of each layer. More, and a replay of one: `python -m tests.simulation.cluster.soak`."""

import gc
import subprocess
import sys

import pytest

from tests.simulation.cluster.layers import LAYERS

SECONDS = 6.0
"""No seed is begun after so long, so that a busy machine runs fewer of them."""


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_no_fault_breaks_a_promise(layer: str) -> None:
    command = [sys.executable, "-m", "tests.simulation.cluster.soak", "--layer", layer, "--seeds", "40", "--jobs", "1", "--seconds", str(SECONDS)]
    # A process of its own, so that a failure can be replayed: see there.
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith(" seeds, 0 violations\n") and not run.stdout.endswith("soak: 0 seeds, 0 violations\n")


def test_one_seed_gives_one_run_of_a_whole_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    # A crash throws tasks away where they stand, whatever they have to say to that.
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: None)
    for seed in (5, 13):
        first = LAYERS["hosts"](seed, False)
        LAYERS["node"](3, False)
        assert LAYERS["hosts"](seed, False).digest == first.digest
    gc.collect()
