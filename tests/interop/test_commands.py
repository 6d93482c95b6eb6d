"""`sofs` against a running node, as an operator types it."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from smbclient import open_file, reset_connection_cache
from smbprotocol.exceptions import FileClosed

from tests.interop.running import PASSWORD, SHARE, SOFS, USER, RunningNode
from tests.interop.smb import smbclient
from tests.protocol.nfs4_client import Nfs4Client
from tests.protocol.nfs4_scenes import open_file as nfs4_open


def sofs(node: RunningNode, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([SOFS, *arguments, "--data", str(node.data)], capture_output=True, text=True, timeout=120, input=stdin)


def ask(node: RunningNode, *arguments: str, stdin: str = "") -> Any:
    """The command's answer in JSON; it must succeed."""
    outcome = sofs(node, *arguments, "--json", stdin=stdin)
    assert outcome.returncode == 0, outcome.stderr + node.tail()
    return json.loads(outcome.stdout)


def refused(node: RunningNode, *arguments: str) -> str:
    """The one line with which the command failed."""
    outcome = sofs(node, *arguments)
    assert outcome.returncode == 1
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    return line


def test_status_shows_endpoints_disks_volumes_and_shares(node: RunningNode) -> None:
    status = ask(node, "status")
    assert status["pid"] == node.pid
    assert status["endpoints"] == [f"smb://127.0.0.1:{node.smb.port}", f"nfs://127.0.0.1:{node.nfs.port}"]
    assert sorted((disk["tier"], disk["state"]) for disk in status["disks"]) == [("hdd", "healthy"), ("ssd", "healthy")]
    assert [(volume["name"], volume["state"]) for volume in status["volumes"]] == [("default", "serving")]
    assert [share["name"] for share in status["shares"]] == [SHARE]
    assert "serving" in sofs(node, "status").stdout


def test_a_volume_on_new_disks_is_shared_and_used(node: RunningNode, tmp_path: Path) -> None:
    for name in ("a", "b"):
        added = ask(node, "disk", "add", str(tmp_path / name), "--pool", "pair", "--size-gib", "2")
        assert (added["pool"], added["state"]) == ("pair", "healthy")
    assert [pool["disks"] for pool in ask(node, "pool", "list") if pool["name"] == "pair"] == [2]
    volume = ask(node, "volume", "create", "safe", "--pool", "pair", "--policy", "mirror(2)")
    assert (volume["log_replicas"], volume["state"]) == (2, "serving")
    share = ask(node, "share", "create", "Projects", "--volume", "safe", "--comment", "shared work", "--squash", "none")
    assert share["protocols"] == ["smb", "nfs"]
    (tmp_path / "f").write_text("kept twice\n")
    smbclient(node, f"put {tmp_path / 'f'} f", "mkdir sub", share="projects")
    assert ask(node, "volume", "show", "safe")["files"] >= 2
    ask(node, "share", "create", "part", "--volume", "safe", "--path", "sub", "--read-only")
    assert "ACCESS_DENIED" in smbclient(node, f"put {tmp_path / 'f'} f", share="part", check=False) or "WRITE_PROTECTED" in smbclient(
        node, f"put {tmp_path / 'f'} f", share="part", check=False
    )
    for name in ("Projects", "part"):
        assert ask(node, "share", "delete", name) == {"deleted": name}
    assert "BAD_NETWORK_NAME" in smbclient(node, "ls", share="projects", check=False)
    assert ask(node, "check", "safe")["problems"] == []


def test_a_policy_that_cannot_be_met_is_refused_or_forced(node: RunningNode) -> None:
    line = refused(node, "volume", "create", "thrice", "--policy", "mirror(3)")
    assert "mirror(3) needs 3 disks" in line and "add disks" in line
    forced = ask(node, "volume", "create", "thrice", "--policy", "mirror(3)", "--force")
    assert forced["state"] == "degraded" and "2 of 3 replicas" in forced["reason"]


def test_users_come_and_go(node: RunningNode) -> None:
    added = ask(node, "user", "add", "alice:First-1", "--group", "1200")
    assert added["groups"] == [1200]
    smbclient(node, "ls", user="alice", password="First-1")
    assert "exists already" in refused(node, "user", "add", "alice:Second-2")
    ask(node, "user", "add", "alice", "--password-stdin", "--replace", stdin="Second-2\n")
    assert "LOGON_FAILURE" in smbclient(node, "ls", user="alice", password="First-1", check=False)
    smbclient(node, "ls", user="ALICE", password="Second-2")
    assert {user["name"] for user in ask(node, "user", "list")} >= {"alice", USER}
    assert "First" not in json.dumps(ask(node, "user", "list"))
    ask(node, "user", "delete", "alice")
    assert "LOGON_FAILURE" in smbclient(node, "ls", user="alice", password="Second-2", check=False)


def test_an_open_is_listed_and_closed_by_force(node: RunningNode) -> None:
    at: dict[str, Any] = {"port": node.smb.port, "username": USER, "password": PASSWORD, "connection_cache": {}}
    file = open_file(rf"\\{node.smb.host}\{node.smb.share}\held", mode="wb", buffering=0, **at)
    (held,) = [found for found in ask(node, "open", "list") if found["path"].endswith("held")]
    assert held["client"] == f"{USER}@127.0.0.1" and held["protocol"] == "smb" and "write" in held["access"]
    ask(node, "open", "close", held["id"])
    assert not [found for found in ask(node, "open", "list") if found["path"].endswith("held")]
    with pytest.raises(FileClosed):
        file.write(b"too late")
    file.close()
    reset_connection_cache(connection_cache=at["connection_cache"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("volume", "show", "nothing"), "there is no volume nothing"),
        (("share", "delete", "nothing"), "there is no share nothing"),
        (("share", "create", "a/b"), "a share's name cannot hold"),
        (("share", "create", SHARE), f"share {SHARE} exists already"),
        (("share", "create", "deep", "--path", "no/such"), "no/such in volume default"),
        (("user", "delete", "nobody"), "there is no user nobody"),
        (("open", "close", "zzz"), "there is no open zzz"),
        (("volume", "create", "x", "--policy", "mirror(9)"), "mirror(9)"),
        (("volume", "create", "x", "--pool", "none"), "there is no pool none"),
        (("check", "nothing"), "there is no volume nothing"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(node: RunningNode, arguments: tuple[str, ...], told: str) -> None:
    line = refused(node, *arguments)
    assert line.startswith("sofs: ") and told in line


def test_a_disk_with_something_on_it_is_refused(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    assert "--force" in refused(node, "disk", "add", str(tmp_path))
    own = next(disk["path"] for disk in ask(node, "disk", "list"))
    assert own in refused(node, "disk", "add", own)
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


def test_without_a_node_the_remedy_is_told(tmp_path: Path) -> None:
    outcome = subprocess.run([SOFS, "status", "--data", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 1
    assert f"sofs quickstart --data {tmp_path}" in outcome.stderr


def test_a_stopped_node_is_checked_offline(fresh_node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    with fresh_node:
        smbclient(fresh_node, f"put {tmp_path / 'f'} f")
    answer = ask(fresh_node, "check")
    assert answer["problems"] == [] and answer["facts"]["files"] >= 2


def test_the_admin_interface_over_tcp_wants_the_token_and_metrics_do_not(fresh_node: RunningNode) -> None:
    with fresh_node:
        pass
    config = fresh_node.data / "conf" / "sofs.toml"
    port = _free_port()
    text = config.read_text().replace("[admin]", "[admin]").replace("port = 0\n\n# A file with", f"port = {port}\n\n# A file with")
    config.write_text(text)
    with fresh_node:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        assert 'sofs_volume_state{state="serving",volume="default"} 1.0' in text
        assert 'sofs_requests_repeated_total{protocol="nfs"} 0.0' in text
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/volumes", headers={"Authorization": "Bearer \xff\xfe"})
        assert connection.getresponse().status == 401, "a header that is not UTF-8 is no token"
        connection.close()
        command = [SOFS, "volume", "list", "--node", f"127.0.0.1:{port}"]
        without = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert without.returncode == 1 and "token" in without.stderr
        token = str(fresh_node.data / "admin.token")
        with_it = subprocess.run([*command, "--token-file", token], capture_output=True, text=True, timeout=60)
        assert with_it.returncode == 0, with_it.stderr


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_open_of_nfs_is_listed_with_its_client_also_after_the_node_was_killed(tmp_path: Path) -> None:
    async def hold(port: int) -> None:
        async with await Nfs4Client.connect(port, minor=1, persist=True) as client:
            await nfs4_open(client, await client.root(SHARE), "held over nfs")

    node = RunningNode(tmp_path / "data")
    node.start()
    try:
        asyncio.run(hold(node.nfs.port))
        held: dict[str, Any] = {}
        for _ in range(2):
            (held,) = [found for found in ask(node, "open", "list") if found["path"].endswith("held over nfs")]
            assert held["client"].startswith("uid 1000 at ") and held["protocol"] == "nfs4.1" and "write" in held["access"]
            assert [volume["name"] for volume in ask(node, "volume", "list")] == ["default"], "the node's own is hidden"
            node.kill()
            node.start()
        ask(node, "open", "close", held["id"])
        assert not [found for found in ask(node, "open", "list") if found["path"].endswith("held over nfs")]
    finally:
        node.stop()
