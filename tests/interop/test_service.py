"""`sofsd` under a service manager."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sofs.admin.api import Operations
from sofs.admin.client import AdminClient
from tests.interop.running import SOFS, RunningNode
from tests.interop.smb import smbclient

SOFSD = str(Path(SOFS).with_name("sofsd"))


class Manager:
    """The end of NOTIFY_SOCKET that systemd would hold."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(60)
        self._socket.bind(str(path))

    def told(self) -> str:
        return self._socket.recv(4096).decode()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def service(config: Path, manager: Manager, address: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "NOTIFY_SOCKET": str(address)}
    with (config.parent / "sofsd.log").open("wb") as log:
        process = subprocess.Popen([SOFSD, "--config", str(config)], env=environment, stderr=log)
    try:
        assert manager.told() == "READY=1", (config.parent / "sofsd.log").read_text()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_it_tells_when_it_is_ready_serves_and_stops_cleanly(fresh_node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("from quickstart to service\n")
    with fresh_node:
        smbclient(fresh_node, f"put {tmp_path / 'f'} f")
    address = tmp_path / "n"
    manager = Manager(address)
    with service(fresh_node.data / "conf" / "sofs.toml", manager, address) as process:
        status = AdminClient(data=fresh_node.data).ask(Operations.status)
        assert status.pid == process.pid
        ports = {endpoint.split(":")[0]: int(endpoint.rpartition(":")[2]) for endpoint in status.endpoints}
        fresh_node.smb = fresh_node.smb.__class__("127.0.0.1", ports["smb"], fresh_node.smb.share)
        smbclient(fresh_node, f"get f {tmp_path / 'back'}")
        assert (tmp_path / "back").read_text() == "from quickstart to service\n"
        process.send_signal(signal.SIGTERM)
        assert manager.told() == "STOPPING=1"
        assert process.wait(60) == 0
    manager.close()


def test_an_empty_node_starts_and_is_made_useful_by_commands(tmp_path: Path) -> None:
    config = tmp_path / "sofs.toml"
    config.write_text("[node]\ndata_dir = 'data'\n[smb]\nport = 0\naddresses = ['127.0.0.1']\n[nfs]\nport = 0\naddresses = ['127.0.0.1']\n")
    address = tmp_path / "n"
    manager = Manager(address)
    with service(config, manager, address):
        for command in (
            ("disk", "add", str(tmp_path / "disk"), "--size-gib", "1"),
            ("volume", "create", "default"),
            ("share", "create", "first"),
            ("user", "add", "alice:Secret-1"),
        ):
            outcome = subprocess.run([SOFS, *command, "--data", str(tmp_path / "data")], capture_output=True, text=True, timeout=60)
            assert outcome.returncode == 0, outcome.stderr
        listed = subprocess.run([SOFS, "share", "list", "--json", "--data", str(tmp_path / "data")], capture_output=True, timeout=60)
        assert [share["name"] for share in json.loads(listed.stdout)] == ["first"]
    manager.close()


def test_a_missing_config_file_is_told() -> None:
    outcome = subprocess.run([SOFSD, "--config", "/nowhere/sofs.toml"], capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 1
    assert outcome.stderr == ("sofsd: /nowhere/sofs.toml: cannot be read (No such file or directory); `--config` says where the file is\n")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    unit = tmp_path / "sofsd@main.service"
    shutil.copy(Path(__file__).parents[2] / "systemd" / "sofsd@.service", unit)
    outcome = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    assert (outcome.returncode, outcome.stdout + outcome.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("TimeoutStopSec=", "TimeoutStoppSec="))
    outcome = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    assert "TimeoutStoppSec" in outcome.stderr, "the check can fail"
