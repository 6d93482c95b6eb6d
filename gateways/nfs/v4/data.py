"""READ, WRITE and COMMIT (RFC 8881 18.3, 18.22, 18.32): the hot path, without copies of payload.

READ fills a buffer that the reply sends from where it lies. A WRITE's payload is a view of the buffer it was received into, which the connection leaves
alone as long as somebody holds one.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

from gateways.nfs.rpc import POOLED, TRANSFER
from gateways.nfs.v4 import stateids
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.operation import Ask, Outcome, Payload, Wait
from gateways.nfs.v4.types import Stateid
from gateways.nfs.xdr import U32, U64, XdrError
from sofs.types import Level
from sofs.volume.api import Access, Flush, Read, Reply, Target, Written

UNSTABLE, DATA_SYNC, FILE_SYNC = range(3)
"""stable_how4."""

_READ = struct.Struct(">I12sQI")  # stateid, offset, count
_WRITE = struct.Struct(">I12sQII")  # stateid, offset, stable, length of the data
_READ_HEAD = struct.Struct(">II")  # eof, length
_WRITTEN = struct.Struct(">II8s")  # count, committed, verifier

ReadArgs = tuple[Stateid, int, int]
"""Stateid, offset, count."""
WriteArgs = tuple[Stateid, int, int, memoryview]
"""Stateid, offset, how stable, data."""


class CommitArgs(NamedTuple):
    offset: U64
    length: U32


def read_arguments(data: memoryview, at: int) -> tuple[ReadArgs, int]:
    """READ4args."""
    sequence, other, offset, count = _READ.unpack_from(data, at)
    return (Stateid(sequence, other), offset, count), at + _READ.size


def write_arguments(data: memoryview, at: int) -> tuple[WriteArgs, int]:
    """WRITE4args, the data as a view."""
    sequence, other, offset, stable, length = _WRITE.unpack_from(data, at)
    at += _WRITE.size
    end = at + (length + 3 & ~3)
    if end > len(data) or stable > FILE_SYNC:
        raise XdrError(f"{length} bytes to write announced, {len(data) - at} there")
    return (Stateid(sequence, other), offset, stable, data[at : at + length]), end


def read(c: Compound, args: ReadArgs) -> Outcome:
    """At most 1 MiB, and no more than the session's replies hold; the answer tells how much there was, and whether the file ends there."""
    stateid, offset, count = args
    return fetch(c, stateids.target(c, stateid, Access.READ_DATA), offset, min(count, TRANSFER), _read_head)


def _read_head(done: Read) -> bytes:
    return _READ_HEAD.pack(done.end, done.count)


def fetch(c: Compound, target: Target, offset: int, count: int, head: Callable[[Read], bytes]) -> Outcome:
    """Data of the current file as a result: `head` of what was read, then the bytes from where they lie."""
    volume = c.place.volume
    view = memoryview(c.service.take(count) if count >= POOLED else bytearray(count))[:count]

    def answer(done: Read) -> Payload:
        return Payload(head(done), view[: done.count])

    result = volume.read(target, offset, view, c.service.by)
    if isinstance(result, Read):
        c.rest(volume, result.gate, Level.COMMITTED)
        return answer(result)
    return Wait(volume, result, answer)


def write(c: Compound, args: WriteArgs) -> Outcome:
    """UNSTABLE data is answered when every replica has it in memory: the verifier changes if it is lost after all."""
    stateid, offset, stable, data = args
    volume, target = c.place.volume, stateids.target(c, stateid, Access.WRITE_DATA)
    level = Level.COMMITTED if stable == UNSTABLE else Level.STABLE

    def answer(done: Written) -> bytes:
        c.rest(volume, done.gate, level)
        return _WRITTEN.pack(done.count, UNSTABLE if level is Level.COMMITTED else FILE_SYNC, volume.verifier.to_bytes(8))

    resumed = c.resumed
    if resumed is not None:
        assert isinstance(resumed, Written)
        return answer(resumed)
    result = volume.write(target, offset, data, c.token(volume), level, c.service.by)
    return answer(result) if isinstance(result, Written) else Wait(volume, result, answer)


def commit(c: Compound, args: CommitArgs) -> Outcome:
    """All of the file is flushed, whatever range is asked for: one log makes everything stable at once."""
    volume = c.place.volume

    def answer(reply: Reply) -> bytes:
        return volume.verifier.to_bytes(8)

    return Ask(volume, Flush(c.place.target), answer)
