"""Many seeds of one log on three machines: `python -m tests.simulation.replication.soak --seeds 1000`.

A seed that breaks a promise is shown with its last events and the command that replays it. `--mutation NAME` runs a broken variant instead.
"""

import argparse
import logging
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import islice

import structlog

from tests.simulation.cluster.soak import pinned
from tests.simulation.replication.group import Lived, live
from tests.simulation.replication.mutations import MUTATIONS

__all__ = ["main", "one", "quiet"]


def quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # A process that ends throws tasks away where they stand.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def one(seed: int, mutation: str = "") -> tuple[Lived | None, str]:
    """Runs a seed; gives what it came to, or what was wrong."""
    try:
        with MUTATIONS[mutation]() if mutation else nullcontext():
            return live(seed), ""
    except Exception:
        suffix = f" --mutation {mutation}" if mutation else ""
        return None, f"{traceback.format_exc()}replay: python -m tests.simulation.replication.soak --seed {seed} --seeds 1{suffix}"


def _job(job: tuple[int, str]) -> tuple[Lived | None, str]:
    return one(*job)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="seeds at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no seed after so many seconds")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), default="", help="run this broken variant, until it is found out")
    arguments = parser.parse_args()
    jobs = iter([(seed, arguments.mutation) for seed in range(arguments.seed, arguments.seed + arguments.seeds)])
    begun = time.perf_counter()
    done = failed = 0
    totals: Counter[str] = Counter()
    with ProcessPoolExecutor(arguments.jobs, initializer=quiet) as pool:
        while time.perf_counter() - begun < arguments.seconds and (batch := list(islice(jobs, (1 if arguments.mutation else 4) * arguments.jobs))):
            for lived, wrong in pool.map(_job, batch):
                done += 1
                if lived is None:
                    failed += 1
                    print(wrong, flush=True)
                else:
                    totals.update({"told": lived.told, "unstable and lost": lived.lost, "takeovers": lived.leads, "without memory": lived.broken})
                    totals.update({f"fault {name}": count for name, count in lived.faults.items()})
            if arguments.mutation and failed:
                break
    for name, count in sorted(totals.items()):
        print(f"{count:12} {name}")
    print(f"replication: {done} seeds, {failed} violations, {time.perf_counter() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    pinned("tests.simulation.replication.soak")
    sys.exit(main())
