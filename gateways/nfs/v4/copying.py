"""COPY, CLONE, and what would control copies that go on after their reply (RFC 7862 15.2, 15.8, 15.9, 15.13).

The source is the saved filehandle's file, the target the current one's, of the same export. A copy is always carried out before it is answered, and
of at most `LARGEST_COPY` bytes: the client goes on from there.
"""

import struct
from collections.abc import Callable
from typing import Annotated, NamedTuple

from gateways.nfs.v4 import stateids
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.names import same_export
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Stateid
from gateways.nfs.xdr import U64, Array, Bool, Opaque, Switch
from sofs.volume.api import Access, Clone, Copied, Copy, Found, GetAttributes, Reply, Target

LARGEST_COPY = 256 << 20
FILE_SYNC = 2
_COPIED = struct.Struct(">IQI8sII")  # no callback id, count, committed, verifier, consecutive, synchronous


class NetworkAddress(NamedTuple):
    """netaddr4."""

    network: Annotated[bytes, Opaque(1024)]
    address: Annotated[bytes, Opaque(1024)]


_NAME_OR_ADDRESS = Switch({1: Annotated[bytes, Opaque(1024)], 2: Annotated[bytes, Opaque(1024)], 3: NetworkAddress})


class Server(NamedTuple):
    """netloc4: a name, a URL or an address."""

    where: Annotated[tuple[int, object], _NAME_OR_ADDRESS]


class CopyArgs(NamedTuple):
    source_stateid: Stateid
    target_stateid: Stateid
    source_offset: U64
    target_offset: U64
    length: U64
    consecutive: Bool
    synchronous: Bool
    servers: Annotated[tuple[Server, ...], Array(Server, 64)]


class CloneArgs(NamedTuple):
    source_stateid: Stateid
    target_stateid: Stateid
    source_offset: U64
    target_offset: U64
    length: U64


class OffloadArgs(NamedTuple):
    stateid: Stateid


def copy(c: Compound, args: CopyArgs) -> Outcome:
    """Synchronous, whatever the client would allow (15.2.3). Between servers nothing is copied."""
    if args.servers:
        raise Failure(Status.NOTSUPP)
    volume = c.place.volume
    source, target = _both(c, args)

    def go(count: int) -> Outcome:
        return Ask(volume, Copy(source, args.source_offset, target, args.target_offset, min(count, LARGEST_COPY)), answer, True)

    def answer(done: Copied) -> bytes:
        return _COPIED.pack(0, done.length, FILE_SYNC, volume.verifier.to_bytes(8), True, True)

    return _counted(c, source, args, go)


def clone(c: Compound, args: CloneArgs) -> Outcome:
    """The whole range or nothing, at once (15.13.3)."""
    volume = c.place.volume
    source, target = _both(c, args)

    def go(count: int) -> Outcome:
        return Ask(volume, Clone(source, args.source_offset, target, args.target_offset, count), _nothing, True)

    return _counted(c, source, args, go)


def _nothing(reply: Reply) -> bytes:
    return b""


def _both(c: Compound, args: CopyArgs | CloneArgs) -> tuple[Target, Target]:
    saved = same_export(c, c.place)
    source = stateids.target(c, args.source_stateid, Access.READ_DATA, saved)
    return source, stateids.target(c, args.target_stateid, Access.WRITE_DATA)


def _counted(c: Compound, source: Target, args: CopyArgs | CloneArgs, go: Callable[[int], Outcome]) -> Outcome:
    """Goes on with the number of bytes; a count of 0 means all up to the source's end. What reaches beyond that is INVAL."""

    def answer(found: Found) -> Outcome:
        size = found.attributes.size
        if args.source_offset + args.length > size:
            raise Failure(Status.INVAL)
        return go(args.length or size - args.source_offset)

    return Ask(c.place.volume, GetAttributes(source), answer)


def offload_cancel(c: Compound, args: OffloadArgs) -> Outcome:
    """No copy goes on after its reply, so no stateid names one."""
    raise Failure(Status.BAD_STATEID)


def offload_status(c: Compound, args: OffloadArgs) -> Outcome:
    raise Failure(Status.BAD_STATEID)
