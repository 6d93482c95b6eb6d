"""A network namespace of a test's own: ports 111, 445 and 2049 are free there, and need no rights outside.

Root makes it directly; anybody else makes a user namespace around it, in which they are root.
"""

from __future__ import annotations

import os
import subprocess
from types import TracebackType


class NetworkNamespace:
    """Lives while the context does; `prefix` puts a command into it."""

    def __init__(self) -> None:
        self._as_root = os.geteuid() == 0
        self._keeper: subprocess.Popen[str] | None = None

    def __enter__(self) -> NetworkNamespace:
        around = [] if self._as_root else ["--user", "--map-root-user"]
        script = "ip link set lo up && echo up && exec cat >/dev/null"
        self._keeper = subprocess.Popen(["unshare", "--net", *around, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._keeper.stdout
        assert self._keeper.stdout.readline() == "up\n", "no network namespace: run as root, or allow user namespaces"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._keeper and self._keeper.stdin and self._keeper.stdout
        self._keeper.stdin.close()  # ends its `cat`
        self._keeper.stdout.close()
        self._keeper.wait()

    @property
    def prefix(self) -> list[str]:
        assert self._keeper
        around = [] if self._as_root else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self._keeper.pid), "--net", *around, "--"]
