"""Configurations and keys as files of the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sofs.runtime import durable


def test_a_file_is_replaced_with_its_rights_and_synced_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "conf" / "sofs.toml"
    done: list[str] = []
    sync, rename = os.fsync, Path.rename

    def synced(file: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{file}').resolve().name}")
        sync(file)

    def renamed(self: Path, to: Path) -> Path:
        done.append("rename")
        return rename(self, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    durable.make_directory(path.parent)
    assert done == ["sync new", f"sync {tmp_path.name}"], "each new name is in a directory that was synced"
    done.clear()
    durable.replace(path, b"first")
    assert done == ["sync sofs.toml.new", "rename", "sync conf"]
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    (path.parent / "sofs.toml.new").write_bytes(b"what a crash has left")
    durable.replace(path, b"second")
    assert path.read_bytes() == b"second" and path.stat().st_mode & 0o777 == 0o640
    durable.replace(path, b"third", 0o644)
    assert path.stat().st_mode & 0o777 == 0o644 and list(path.parent.iterdir()) == [path]
