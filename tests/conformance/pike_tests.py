"""Runs pike's tests one after another and says, a line each, when one begins and what it came to.

A process of its own (`python -m tests.conformance.pike_tests [FILE]`), as pike takes its settings from the environment and its reactor cannot be stopped
when a server does not answer. FILE names the tests to run, a line each; without it all run. `--list` only names them.
"""

from __future__ import annotations

import os
import sys
import traceback
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pike.model
import pike.test

_PACKAGE = Path(pike.test.__file__).parent


def use_port(port: int) -> None:
    """Half of the tests leave PIKE_PORT unread and connect to pike's default, which is bound into three signatures."""
    for function in (pike.model.Client.connect, pike.model.Client.connect_submit, pike.model.Connection.__init__):
        function.__defaults__ = (port,)


def name_of(test: unittest.TestCase) -> str:
    """`durable.DurableHandleTest.test_durable`: without the package's own name."""
    return test.id().removeprefix("pike.test.")


def tests() -> Iterator[unittest.TestCase]:
    """Every test, in the order of their modules' names."""
    waiting: list[Any] = [unittest.TestLoader().discover(str(_PACKAGE), "*.py", str(_PACKAGE.parents[1]))]
    while waiting:
        first = waiting.pop(0)
        if isinstance(first, unittest.TestSuite):
            waiting[:0] = list(first)
        else:
            yield first


class _Told(unittest.TestResult):
    """Says each outcome as it is known, with the trace behind a failure."""

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._say("test", test)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._say("success", test)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._say("failure", test, err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._say("error", test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        print(f"because: {reason}")
        self._say("skip", test)

    @staticmethod
    def _say(what: str, test: unittest.TestCase, error: Any = None) -> None:
        if error is not None:
            traceback.print_exception(*error, file=sys.stdout)
        print(f"{what}: {name_of(test)}", flush=True)


def main(arguments: list[str]) -> None:
    if arguments == ["--list"]:
        print("\n".join(map(name_of, tests())))
        return
    use_port(int(os.environ["PIKE_PORT"]))
    wanted = set(Path(arguments[0]).read_text().splitlines()) if arguments else None
    result = _Told()
    for test in tests():
        if wanted is None or name_of(test) in wanted:
            test.run(result)


if __name__ == "__main__":
    main(sys.argv[1:])
