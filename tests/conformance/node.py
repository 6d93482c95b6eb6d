"""The node that a suite runs against: fresh, on free ports, with one share of each kind that suites ask for."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sofs.admin import api
from tests.interop.running import PASSWORD, SHARE, USER, RunningNode

VOLUME = "default"
_TROUBLE = ("request_failed", "Traceback", '"level": "error"')
"""What the node's log must not say, whatever a client sends."""

_SETTINGS = """\
[node]
data_dir = ".."

[smb]
addresses = ["127.0.0.1"]

[nfs]
addresses = ["127.0.0.1"]
lease_s = %s
"""
"""As quickstart has them, but for the time of NFS's leases, after which SMB clients, too, lose what they were asked to give back."""


class ServerBroke(Exception):
    """The node died, hangs, or ran into a bug of ours: no conformance suite may do that to it."""


HIDING = "hideunread"
"""What smbtorture calls the share that lists only what its reader may read."""
STABLE = "stable"


@dataclass
class ConformanceNode:
    """What a runner has to know of the node."""

    running: RunningNode
    share: str = SHARE
    stable_share: str = STABLE
    """Continuously available, in the same volume."""
    user: str = USER
    password: str = PASSWORD

    @property
    def host(self) -> str:
        return self.running.smb.host

    @property
    def smb_port(self) -> int:
        return self.running.smb.port

    @property
    def nfs_port(self) -> int:
        return self.running.nfs.port

    def snapshot(self) -> str:
        """Takes one of the volume; gives its time as SMB clients name it."""
        made = self.running.admin.ask(api.Operations.create_snapshot, api.SnapshotName(VOLUME, ""))
        return datetime.fromisoformat(made.taken).astimezone(UTC).strftime("@GMT-%Y.%m.%d-%H.%M.%S")

    def check(self) -> None:
        """Raises `ServerBroke` unless the node answers, and never had to say that it failed."""
        try:
            self.running.admin.metrics()
        except Exception as error:
            raise ServerBroke(f"the node does not answer any more: {error}\n{self.running.tail()}") from error
        log = self.running.log.read_text(errors="replace")
        bad = [line for line in log.splitlines() if any(mark in line for mark in _TROUBLE)]
        if bad:
            raise ServerBroke("the node's log tells of trouble:\n" + "\n".join(bad[:20]))


@contextmanager
def serving(folder: Path, unacknowledged: bool, lease_s: float) -> Iterator[ConformanceNode]:
    """A node with its data in `folder`, which goes with it. `unacknowledged`: it acts, when it is asked to, as if a connection's
    acknowledgements got lost."""
    settings = folder / "node" / "conf" / "sofs.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(_SETTINGS % lease_s)
    prefix = [sys.executable, str(Path(__file__).with_name("unacknowledged.py"))] if unacknowledged else []
    with RunningNode(folder / "node", prefix=prefix) as running:
        running.admin.ask(api.Operations.create_share, api.Share(HIDING, VOLUME, access_based_enumeration=True))
        running.admin.ask(api.Operations.create_share, api.Share(STABLE, VOLUME, continuously_available=True))
        yield ConformanceNode(running)
    shutil.rmtree(folder / "node", ignore_errors=True)
