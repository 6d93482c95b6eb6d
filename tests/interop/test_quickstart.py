"""`sofs quickstart`, as the newcomer meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.interop.running import PASSWORD, SHARE, SOFS, USER, RunningNode
from tests.interop.smb import smbclient


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_with_status_0(fresh_node: RunningNode, number: signal.Signals) -> None:
    fresh_node.start()
    assert fresh_node.stop(number) == 0


def test_the_second_start_serves_the_same_data(fresh_node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear reader\n")
    with fresh_node:
        smbclient(fresh_node, f"put {tmp_path / 'letter'} letter")
    with fresh_node:
        smbclient(fresh_node, f"get letter {tmp_path / 'back'}")
    assert (tmp_path / "back").read_text() == "dear reader\n"


def test_a_killed_node_serves_what_was_closed(fresh_node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear reader\n")
    fresh_node.start()
    smbclient(fresh_node, f"put {tmp_path / 'letter'} letter")
    fresh_node.kill()
    with fresh_node:
        smbclient(fresh_node, f"get letter {tmp_path / 'back'}")
        assert list(fresh_node.admin.check(everything()))[-1].problems == []
    assert (tmp_path / "back").read_text() == "dear reader\n"


def everything():  # type: ignore[no-untyped-def]
    from sofs.admin.api import CheckRequest

    return CheckRequest()


def test_without_a_user_it_makes_one_and_tells_the_password_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = [SOFS, "quickstart", "--data", str(data), "--smb-port", "0", "--nfs-port", "0", "--json"]
    first = _start_and_stop(command)
    assert first["user"] == "sofs"
    assert len(first["generated_password"]) >= 12
    second = _start_and_stop(command)
    assert second["generated_password"] is None


@pytest.mark.parametrize(("address", "squash"), [("127.0.0.1", "none"), ("0.0.0.0", "root")])
def test_only_this_hosts_root_is_root_over_nfs(tmp_path: Path, address: str, squash: str) -> None:
    data = tmp_path / "data"
    command = [SOFS, "quickstart", "--data", str(data), "--smb-port", "0", "--nfs-port", "0", "--json", "--listen", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        shares = subprocess.run([SOFS, "share", "list", "--data", str(data), "--json"], check=True, capture_output=True)
        process.terminate()
        process.wait(20)
    assert [share["squash"] for share in json.loads(shares.stdout)] == [squash]


def test_a_share_that_was_made_for_this_host_is_not_opened_to_others_silently(tmp_path: Path) -> None:
    command = [SOFS, "quickstart", "--data", str(tmp_path / "data"), "--smb-port", "0", "--nfs-port", "0", "--json"]
    _start_and_stop(command)
    with subprocess.Popen([*command, "--listen", "0.0.0.0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.terminate()
        assert "anybody who reaches this address is root on share" in process.stderr.read()


def _start_and_stop(command: list[str]) -> dict:  # type: ignore[type-arg]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    return json.loads(line)


def test_a_second_node_on_the_same_data_is_refused(node: RunningNode) -> None:
    outcome = subprocess.run(
        [SOFS, "quickstart", "--data", str(node.data), "--smb-port", "0", "--nfs-port", "0"], capture_output=True, text=True, timeout=60
    )
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr
    assert str(node.data) in outcome.stderr


def test_a_broken_config_line_is_named_with_its_remedy(fresh_node: RunningNode) -> None:
    with fresh_node:
        pass
    config = fresh_node.data / "conf" / "sofs.toml"
    config.write_text("[smb]\nprot = 4450\n")
    outcome = subprocess.run([SOFS, "quickstart", "--data", str(fresh_node.data)], capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines()[-1] == f"sofs: {config}:2: unknown key `prot`; did you mean `port`?"


def test_a_changed_config_file_takes_effect_while_running(fresh_node: RunningNode) -> None:
    with fresh_node:
        config = fresh_node.data / "conf" / "sofs.toml"
        config.write_text(config.read_text().replace('level = "info"', 'level = "debug"'))
        deadline = time.monotonic() + 20
        while "config.changed" not in fresh_node.tail(500) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert '"setting": "log.level"' in fresh_node.tail(500)


def test_a_taken_port_is_told_by_its_number(node: RunningNode, tmp_path: Path) -> None:
    outcome = subprocess.run(
        [SOFS, "quickstart", "--data", str(tmp_path / "data"), "--smb-port", str(node.smb.port), "--nfs-port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome.returncode == 1
    assert str(node.smb.port) in outcome.stderr.splitlines()[-1]
    assert "Traceback" not in outcome.stderr


def test_the_ready_line_names_share_and_ports(node: RunningNode) -> None:
    assert (node.smb.host, node.smb.share) == ("127.0.0.1", SHARE)
    assert (node.nfs.host, node.nfs.share) == ("127.0.0.1", SHARE)
    assert USER and PASSWORD
