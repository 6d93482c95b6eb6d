"""The node that a suite runs against: fresh, on free ports, with one share of each kind that suites ask for."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sofs.admin import api
from sofs.admin.client import AdminClient
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
    """What a runner has to know of the node that it speaks to."""

    host: str
    smb_port: int
    nfs_port: int
    admin: AdminClient
    logs: Sequence[Path]
    """Its own, and those of the nodes that it asks."""
    share: str = SHARE
    stable_share: str = STABLE
    """Continuously available, in the same volume."""
    user: str = USER
    password: str = PASSWORD
    elsewhere: str = ""
    """The node that coordinates the volume, if it is another one and has to stay."""

    def snapshot(self) -> str:
        """Takes one of the volume; gives its time as SMB clients name it."""
        made = self.admin.ask(api.Operations.create_snapshot, api.SnapshotName(VOLUME, ""))
        return datetime.fromisoformat(made.taken).astimezone(UTC).strftime("@GMT-%Y.%m.%d-%H.%M.%S")

    def check(self) -> None:
        """Raises `ServerBroke` unless the node answers, never had to say that it failed, and its volume is where it was."""
        try:
            coordinator = self.admin.ask(api.Operations.volume, VOLUME).coordinator
        except Exception as error:
            tail = "\n".join(self.logs[0].read_text(errors="replace").splitlines()[-60:])
            raise ServerBroke(f"the node does not answer any more: {error}\n{tail}") from error
        if self.elsewhere and coordinator != self.elsewhere:
            raise ServerBroke(f"the volume has moved from {self.elsewhere} to {coordinator or 'nowhere'}: what was tried is not what was meant")
        bad = [line for log in self.logs for line in log.read_text(errors="replace").splitlines() if any(mark in line for mark in _TROUBLE)]
        if bad:
            raise ServerBroke("the node's log tells of trouble:\n" + "\n".join(bad[:20]))


def add_shares(admin: AdminClient) -> None:
    """Those that suites ask for beside the plain one."""
    admin.ask(api.Operations.create_share, api.Share(HIDING, VOLUME, access_based_enumeration=True))
    admin.ask(api.Operations.create_share, api.Share(STABLE, VOLUME, continuously_available=True))


@contextmanager
def serving(folder: Path, unacknowledged: bool, lease_s: float) -> Iterator[ConformanceNode]:
    """A node with its data in `folder`, which goes with it. `unacknowledged`: it acts, when it is asked to, as if a connection's
    acknowledgements got lost."""
    settings = folder / "node" / "conf" / "sofs.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(_SETTINGS % lease_s)
    prefix = [sys.executable, str(Path(__file__).with_name("unacknowledged.py"))] if unacknowledged else []
    with RunningNode(folder / "node", prefix=prefix) as running:
        add_shares(running.admin)
        yield ConformanceNode(running.smb.host, running.smb.port, running.nfs.port, running.admin, [running.log])
    shutil.rmtree(folder / "node", ignore_errors=True)
