"""Crashes at random steps, in simulation: `python -m tests.simulation.crash --points 10000 --seed 1`.

A scenario is one seed: a host, a workload, faults and a handful of crashes, each one a point. A scenario that breaks
a promise prints the one command that replays it. Python's hashing of strings is pinned, because the order of sets depends on it.
"""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice

import structlog

from tests.simulation import data, files, opens, records, snapshots, whole

__all__ = ["SCENARIOS", "main", "replay"]

CRASHES = 5
"""Per scenario."""

SCENARIOS: dict[str, Callable[[int], int]] = {
    "data": lambda seed: data.run_seed(seed, CRASHES),
    "files": lambda seed: files.Scenario(seed).run(CRASHES),
    "opens": lambda seed: opens.Scenario(seed).run(CRASHES),
    "records": lambda seed: records.Scenario(seed).run(CRASHES),
    "snapshots": lambda seed: snapshots.run_seed(seed, CRASHES),
    "whole": lambda seed: whole.Scenario(seed).run(CRASHES),
}
"""By layer. Each runs one scenario, gives how many crashes it had, and raises what it found wrong."""


def replay(layer: str, seed: int) -> str:
    """What to type to see a scenario again."""
    return f"replay: python -m tests.simulation.crash --layer {layer} --seed {seed} --points 1"


def _one(layer: str, seed: int) -> tuple[int, str]:
    """Runs a scenario in a worker; gives how many crashes it had, and what it found wrong."""
    try:
        return SCENARIOS[layer](seed), ""
    except Exception:
        return 1, f"{traceback.format_exc()}{replay(layer, seed)}"


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # A crash throws tasks away where they stand.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=500, help="how many crashes, over all layers")
    parser.add_argument("--seed", type=int, default=1, help="the first scenario's")
    parser.add_argument("--layer", choices=sorted(SCENARIOS), action="append", help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="scenarios at a time")
    arguments = parser.parse_args()
    layers = arguments.layer or sorted(SCENARIOS)
    points = failed = 0
    with ProcessPoolExecutor(arguments.jobs, initializer=_quiet) as workers:
        seeds = count(arguments.seed)
        while points < arguments.points:
            batch = [(layer, seed) for seed in islice(seeds, arguments.jobs) for layer in layers]
            for crashes, wrong in workers.map(_one, *zip(*batch, strict=True)):
                points += crashes
                if wrong:
                    failed += 1
                    print(wrong, flush=True)
                if points >= arguments.points:
                    break
    print(f"crash simulation: {points} points, {failed} violations")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation.crash", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())
