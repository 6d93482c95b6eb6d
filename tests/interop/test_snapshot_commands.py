"""`sofs snapshot` against a running node: what clients write is kept, shown, brought back and given up."""

from __future__ import annotations

from pathlib import Path

from tests.interop.running import RunningNode
from tests.interop.smb import smbclient
from tests.interop.test_commands import ask, refused


def put(node: RunningNode, tmp_path: Path, text: str) -> None:
    source = tmp_path / "source"
    source.write_text(text)
    smbclient(node, f"put {source} kept.txt")


def got(node: RunningNode, tmp_path: Path) -> str:
    target = tmp_path / "target"
    smbclient(node, f"get kept.txt {target}")
    return target.read_text()


def test_a_snapshot_is_taken_listed_restored_and_deleted(node: RunningNode, tmp_path: Path) -> None:
    put(node, tmp_path, "first " * 5000)
    made = ask(node, "snapshot", "create", "default", "morning")
    assert (made["name"], made["volume"], made["held"]) == ("morning", "default", 0)
    assert "morning" in refused(node, "snapshot", "create", "default", "morning")
    put(node, tmp_path, "second")
    (listed,) = ask(node, "snapshot", "list", "default")
    assert listed["held"] == 8 * 4096, "the pages of 30,000 bytes are held by the snapshot alone"
    before = ask(node, "snapshot", "restore", "default", "morning")
    assert got(node, tmp_path) == "first " * 5000
    ask(node, "snapshot", "restore", "default", before["name"])
    assert got(node, tmp_path) == "second"
    for snapshot in ask(node, "snapshot", "list", "default"):
        ask(node, "snapshot", "delete", "default", snapshot["name"])
    assert ask(node, "snapshot", "list", "default") == []
    assert "no snapshot 'morning'" in refused(node, "snapshot", "restore", "default", "morning")
    check = ask(node, "check")
    assert check["problems"] == []
