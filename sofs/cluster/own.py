"""A node's own identity, in `DATA/node.json`: made at its first start and kept from then on."""

from __future__ import annotations

import msgspec

from sofs.cluster import NodeId
from sofs.encoding import UNREADABLE
from sofs.errors import ConfigError
from sofs.runtime.ports import Files, Random
from sofs.runtime.whole import read_whole, replace

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
    data = read_whole(files, path, _LARGEST)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=OwnIdentity)
    except UNREADABLE as error:
        raise ConfigError(f"{path} cannot be read ({error}); a member's record in the coordination store has its id") from None


def save(files: Files, directory: str, own: OwnIdentity) -> None:
    """Durable when it returns."""
    replace(files, f"{directory}/{FILE}", msgspec.json.encode(own) + b"\n")


def load_or_make(files: Files, random: Random, directory: str) -> OwnIdentity:
    own = load(files, directory)
    if own is None:
        own = OwnIdentity(random.number(63) or 1)
        save(files, directory, own)
    return own
