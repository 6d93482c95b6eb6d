"""`sofs quota` against a running node: limits are set, shown and taken away, and a client is held to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sofs.cli.quotas import size
from sofs.errors import InvalidArgument
from tests.interop.running import RunningNode
from tests.interop.smb import smbclient
from tests.interop.test_commands import ask, refused

MIB = 1 << 20


def test_a_quota_is_set_shown_listed_kept_to_and_deleted(node: RunningNode, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(MIB))
    smbclient(node, f"mkdir team; put {source} team/one")
    made = ask(node, "quota", "set", "default", "--directory", "/team", "--hard", "1.5M", "--files", "10")
    assert (made["kind"], made["subject"], made["hard_bytes"]) == ("directory", "/team", 3 * MIB // 2)
    with pytest.raises(AssertionError, match="DISK_FULL"):
        smbclient(node, f"put {source} team/two")
    smbclient(node, "del team/two")
    smbclient(node, f"put {source} outside")
    shown = ask(node, "quota", "show", "default", "--directory", "team")
    assert (shown["used_bytes"], shown["used_files"], shown["hard_files"]) == (MIB, 2, 10)
    ask(node, "quota", "set", "default", "--hard", "1G")
    listed = {(each["kind"], each["subject"]): each for each in ask(node, "quota", "list", "default")}
    assert listed["volume", ""]["used_bytes"] >= 2 * MIB
    assert listed["directory", "/team"] == shown
    assert ("user", "alice") in listed or any(kind == "user" for kind, _ in listed)
    assert ask(node, "check")["problems"] == []
    ask(node, "quota", "delete", "default", "--directory", "team")
    ask(node, "quota", "delete", "default")
    assert ask(node, "quota", "list", "default") == []
    assert "no such quota" in refused(node, "quota", "show", "default")
    assert "limit" in refused(node, "quota", "set", "default")
    assert "nobody" in refused(node, "quota", "set", "default", "--user", "nobody", "--hard", "1G")
    assert "not a size" in refused(node, "quota", "set", "default", "--hard", "much")
    assert ask(node, "check")["problems"] == []


@pytest.mark.parametrize(("text", "count"), [("0", 0), ("4096", 4096), ("1k", 1024), ("10GiB", 10 << 30), ("1.5 T", 3 << 39), ("2MB", 2 << 20)])
def test_sizes_are_read_with_binary_units(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "x", "-1", "1Z", "1 0", "0x10"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        size(text)
