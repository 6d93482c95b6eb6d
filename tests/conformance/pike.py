"""pike's tests (package pike-smb2 from PyPI): a client that builds every SMB2 message itself.

They run in a process of their own, `pike_tests`; where one does not end in time, the others go on in another. The share is a continuously
available one, for the tests of persistent handles.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conformance import process
from tests.conformance.node import ConformanceNode
from tests.conformance.results import CRASH, NOT_RUN, TIMEOUT, Results, tally
from tests.conformance.smbtorture import read

_COMMAND = (sys.executable, "-m", "tests.conformance.pike_tests")
_ROOT = Path(__file__).parents[2]
_TEST_S = 240.0
"""Pike itself waits half a minute for a reply, some of its tests sleep as long, and one signs 130 MiB in Python."""


class Pike:
    name = "pike"
    blocks = False
    lease_s = 90.0

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, if it cannot."""
        return None if importlib.util.find_spec("pike") else "pike-smb2 is not installed"

    def run(
        self, node: ConformanceNode, wanted: re.Pattern[str] | None, logs: Path, say: Callable[[str], None], tests: frozenset[str] | None = None
    ) -> Results:
        """Runs the modules whose whole name `wanted` matches; of these only `tests`, if given. Says a line for each."""
        environment = {
            "PIKE_SERVER": node.host,
            "PIKE_PORT": str(node.smb_port),
            "PIKE_SHARE": node.stable_share,
            "PIKE_CREDS": f"WORKGROUP\\{node.user}%{node.password}",
            "PIKE_MIN_DIALECT": "",
        }
        listed = subprocess.run([*_COMMAND, "--list"], stdout=subprocess.PIPE, text=True, check=True, cwd=_ROOT, env=_with(environment))
        modules: dict[str, list[str]] = {}
        for test in listed.stdout.split():
            module = test.partition(".")[0]
            if (wanted is None or wanted.fullmatch(module)) and (tests is None or test in tests):
                modules.setdefault(module, []).append(test)
        results: Results = {}
        say(f"{'module':30} {'pass':>5} {'fail':>5} {'skip':>5} {'of':>5} {'seconds':>7}")
        for module, chosen in modules.items():
            began = time.monotonic()
            results[module] = self._module(environment, module, chosen, logs)
            node.check()
            counts = tally({module: results[module]})
            say(f"{module:30} {counts.passed:5} {counts.failed:5} {counts.skipped:5} {counts.total:5} {time.monotonic() - began:7.1f}")
        return results

    @staticmethod
    def _module(environment: dict[str, str], module: str, chosen: list[str], logs: Path) -> dict[str, str]:
        log, todo = logs / f"{module}.log", logs / f"{module}.list"
        outcomes: dict[str, str] = {}
        missing = chosen
        while missing:
            todo.write_text("".join(test + "\n" for test in missing))
            limit = _TEST_S + 2.0 * len(missing)
            ended = process.run([*_COMMAND, str(todo)], log, limit, environment, _ROOT)
            got, flying = read(ended.text)
            outcomes.update(got)
            if flying is not None:
                outcomes[flying] = TIMEOUT if ended.timed_out else CRASH
            if not got and flying is None:
                break
            missing = [test for test in missing if test not in outcomes]
        return {test: outcomes.get(test, NOT_RUN) for test in chosen}

    @staticmethod
    def summary(results: Results) -> str:
        counts = tally(results)
        return f"pike: {counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped of {counts.total}"


def _with(environment: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **environment}
