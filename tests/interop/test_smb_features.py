"""What real SMB clients see of notifications, links and previous versions."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import smbclient as python_client

from sofs.admin import api
from tests.interop.running import PASSWORD, USER, RunningNode
from tests.interop.smb import smbclient


def test_smbclient_is_notified_of_changes_over_smb_and_nfs(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    smbclient(node, "mkdir watched")
    output = tmp_path / "told"
    command = [
        *("stdbuf", "-oL", "smbclient", f"//{node.smb.host}/{node.smb.share}", "-p", str(node.smb.port)),
        *("-U", f"{USER}%{PASSWORD}", "-m", "SMB3_11", "-c", "notify watched"),
    ]
    with output.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as watcher:
        try:
            wanted = {}
            for number in range(60):  # until the watch has begun, changes go untold
                smbclient(node, f"put {tmp_path / 'f'} watched\\smb{number}")
                subprocess.run(["nfs-cp", str(tmp_path / "f"), node.nfs_url(f"watched/nfs{number}")], check=True, capture_output=True)
                time.sleep(0.2)
                told = output.read_text()
                wanted = {protocol: f"0001 {protocol}" in told for protocol in ("smb", "nfs")}
                if all(wanted.values()):
                    break
            assert all(wanted.values()), output.read_text()
        finally:
            watcher.kill()


def test_links_made_over_smb_are_links_over_nfs(node: RunningNode) -> None:
    python_client.register_session(node.smb.host, username=USER, password=PASSWORD, port=node.smb.port)
    base = rf"\\{node.smb.host}\{node.smb.share}"
    options = {"port": node.smb.port}
    with python_client.open_file(rf"{base}\pointed-at", mode="w", **options) as file:
        file.write("content")
    python_client.symlink(rf"{base}\pointed-at", rf"{base}\link", **options)
    assert python_client.readlink(rf"{base}\link", **options).endswith("pointed-at")
    with python_client.open_file(rf"{base}\link", **options) as file:
        assert file.read() == "content"
    listed = subprocess.run(["nfs-ls", node.nfs_url()], capture_output=True, text=True, check=True).stdout
    line = next(line for line in listed.splitlines() if line.endswith(" link"))
    assert line.startswith("l")
    python_client.reset_connection_cache()


def test_previous_versions_are_listed_and_read(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old content")
    (tmp_path / "new").write_text("new content, longer")
    smbclient(node, f"put {tmp_path / 'old'} versioned")
    made = node.admin.ask(api.Operations.create_snapshot, api.SnapshotName("default", "before"))
    smbclient(node, f"put {tmp_path / 'new'} versioned")
    token = datetime.fromisoformat(made.taken).astimezone(UTC).strftime("@GMT-%Y.%m.%d-%H.%M.%S")
    assert token in smbclient(node, "allinfo versioned")
    smbclient(node, f"get {token}\\versioned {tmp_path / 'back'}", f"get versioned {tmp_path / 'now'}")
    assert (tmp_path / "back").read_text() == "old content"
    assert (tmp_path / "now").read_text() == "new content, longer"
