"""pynfs's server tests, for minor version 0 or for 1 and 2, from a built tree that `PYNFS_DIR` names.

A group is one of its modules (`st_open`), a test its code (`OPEN2`). All chosen tests run in one process, as they share a tree that the process makes first.

`PYNFS_PYTHON` is the Python that the tree was built for (it needs ply, gssapi and xdrlib), `python3` by default.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.conformance import process
from tests.conformance.node import ConformanceNode
from tests.conformance.results import CRASH, FAILURE, NOT_RUN, SKIP, SUCCESS, TIMEOUT, UNSUPPORTED, WARN, Results, tally

_OUTCOMES = {"PASS": SUCCESS, "FAILURE": FAILURE, "OMIT": SKIP, "WARNING": WARN, "UNSUPPORTED": UNSUPPORTED, "RUNNING": ""}
# OPEN2    st_open.testCreateFile                : PASS
_LINE = re.compile(rf"^(\S+)\s+(\S+?)\.(\S+)\s+: ({'|'.join(_OUTCOMES)})$", re.MULTILINE)
_CODE = re.compile(r"^\s*CODE: (\S+)$", re.MULTILINE)
_FLAGS = re.compile(r"^\s*FLAGS: (.+)$", re.MULTILINE)


class Pynfs:
    """`version` is "4.0" or "4.1", as pynfs divides its tests."""

    blocks = False
    lease_s = 10.0
    """Many tests wait for the end of one."""

    def __init__(self, version: str, limit_s: float = 1800.0) -> None:
        self.name = "pynfs" + version.replace(".", "")
        self._version = version
        self._limit_s = limit_s

    @property
    def _folder(self) -> Path:
        return Path(os.environ["PYNFS_DIR"]) / f"nfs{self._version}"

    @property
    def _python(self) -> str:
        return os.environ.get("PYNFS_PYTHON", "python3")

    def missing(self) -> str | None:
        """Why it cannot run here, if it cannot."""
        if "PYNFS_DIR" not in os.environ:
            return "PYNFS_DIR names no tree of pynfs"
        if not (self._folder / "xdrdef" / "nfs4_type.py").exists():
            return f"{self._folder} is not built (setup.py build)"
        return None

    def run(
        self, node: ConformanceNode, wanted: re.Pattern[str] | None, logs: Path, say: Callable[[str], None], tests: frozenset[str] | None = None
    ) -> Results:
        """Runs the tests of group `all` in the modules whose whole name `wanted` matches; of these only `tests`, if given. Says a line for each module."""
        chosen = {
            module: codes
            for module, listed in self.listed().items()
            if (wanted is None or wanted.fullmatch(module)) and (codes := [code for code in listed if tests is None or code in tests])
        }
        everything = wanted is None and tests is None
        asked = ["all"] if everything else [code for codes in chosen.values() for code in codes]
        if not asked:
            return {}
        command = [self._python, "-u", "./testserver.py", f"{node.host}:{node.nfs_port}/{node.share}", "--maketree", "-v", "--showomit", *asked]
        ended = process.run(command, logs / "pynfs.log", self._limit_s, folder=self._folder)
        results = _read(ended.text, TIMEOUT if ended.timed_out else CRASH)
        started = {code for group in results.values() for code in group}
        # A run that reached its end has named every test that it was to run: some are for the other minor version.
        if not re.search(r"^Of those: ", ended.text, re.MULTILINE):
            for module, codes in chosen.items():
                for code in codes:
                    if code not in started:
                        results.setdefault(module, {})[code] = NOT_RUN
        node.check()
        for module in sorted(results):
            counts = tally({module: results[module]})
            say(f"{module:30} {counts.passed:5} {counts.failed:5} {counts.warned:5} {counts.skipped:5} {counts.total:5}")
        return results

    def listed(self) -> dict[str, list[str]]:
        """The codes of the tests in group `all`, by module, as their docstrings say."""
        found: dict[str, list[str]] = {}
        showing = [self._python, "./testserver.py", "--showcodes"]
        known = subprocess.run(showing, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.split()
        folder = "servertests" if self._version == "4.0" else "server41tests"
        loaded = re.findall(r'^(?:__all__ = \[)?\s*"(st_\w+)', (self._folder / folder / "__init__.py").read_text(), re.MULTILINE)
        for path in sorted((self._folder / folder).glob("st_*.py")):
            source = path.read_text(errors="replace") if path.stem in loaded else ""
            for docstring in re.findall(r'"""(.*?)"""', source, re.DOTALL):
                code, flags = _CODE.search(docstring), _FLAGS.search(docstring)
                if code is not None and code[1] in known and flags is not None and "all" in re.split(r"[\s,]+", flags[1]):
                    found.setdefault(path.stem, []).append(code[1])
        return found

    def summary(self, results: Results) -> str:
        counts = tally(results)
        return (
            f"pynfs {self._version}: {counts.passed} passed, {counts.failed} failed, {counts.warned} warned, {counts.skipped} skipped"
            f" of {counts.total}"
        )


def _read(text: str, cut: str) -> Results:
    """What a run printed: the last word on each test. One that was running at the end was `cut`."""
    results: Results = {}
    for code, module, _, outcome in _LINE.findall(text.replace("\r", "")):
        results.setdefault(module, {})[code] = _OUTCOMES[outcome] or cut
    return results
