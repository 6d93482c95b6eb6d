"""Samba's smbclient, Debian's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.interop.conftest import digest, write_random
from tests.interop.running import PASSWORD, USER, RunningNode
from tests.interop.smb import smbclient

PROTECTIONS = {"signed": ("--client-protection=sign",), "encrypted": ("--client-protection=encrypt",)}


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_files_come_back_as_they_went(node: RunningNode, tmp_path: Path, protection: str) -> None:
    write_random(tmp_path / "out", 16)
    options = PROTECTIONS[protection]
    name = f"file-{protection}"
    listing = smbclient(node, f"put {tmp_path / 'out'} {name}", f"ls {name}", options=options)
    assert str(16 << 20) in listing
    smbclient(node, f"get {name} {tmp_path / 'back'}", f"del {name}", options=options)
    assert digest(tmp_path / "back") == digest(tmp_path / "out")
    assert "NO_SUCH_FILE" in smbclient(node, f"ls {name}", options=options, check=False)


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_a_gibibyte_keeps_its_checksum(node: RunningNode, tmp_path: Path, protection: str) -> None:
    write_random(tmp_path / "out", 1024)
    options = PROTECTIONS[protection]
    smbclient(node, f"put {tmp_path / 'out'} big", f"get big {tmp_path / 'back'}", "del big", options=options)
    assert digest(tmp_path / "back") == digest(tmp_path / "out")
    for name in ("out", "back"):
        (tmp_path / name).unlink()


def test_directories_are_made_renamed_listed_and_removed(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    smbclient(node, "mkdir d", f"put {tmp_path / 'f'} d\\f", "rename d e", "rename e\\f e\\g")
    listing = smbclient(node, "ls e\\*")
    assert " g " in listing and " f " not in listing
    refused = smbclient(node, "rmdir e", check=False)
    assert "DIRECTORY_NOT_EMPTY" in refused
    smbclient(node, "del e\\g", "rmdir e")
    assert "NO_SUCH_FILE" in smbclient(node, "ls e", check=False)


def test_names_match_in_any_case_and_keep_theirs(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    smbclient(node, f"put {tmp_path / 'f'} MiXeD-Ä.txt")
    assert "MiXeD-Ä.txt" in smbclient(node, "ls mixed-ä.TXT")


def test_a_wildcard_lists_what_it_matches(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    puts = [f"put {tmp_path / 'f'} w\\{name}" for name in ("one.txt", "two.txt", "three.doc")]
    smbclient(node, "mkdir w", *puts)
    listing = smbclient(node, "ls w\\*.txt")
    assert "one.txt" in listing and "two.txt" in listing and "three.doc" not in listing


def test_a_long_directory_is_listed_whole(node: RunningNode, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(1500):
        (source / f"entry-{number:04}").touch()
    smbclient(node, "mkdir many", "cd many", f"lcd {source}", "prompt", "mput *")
    listing = smbclient(node, "ls many\\*")
    assert sum("entry-" in line for line in listing.splitlines()) == 1500


def test_shares_are_listed(node: RunningNode) -> None:
    outcome = subprocess.run(
        ["smbclient", "-L", f"//{node.smb.host}", "-p", str(node.smb.port), "-U", f"{USER}%{PASSWORD}", "-m", "SMB3_11"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr + node.tail()
    assert any(line.split()[:2] == [node.smb.share, "Disk"] for line in outcome.stdout.splitlines())
    assert any(line.split()[:2] == ["IPC$", "IPC"] for line in outcome.stdout.splitlines())


def test_a_wrong_password_is_a_logon_failure(node: RunningNode) -> None:
    assert "NT_STATUS_LOGON_FAILURE" in smbclient(node, "ls", password="wrong", check=False)


def test_an_unknown_user_is_a_logon_failure(node: RunningNode) -> None:
    assert "NT_STATUS_LOGON_FAILURE" in smbclient(node, "ls", user="stranger", check=False)


def test_an_unknown_share_is_a_bad_network_name(node: RunningNode) -> None:
    assert "NT_STATUS_BAD_NETWORK_NAME" in smbclient(node, "ls", share="nowhere", check=False)


def test_free_space_is_told(node: RunningNode) -> None:
    assert "blocks available" in smbclient(node, "du")


def test_attributes_can_be_set_and_cleared(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    smbclient(node, f"put {tmp_path / 'f'} attributes", "setmode attributes +rh")
    assert _attributes(node, "attributes") >= {"R", "H"}
    refused = smbclient(node, "del attributes", check=False)
    assert "CANNOT_DELETE" in refused
    smbclient(node, "setmode attributes -rh")
    assert not _attributes(node, "attributes") & {"R", "H"}
    smbclient(node, "del attributes")


def _attributes(node: RunningNode, name: str) -> set[str]:
    """The letters that a listing shows between name and size."""
    line = next(line for line in smbclient(node, f"ls {name}").splitlines() if line.split()[:1] == [name])
    return set(line.split()[1])


def test_a_named_stream_is_a_file_of_its_own(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "main").write_text("main")
    (tmp_path / "side").write_text("beside")
    put = [f"put {tmp_path / 'main'} s", f"put {tmp_path / 'side'} s:extra"]
    smbclient(node, *put, f"get s:extra {tmp_path / 'back'}", f"get s {tmp_path / 'again'}")
    assert (tmp_path / "back").read_text() == "beside"
    assert (tmp_path / "again").read_text() == "main"
    smbclient(node, "del s")
    assert "NOT_FOUND" in smbclient(node, f"get s:extra {tmp_path / 'gone'}", check=False)
