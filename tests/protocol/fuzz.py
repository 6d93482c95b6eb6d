"""`make fuzz`: every decoder of bytes that come from a network or a disk, with inputs that almost follow the grammar.

    python -m tests.protocol.fuzz --inputs 1000000 [--seed 1] [--only nfs]

A module `tests/protocol/fuzz_*.py` has `TARGETS`. Each target gets that many inputs, made from a seed, so that a failing one can be
made again. An exception that a target lets out is a crash; so is an input that takes longer than `HANG_S`, and memory that grows by more
than `MEMORY`. Branch coverage of the target's modules is taken over the first `COVERED` inputs and printed. The last
line is `fuzz: N inputs, C crashes`; the status is 1 if there were any.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import pkgutil
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

HANG_S = 20
MEMORY = 512 << 20
COVERED = 20_000
SHOWN = 5
"""Crashes of one target that are printed; all are counted."""


class Target(NamedTuple):
    """One family of decoders."""

    name: str
    one: Callable[[random.Random], None]
    """Makes one input from chance and gives it to the decoders. Lets nothing out but what is a bug."""
    modules: tuple[str, ...]
    """Whose branches count, by dotted name."""


class Hang(BaseException):
    """An input takes too long. No `Exception`, so that no handler swallows it."""


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` with a few changes of the kinds that break decoders: lengths, ends, bits, pieces twice or gone."""
    out = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
        kind = chance.randrange(8)
        at = chance.randrange(len(out) + 1)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << chance.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at:at] = chance.randbytes(chance.choice((1, 2, 4, 8, 64)))
        elif kind == 4:
            del out[at : at + chance.choice((1, 2, 4, 8))]
        elif kind == 5 and len(out) >= 4:
            at = chance.randrange(len(out) - 3) & ~3
            number = chance.choice((0, 1, 2, 3, 4, 255, 65535, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF))
            out[at : at + 4] = number.to_bytes(4, chance.choice(("big", "little")))
        elif kind == 6:
            piece = out[at : at + chance.randrange(64)]
            to = chance.randrange(len(out) + 1)
            out[to:to] = piece
        else:
            out += bytes(chance.randrange(16))
    return bytes(out)


def targets(only: str) -> Iterator[Target]:
    package = importlib.import_module("tests.protocol")
    for found in pkgutil.iter_modules(package.__path__):
        if found.name.startswith("fuzz_"):
            module = importlib.import_module(f"tests.protocol.{found.name}")
            yield from (target for target in module.TARGETS if only in target.name)


@contextmanager
def watched() -> Iterator[Callable[[], None]]:
    """Gives a function to call now and then; when it was not called for `HANG_S`, `Hang` is raised where the program is."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang(f"no progress for {HANG_S} s")

    def alive() -> None:
        signal.setitimer(signal.ITIMER_REAL, HANG_S)

    former = signal.signal(signal.SIGALRM, late)
    try:
        yield alive
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def run(target: Target, seed: int, numbers: Sequence[int]) -> int:
    """Gives the inputs of these numbers; how many of them crashed."""
    crashes = 0
    with watched() as alive:
        for number in numbers:
            if number % 64 == 0 or number == numbers[0]:
                alive()
            try:
                target.one(random.Random(f"{seed} {target.name} {number}"))
            except (Exception, Hang):
                crashes += 1
                if crashes <= SHOWN:
                    print(f"{target.name}: input {number} of seed {seed} crashed:")
                    traceback.print_exc(file=sys.stdout)
                alive()
    return crashes


def covered(target: Target, seed: int, numbers: Sequence[int]) -> tuple[int, list[str]]:
    """The same, with the branch coverage of each of the target's modules, in words."""
    import coverage

    watcher = coverage.Coverage(branch=True, config_file=False, data_file=None, include=[_file(name) for name in target.modules])
    watcher.start()
    try:
        crashes = run(target, seed, numbers)
    finally:
        watcher.stop()
    words = []
    for name in target.modules:
        counted = watcher._analyze(_file(name)).numbers
        branches = f"{counted.n_executed_branches}/{counted.n_branches}"
        words.append(f"{name.removeprefix('gateways.').removeprefix('sofs.')} {branches}")
    return crashes, words


def _file(name: str) -> str:
    path = importlib.import_module(name).__file__
    assert path is not None
    return path


class Outcome(NamedTuple):
    """What became of one target."""

    text: str
    inputs: int
    crashes: int


def whole(name: str, seed: int, first: int, count: int) -> Outcome:
    """All inputs of one target, the first ones with coverage. Runs in a process of its own."""
    (target,) = [target for target in targets(name) if target.name == name]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        began, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        numbers = range(first, first + count)
        head = len(numbers[:COVERED])
        crashes, words = covered(target, seed, numbers[:head])
        crashes += run(target, seed, numbers[head:]) if count > head else 0
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10
        if grown > MEMORY:
            print(f"{name}: memory grew by {grown >> 20} MiB")
            crashes += 1
        seconds = time.monotonic() - began
        print(f"{name}: {count} inputs, {crashes} crashes, {seconds:.0f} s; branches: {', '.join(words)}")
    return Outcome(printed.getvalue(), count, crashes)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--inputs", type=int, default=20_000, help="per target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="targets whose name contains this")
    parser.add_argument("--input", type=int, help="only the input of this number")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at the same time")
    options = parser.parse_args()
    first, count = (0, options.inputs) if options.input is None else (options.input, 1)
    total = crashes = 0
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as workers:
        running = [workers.submit(whole, target.name, options.seed, first, count) for target in targets(options.only)]
        for future in as_completed(running):
            outcome = future.result()
            print(outcome.text, end="", flush=True)
            total += outcome.inputs
            crashes += outcome.crashes
    print(f"fuzz: {total} inputs, {crashes} crashes")
    return 1 if crashes or not total else 0


if __name__ == "__main__":
    sys.exit(main())
