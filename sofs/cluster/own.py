"""A node's own identity, in `DATA/node.json`: made at its first start and kept from then on."""

from __future__ import annotations

import msgspec

from sofs.cluster import NodeId
from sofs.errors import ConfigError, NotFound
from sofs.runtime.ports import Files, Random

__all__ = ["FILE", "OwnIdentity", "load", "load_or_make", "save"]

FILE = "node.json"
_LARGEST = 4096


class OwnIdentity(msgspec.Struct, frozen=True):
    id: int
    cluster: str = ""
    """The cluster it belongs to; empty for a single node."""

    @property
    def node(self) -> NodeId:
        return NodeId(self.id)


def load(files: Files, directory: str) -> OwnIdentity | None:
    """None before the first start. Raises `ConfigError`."""
    path = f"{directory}/{FILE}"
    if not files.exists(path):
        return None
    file = files.open(path)
    try:
        data = bytearray(min(file.size, _LARGEST))
        file.read_now(0, [memoryview(data)])
    finally:
        file.close()
    try:
        return msgspec.json.decode(data, type=OwnIdentity)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); a member's record in the coordination store has its id") from None


def save(files: Files, directory: str, own: OwnIdentity) -> None:
    """Durable when it returns."""
    path = f"{directory}/{FILE}"
    fresh = path + ".new"
    try:
        files.remove(fresh)
    except NotFound:
        pass
    file = files.open(fresh, create=True)
    try:
        file.write(0, [msgspec.json.encode(own) + b"\n"])
        file.sync_now()
    finally:
        file.close()
    files.rename(fresh, path)
    files.sync_directory(directory)


def load_or_make(files: Files, random: Random, directory: str) -> OwnIdentity:
    own = load(files, directory)
    if own is None:
        own = OwnIdentity(random.number(63) or 1)
        save(files, directory, own)
    return own
