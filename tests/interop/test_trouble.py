"""Bad input and bad luck: each is told in the right words, and nothing else suffers."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from tests.interop.conftest import digest, write_random
from tests.interop.directories import NfsDirectory
from tests.interop.running import Endpoint, RunningNode
from tests.interop.smb import smbclient
from tests.interop.test_commands import ask

NFS3ERR_NOSPC = 28

GARBAGE = {
    "an endless header": b"\xff\xff\xff\xff" + b"x" * 100,
    "an empty message": b"\0\0\0\0",
    "a message that is no request": b"\0\0\0\x40" + b"\xfeSMB" + b"\0" * 60,
    "a record of noise": b"\x80\0\0\x20" + bytes(range(32)),
    "a command of SMB 1": b"\0\0\0\x23" + b"\xffSMB\x73" + b"\0" * 30,
}


@pytest.mark.parametrize("protocol", ["smb", "nfs"])
@pytest.mark.parametrize("kind", GARBAGE)
def test_a_malformed_packet_drops_only_its_own_connection(node: RunningNode, protocol: str, kind: str) -> None:
    endpoint = getattr(node, protocol)
    with socket.create_connection((endpoint.host, endpoint.port), timeout=30) as stranger:
        stranger.sendall(GARBAGE[kind])
        stranger.shutdown(socket.SHUT_WR)
        stranger.settimeout(30)
        while stranger.recv(4096):
            pass
    assert "blocks available" in smbclient(node, "du")


def test_a_dropped_connection_is_logged_with_its_reason(node: RunningNode) -> None:
    with socket.create_connection((node.smb.host, node.smb.port), timeout=30) as stranger:
        stranger.sendall(b"\0\0\0\x40" + b"\xfeBAD" + b"\0" * 60)
        assert stranger.recv(4096) == b""
    assert "the peer broke the protocol" in node.tail(500)


def fill(node: RunningNode, share: str, source: Path, most: int) -> int:
    """Copies of `source` are put until there is no room; how many fitted."""
    for number in range(most):
        printed = smbclient(node, f"put {source} filling-{number}", share=share, check=False)
        if "NT_STATUS_DISK_FULL" in printed:
            return number
        assert "NT_STATUS_" not in printed, printed
    raise AssertionError(f"{most} files fitted")


def test_a_full_disk_is_told_and_emptied_again(node: RunningNode, tmp_path: Path) -> None:
    ask(node, "disk", "add", str(tmp_path / "small"), "--pool", "small", "--size-gib", "1")
    ask(node, "volume", "create", "small", "--pool", "small")
    ask(node, "share", "create", "small", "--volume", "small", "--squash", "none")
    write_random(tmp_path / "out", 200)
    fitted = fill(node, "small", tmp_path / "out", 6)
    assert fitted >= 3
    over_nfs = NfsDirectory(Endpoint(node.nfs.host, node.nfs.port, "small"), "over")
    over_nfs.create("it")
    with pytest.raises(AssertionError, match=f"WRITE was answered {NFS3ERR_NOSPC}"):
        for number in range(16 * 1024):
            over_nfs.write("it", number << 17, b"x" * (1 << 17))
    over_nfs.close()
    smbclient(node, f"get filling-0 {tmp_path / 'back'}", share="small")
    assert digest(tmp_path / "back") == digest(tmp_path / "out")
    smbclient(node, *(f"del filling-{number}" for number in range(fitted)), share="small")
    smbclient(node, "del over\\it", "rmdir over", f"del filling-{fitted}", share="small", check=False)
    # Space comes back in the background, once no recovery can need it any more.
    deadline = time.monotonic() + 60
    while ask(node, "volume", "show", "small")["free"] < 700 << 20 and time.monotonic() < deadline:
        time.sleep(0.5)
    smbclient(node, f"put {tmp_path / 'out'} again", f"get again {tmp_path / 'back'}", share="small")
    assert digest(tmp_path / "back") == digest(tmp_path / "out")
    assert ask(node, "check", "small")["problems"] == []


def mirrored(node: RunningNode, home: Path) -> None:
    for name in ("left", "right"):
        ask(node, "disk", "add", str(home / name), "--pool", "pair", "--size-gib", "2")
    ask(node, "volume", "create", "safe", "--pool", "pair", "--policy", "mirror(2)")
    ask(node, "share", "create", "safe", "--volume", "safe", "--squash", "none")


def test_a_missing_disk_leaves_a_mirrored_volume_in_service(fresh_node: RunningNode, tmp_path: Path) -> None:
    write_random(tmp_path / "out", 64)
    with fresh_node:
        mirrored(fresh_node, tmp_path)
        smbclient(fresh_node, f"put {tmp_path / 'out'} before", share="safe")
    os.rename(tmp_path / "left", tmp_path / "pulled")
    with fresh_node:
        states = {Path(disk["path"]).name: disk["state"] for disk in ask(fresh_node, "disk", "list")}
        assert states["left"] == "missing" and states["right"] == "healthy"
        volume = ask(fresh_node, "volume", "show", "safe")
        assert volume["state"] == "degraded" and "1 of 2 replicas" in volume["reason"]
        smbclient(fresh_node, f"get before {tmp_path / 'back'}", f"put {tmp_path / 'out'} during", share="safe")
        assert digest(tmp_path / "back") == digest(tmp_path / "out")
    os.rename(tmp_path / "pulled", tmp_path / "left")
    with fresh_node:
        for name in ("before", "during"):
            smbclient(fresh_node, f"get {name} {tmp_path / 'back'}", share="safe")
            assert digest(tmp_path / "back") == digest(tmp_path / "out")
        states = {Path(disk["path"]).name: disk["state"] for disk in ask(fresh_node, "disk", "list")}
        assert states["left"] == "healthy"
        # What came back is not believed: the volume's log gets a new replica there.
        deadline = time.monotonic() + 120
        while ask(fresh_node, "volume", "show", "safe")["state"] != "serving" and time.monotonic() < deadline:
            time.sleep(0.5)
        assert ask(fresh_node, "volume", "show", "safe")["log_replicas"] == 2
        assert ask(fresh_node, "check", "safe")["problems"] == []


def test_without_its_only_disk_a_volume_fails_and_the_others_serve(fresh_node: RunningNode, tmp_path: Path) -> None:
    with fresh_node:
        ask(fresh_node, "disk", "add", str(tmp_path / "lone"), "--pool", "lone", "--size-gib", "1")
        ask(fresh_node, "volume", "create", "lone", "--pool", "lone")
        ask(fresh_node, "share", "create", "lone", "--volume", "lone")
    os.rename(tmp_path / "lone", tmp_path / "pulled")
    with fresh_node:
        volume = ask(fresh_node, "volume", "show", "lone")
        assert volume["state"] == "failed" and "bring one back" in volume["reason"]
        assert "blocks available" in smbclient(fresh_node, "du")
        assert "NT_STATUS_" in smbclient(fresh_node, "ls", share="lone", check=False)


def test_a_flipped_bit_is_repaired_from_the_other_copy(fresh_node: RunningNode, tmp_path: Path) -> None:
    write_random(tmp_path / "out", 32)
    with fresh_node:
        mirrored(fresh_node, tmp_path)
        smbclient(fresh_node, f"put {tmp_path / 'out'} kept", share="safe")
    damaged = _flip(tmp_path / "left", (tmp_path / "out").read_bytes()[8 << 20 : (8 << 20) + 64])
    assert damaged, "the data is nowhere on the disk"
    with fresh_node:
        smbclient(fresh_node, f"get kept {tmp_path / 'back'}", share="safe")
        assert digest(tmp_path / "back") == digest(tmp_path / "out")
        assert ask(fresh_node, "check", "safe")["problems"] == []


def _flip(disk: Path, wanted: bytes) -> int:
    """Flip a bit wherever the bytes stand in the disk's files; how often they stood there."""
    found = 0
    for path in sorted(disk.rglob("*")):
        if not path.is_file():
            continue
        with path.open("r+b") as file:
            content = file.read()
            at = content.find(wanted)
            while at >= 0:
                file.seek(at + 10)
                file.write(bytes([content[at + 10] ^ 4]))
                found += 1
                at = content.find(wanted, at + 1)
    return found
