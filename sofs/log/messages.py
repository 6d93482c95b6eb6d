"""What a coordinator and the followers of its log say to each other, over the interconnect's service `log`.

Every question names the replica that it is meant for; those that may change something also name the configuration's version. Answers to these are an `Ack`.
Each is msgpack, an array that begins with its tag; a question's payload, if it has one, is raw bytes of the log.
"""

from collections.abc import Callable

import msgspec

from sofs.encoding import decoder
from sofs.log.configuration import Mark
from sofs.runtime.ports import Buffer
from sofs.types import Lsn

SERVICE = "log"


class Result:
    """What became of a question: `Ack.outcome`."""

    DONE = 0
    FENCED = 1
    """The follower has adopted a newer configuration (`Ack.version`)."""
    ELSEWHERE = 2
    """What was sent does not begin at a place that this follower has: `Ack.stable` and `Ack.end` say what it has."""
    BEHIND = 3
    """The follower is learning of the newer configuration, or is deciding to take over: ask again soon. Nothing is promised."""


class Append(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Whole records, or none (a beacon), that follow a mark of the coordinator's log. The payload is their bytes as they lie there."""

    replica: int
    version: int
    after: Mark
    stable: Lsn
    """The coordinator's stable position."""
    committed: Lsn
    start: Lsn
    """The coordinator keeps nothing below this."""
    sync: bool = False
    """Answer only when all of this is on the disk."""


class Sync(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Put all you have, at least up to a position, on the disk; then answer."""

    replica: int
    version: int
    upto: Lsn


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """What do you have? Answered with a `Status`; promises nothing, changes nothing."""

    replica: int


class Read(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Bytes of the log as this replica has them; the answer's payload."""

    replica: int
    address: int
    length: int


class Rewrite(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The payload is what stands at this address: this replica was found to have something else there."""

    replica: int
    version: int
    address: int


Message = Append | Sync | Ask | Read | Rewrite


class Ack(msgspec.Struct, frozen=True, array_like=True):
    """Answers what a coordinator has sent. An answer `DONE` is a promise to take nothing over for L from the question's arrival on."""

    outcome: int
    version: int
    common: Lsn = Lsn(0)
    """Up to here this replica has in its page cache, at least, what the coordinator has."""
    synced: Lsn = Lsn(0)
    """And up to here on its disk."""
    checkpointed: Lsn = Lsn(0)
    """Its own records hold all below this."""
    stable: Mark | None = None
    end: Mark | None = None


class Status(msgspec.Struct, frozen=True, array_like=True):
    """How a replica stands."""

    version: int
    """The configuration that it has adopted."""
    start: Lsn
    stable: Mark
    """Everything below is the same in every copy."""
    end: Mark
    synced: Lsn
    whole: bool
    """It has everything that was ever acknowledged in its name."""
    standing: bool
    """It is about to take over."""


decode_message: Callable[[Buffer], Message] = decoder(Message, "a message about a log")
decode_ack = decoder(Ack, "a follower's answer")
decode_status = decoder(Status, "the state of a log")
