"""A suite's node in a cluster of three, none of whose volumes it coordinates: each request goes on to another node, and what the volume has to say to the
client comes from there."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sofs.admin import api
from sofs.admin.client import AdminClient
from tests.conformance.node import VOLUME, ConformanceNode, add_shares
from tests.interop.running import PASSWORD, SOFS, USER

NODES = 3
PLAIN = "plain"
"""The share that a lab has anyway is continuously available."""
STOP_S = 120.0
_NO_INTERFACE = "The lab's addresses are the loopback's, but no interface's: the list of interfaces is empty."
MISSES = {
    "smb2.ioctl": {"smb2.ioctl.network_interface_info": _NO_INTERFACE, "smb2.ioctl.bug14788.NETWORK_INTERFACE": _NO_INTERFACE},
    "ioctl": {"ioctl.QueryNetworkInterfaceInfo.test_query_interface_info_smb3": _NO_INTERFACE},
}
"""Tests that are known to fail here, and not at a node alone: {group: {test: reason}}."""
_HERE = Path(__file__).parent


@contextmanager
def serving(folder: Path, unacknowledged: bool, lease_s: float) -> Iterator[ConformanceNode]:
    """As `node.serving`."""
    sofsd = ""
    data = folder / "lab"
    data.mkdir(parents=True)
    if unacknowledged:
        program = data / "sofsd"
        command = (sys.executable, str(_HERE / "unacknowledged.py"), str(Path(SOFS).with_name("sofsd")))
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        program.chmod(0o700)
        sofsd = str(program)
    with (data / "lab.log").open("ab") as log:
        command = (sys.executable, str(_HERE / "lab.py"), str(lease_s), sofsd, "--data", str(data), "--nodes", str(NODES), "--etcd", "1")
        lab = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert lab.stdout
    try:
        line = lab.stdout.readline()
        assert line, f"the lab did not start:\n{(data / 'lab.log').read_text()[-4000:]}"
        yield _placed(data, json.loads(line))
    finally:
        lab.send_signal(signal.SIGTERM)
        try:
            lab.wait(STOP_S)
        finally:
            lab.kill()
            lab.wait()
            lab.stdout.close()
    shutil.rmtree(data)


def _placed(data: Path, about: dict[str, Any]) -> ConformanceNode:
    """The last node, with the volume at the second; at the first, which founded the cluster, the system volume is, and so none is moved to make them even."""
    node, second = about["nodes"][-1], about["nodes"][1]["name"]
    admin = AdminClient(data=Path(node["data"]), timeout=120)
    admin.ask(api.Operations.move_volume, api.Move(VOLUME, second))
    admin.ask(api.Operations.create_share, api.Share(PLAIN, VOLUME, squash="none"))
    add_shares(admin)
    admin.ask(api.Operations.add_user, api.NewUser(USER, PASSWORD))
    host, smb_port = node["smb"].split(":")
    logs = [data / f"{each['name']}.log" for each in reversed(about["nodes"])]
    return ConformanceNode(host, int(smb_port), int(node["nfs"].split(":")[1]), admin, logs, PLAIN, elsewhere=second)
