"""Which incarnation of a node runs on a data directory, and the proof that one has ended.

`DATA/incarnation` is lock and record in one file. A starting process takes its lock, finds there the incarnation that ran before, writes its own,
and keeps the lock until it ends; the kernel lets go of it then, however that came. So whoever can take the lock knows that the process which the file names has
ended: a supervisor that reaped it, or the next process on the same data. Neither needs the coordination store for that, which may be down, nor
the record under `nodes/`, which a process that died early never wrote.

The record is one line of fixed length: node, incarnation, and their CRC32C, all hexadecimal. One that is torn (by a loss of power) names
nobody, which proves nothing and harms nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from crc32c import crc32c

from sofs.cluster import Incarnation, NodeId
from sofs.errors import Unavailable
from sofs.runtime.ports import File, Files

FILE = "incarnation"
"""Its name in the data directory."""
_LENGTH = 16 + 1 + 16 + 1 + 8 + 1


class Ran(NamedTuple):
    """A process of a node."""

    node: NodeId
    incarnation: Incarnation


class Claim:
    """The data directory is this process's until `close`."""

    def __init__(self, file: File, former: Ran | None) -> None:
        self._file = file
        self.former = former
        """The process before this one, which is thereby known to have ended."""

    def close(self) -> None:
        self._file.close()


def claim(files: Files, directory: str, node: NodeId, incarnation: Incarnation) -> Claim:
    """Makes this process the one that runs on the data directory. Raises `Unavailable` while another does."""
    file = _lock(files, directory)
    try:
        former = _read(file)
        file.write(0, [_line(Ran(node, incarnation))])
        file.sync_now()
        files.sync_directory(directory)
    except BaseException:
        file.close()
        raise
    return Claim(file, former)


def ended(files: Files, directory: str) -> Ran | None:
    """The process that ran on the data directory last, which has ended; None if none ever did. Raises `Unavailable` while one runs."""
    if not files.exists(_path(directory)):
        return None
    file = _lock(files, directory)
    try:
        return _read(file)
    finally:
        file.close()


def _path(directory: str) -> str:
    return f"{directory}/{FILE}"


def _lock(files: Files, directory: str) -> File:
    try:
        return files.lock(_path(directory))
    except Unavailable:
        raise Unavailable(f"another node runs on {directory}; stop it, or give this one a data directory of its own") from None


def _line(ran: Ran) -> bytes:
    text = f"{ran.node:016x} {ran.incarnation:016x} ".encode()
    return text + b"%08x\n" % crc32c(text)


def _read(file: File) -> Ran | None:
    line = bytearray(_LENGTH)
    if file.read_now(0, [memoryview(line)]) != _LENGTH:
        return None
    try:
        node, incarnation = (int(part, 16) for part in bytes(line).split()[:2])
    except ValueError:
        return None
    ran = Ran(NodeId(node), Incarnation(incarnation))
    return ran if _line(ran) == line else None
