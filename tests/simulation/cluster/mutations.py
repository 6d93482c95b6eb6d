"""Proof that the checkers can fail: production code that is broken on purpose, and how many seeds it takes until a seed says so.

`python -m tests.simulation.cluster.mutations` runs all of them and prints the list; `--only NAME` one.

A mutation replaces one function, or a few, while its seeds run. What it breaks is a promise of the design; that the same seeds pass without
it is `make soak`'s business.
"""

import argparse
import inspect
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from tests.simulation.cluster.broken import MUTATIONS, Mutation
from tests.simulation.cluster.scenario import run_seed
from tests.simulation.cluster.soak import pinned, quiet

__all__ = ["Caught", "hunt", "main"]


class Caught(NamedTuple):
    """What became of a mutation."""

    name: str
    seeds: int
    """How many were run, the last of which caught it; or all of them, in vain."""
    how: str
    """What that one said; empty if none did."""
    seconds: float


@contextmanager
def broken(mutation: Mutation) -> Iterator[None]:
    with ExitStack() as stack:
        for place, name, make in mutation.changes:
            changed: Any = make(inspect.getattr_static(place, name, None))
            stack.enter_context(patch.object(place, name, changed, create=True))
        yield


def hunt(name: str, most: int) -> Caught:
    """Runs seeds until one catches the mutation. Raises what that seed finds wrong without it."""
    mutation = MUTATIONS[name]
    begun = time.perf_counter()
    for seed in range(1, most + 1):
        try:
            with broken(mutation):
                run_seed(seed, mutation.shape)
        except Exception as error:
            how = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            # It is the mutation that was caught only if nothing is wrong without it.
            run_seed(seed, mutation.shape)
            return Caught(name, seed, how, time.perf_counter() - begun)
    return Caught(name, most, "", time.perf_counter() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(MUTATIONS), action="append", help="only this one; may be repeated")
    parser.add_argument("--most", type=int, default=1000, help="seeds that each may take")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="leave out those that take minutes")
    arguments = parser.parse_args()
    names = arguments.only or [name for name in sorted(MUTATIONS) if not (arguments.quick and MUTATIONS[name].slow)]
    missed = 0
    # Each in a process of its own: what is patched there stays there.
    with ProcessPoolExecutor(arguments.jobs, initializer=quiet, max_tasks_per_child=1) as pool:
        for caught in pool.map(hunt, names, [arguments.most] * len(names)):
            missed += not caught.how
            verdict = f"caught by seed {caught.seeds:4}" if caught.how else f"MISSED by {caught.seeds} seeds"
            print(f"{caught.name:44} {verdict}  {caught.seconds:6.1f} s  {caught.how[:110]}", flush=True)
    print(f"mutations: {len(names) - missed} of {len(names)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    pinned("tests.simulation.cluster.mutations")
    sys.exit(main())
