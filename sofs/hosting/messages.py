"""What nodes ask of each other about volumes, over the interconnect's service `volume-hosting`.

Each is msgpack, an array that begins with its tag. Only a coordinator asks for a replica to be made; whoever else does so leaves a directory that
no record names, which is removed.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sofs.encoding import decoder
from sofs.log.configuration import Mark
from sofs.runtime.ports import Buffer

SERVICE = "volume-hosting"


class MakeReplica(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Make an empty replica of the volume's log on this disk of yours, with empty records beside it."""

    volume: int
    replica: int
    disk: int


class PutRecords(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The next records, in key order, for a replica that is being made; the payload is a `Slice`."""

    volume: int
    replica: int


Slice = list[tuple[bytes, bytes]]


class Follow(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """These were all: the replica is to follow, its log beginning at this mark."""

    volume: int
    replica: int
    origin: Mark


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Bring the checkpoint of this replica to this position at least. Answered when that is done."""

    volume: int
    replica: int
    lsn: int


class Move(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Hand the volume, which you coordinate, over to this node."""

    volume: int
    node: int


class Describe(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """How is the volume, which you coordinate?"""

    volume: int


class Leave(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """My replica of the volume, which you coordinate, is about to stop following: leave it out now, so that nothing waits for it."""

    volume: int
    replica: int


class ReplicaState(msgspec.Struct, frozen=True, array_like=True):
    """One copy of a volume's log, as its coordinator sees it."""

    replica: int
    node: str
    disk: int
    in_sync: bool
    """It counts: everything that is acknowledged is there."""
    reason: str
    """Why not, or what is the matter with it all the same."""


class Described(msgspec.Struct, frozen=True, array_like=True):
    """Answers `Describe`."""

    state: str
    reason: str
    version: int
    replicas: list[ReplicaState]
    total: int
    """Bytes, as the volume's clients are told."""
    free: int
    files: int
    figures: dict[str, int]
    """The volume's own counters."""


Message = MakeReplica | PutRecords | Follow | Checkpoint | Move | Describe | Leave

decode_message: Callable[[Buffer], Message] = decoder(Message, "a question about a volume")
decode_slice = decoder(Slice, "records of a volume")
decode_described = decoder(Described, "a volume's description")
