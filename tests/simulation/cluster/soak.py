"""Many seeds: `python -m tests.simulation.cluster.soak --seeds 1000` (`make soak SEEDS=1000`).

Each seed is a cluster's life. One that breaks a promise is shown with its last events and the one command that replays it, aloud. Python's
hashing of strings is pinned, because the order of sets depends on it.
"""

import argparse
import gc
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import NamedTuple

from tests.simulation.cluster.events import listen
from tests.simulation.cluster.layers import LAYERS
from tests.simulation.cluster.scenario import Outcome

__all__ = ["Result", "main", "one", "pinned", "quiet", "replay"]


_TELL_S = 60.0


class Result(NamedTuple):
    """What a seed came to."""

    layer: str
    seed: int
    outcome: Outcome | None
    wrong: str
    """Empty if nothing was."""
    seconds: float


def replay(layer: str, seed: int) -> str:
    """What to type to see a seed again."""
    return f"replay: python -m tests.simulation.cluster.soak --layer {layer} --seed {seed} --seeds 1 --loud"


def one(layer: str, seed: int, loud: bool = False) -> Result:
    """Runs a seed."""
    begun = time.perf_counter()
    outcome, wrong = None, ""
    try:
        outcome = LAYERS[layer](seed, loud)
    except Exception:
        wrong = f"{traceback.format_exc()}{replay(layer, seed)}"
    return Result(layer, seed, outcome, wrong, time.perf_counter() - begun)


def _one(job: tuple[str, int]) -> Result:
    return one(*job)


def quiet() -> None:
    listen()
    # What has been imported need not be looked at after each seed.
    gc.collect()
    gc.freeze()
    # A crash throws tasks away where they stand, whatever they have to say to that.
    sys.unraisablehook = lambda hook: None
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def pinned(module: str) -> None:
    """Starts this program again with Python's hashing of strings pinned, unless it is."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many, over all layers")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--layer", choices=sorted(LAYERS), action="append", help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="seeds at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no seed after so many seconds")
    parser.add_argument("--loud", action="store_true", help="print every event as it comes")
    arguments = parser.parse_args()
    layers = arguments.layer or sorted(LAYERS)
    jobs = [(layers[number % len(layers)], arguments.seed + number // len(layers)) for number in range(arguments.seeds)]
    if arguments.loud:
        listen(loud=True)
        results = [one(layer, seed, loud=True) for layer, seed in jobs]
        print("\n".join(result.wrong or str(result.outcome) for result in results))
        return 1 if any(result.wrong for result in results) else 0
    done, failed = _soak(jobs, arguments.jobs, time.monotonic() + arguments.seconds)
    print(f"soak: {done} seeds, {failed} violations")
    return 1 if failed else 0


def _soak(jobs: list[tuple[str, int]], workers: int, until: float) -> tuple[int, int]:
    done = failed = 0
    totals: Counter[str] = Counter()
    begun = told = time.perf_counter()
    remaining = iter(jobs)
    with ProcessPoolExecutor(workers, initializer=quiet) as pool:
        while time.monotonic() < until and (batch := list(islice(remaining, 8 * workers))):
            for result in pool.map(_one, batch):
                done += 1
                totals[f"{result.layer} seeds"] += 1
                if result.outcome is None:
                    failed += 1
                    print(result.wrong, flush=True)
                    continue
                totals["answers"] += result.outcome.answers
                totals["operations"] += result.outcome.operations
                totals["requests sent again"] += result.outcome.resent
                totals["unstable and lost"] += result.outcome.lost
                totals["virtual seconds"] += int(result.outcome.virtual)
                totals.update({f"fault {name}": count for name, count in result.outcome.faults.items()})
            if time.perf_counter() - told > _TELL_S:
                told = time.perf_counter()
                print(f"so far {done} seeds, {failed} violations, in {told - begun:.0f} s", file=sys.stderr, flush=True)
    for name, count in sorted(totals.items()):
        print(f"{count:12} {name}")
    print(f"{done / max(1e-9, time.perf_counter() - begun):12.1f} seeds a second")
    return done, failed


if __name__ == "__main__":
    pinned("tests.simulation.cluster.soak")
    sys.exit(main())
