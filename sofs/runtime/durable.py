"""Whole small files, such as configurations and keys, which a loss of power leaves as they were or as they are to be.

These are files of the host, with rights, which people and other programs read. `whole` does the same over the port `Files` for what is the node's alone.
"""

from __future__ import annotations

import os
from pathlib import Path


def replace(path: Path, content: bytes, mode: int | None = None) -> None:
    """Durably, in a directory that is there. Nobody ever sees it half written or with other rights: `mode`, else those of the file before, else 0600.
    Raises `OSError`."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    if mode is None:
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o600
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    _sync(path.parent)


def make_directory(path: Path) -> None:
    """With its parents, durably. Raises `OSError`."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _sync(each.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
