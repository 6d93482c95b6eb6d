"""The simulation's checkers can fail: production code that is broken on purpose is caught. All of it: `make mutations`."""

import re
import subprocess
import sys


def test_broken_variants_are_caught_within_a_thousand_seeds() -> None:
    command = [sys.executable, "-m", "tests.simulation.cluster.mutations", "--quick", "--jobs", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    caught = re.search(r"^mutations: (\d+) of (\d+) caught$", run.stdout, re.MULTILINE)
    assert caught is not None and caught[1] == caught[2] and int(caught[1]) >= 15
