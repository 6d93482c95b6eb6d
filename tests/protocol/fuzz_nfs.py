"""Inputs for the decoders of the NFS gateway: XDR types, RPC records, file handles, the portmapper."""

from __future__ import annotations

import struct
import types
from random import Random
from typing import Any, Union, get_args, get_origin, get_type_hints

from gateways.nfs import portmap
from gateways.nfs.handles import BadHandle, Handles
from gateways.nfs.portmap import Portmap, registrations
from gateways.nfs.rpc import Call, Program, RpcConnection, Version
from gateways.nfs.v3 import data
from gateways.nfs.xdr import Array, Fixed, Linked, Opaque, Switch, XdrError, encode, unpack
from sofs.errors import PeerError
from sofs.types import Inode, VolumeId
from tests.protocol.fuzz import Target, mutated
from tests.protocol.nfs_types import MOUNT, NFS, TYPES
from tests.unit.gateways.nfs_link import CollectingLink, call_bytes, sys_credential

EDGES = (0, 1, 2, 3, 4, 255, 4096, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def sample(hint: Any, chance: Random) -> Any:
    """A value of an annotated XDR type."""
    if isinstance(hint, type) and hasattr(hint, "_fields"):
        hints = get_type_hints(hint, include_extras=True)
        return hint(*(sample(hints[name], chance) for name in hint._fields))
    if get_origin(hint) in (types.UnionType, Union):
        (inner,) = [part for part in get_args(hint) if part is not type(None)]
        return None if chance.random() < 0.4 else sample(inner, chance)
    (spec,) = hint.__metadata__
    if isinstance(spec, Opaque):
        return chance.randbytes(min(spec.limit, chance.choice((0, 1, 3, 4, 16, 48, 64, 300))))
    if isinstance(spec, Fixed):
        return chance.randbytes(spec.size)
    if isinstance(spec, Array | Linked):
        count = min(spec.limit, chance.choice((0, 1, 2, 16)))
        return tuple(sample(spec.element, chance) for _ in range(count))
    if isinstance(spec, Switch):
        which = chance.choice((*spec.arms, 99) if spec.default else tuple(spec.arms))
        return which, sample(spec.arms.get(which, spec.default), chance)
    if type(spec).__name__ == "_Flag":
        return chance.random() < 0.5
    signed, bits = spec.format.islower(), struct.calcsize(f">{spec.format}") * 8
    number = chance.choice(EDGES) if chance.random() < 0.5 else chance.getrandbits(bits)
    return number - (1 << bits) if signed and number >> bits - 1 else number


KINDS = sorted({kind for row in TYPES.values() for kind in (row.arguments, row.success, row.failure)}, key=lambda kind: str(kind.__name__))


def xdr(chance: Random) -> None:
    """Decoding gives a value that encodes and decodes to itself, or `XdrError`."""
    kind = chance.choice(KINDS)
    value = sample(kind, chance)
    whole = encode(value)
    assert unpack(kind, memoryview(whole), 0) == (value, len(whole))
    try:
        changed, end = unpack(kind, memoryview(mutated(whole, chance)), 0)
    except XdrError:
        return
    assert end >= 0
    assert unpack(kind, memoryview(encode(changed)), 0)[0] == changed


def hot(chance: Random) -> None:
    """The hot path's readers of READ and WRITE take what the declarations take, and nothing beyond the input."""
    read = chance.random() < 0.5
    row = TYPES[NFS, 6 if read else 7]
    whole = mutated(encode(sample(row.arguments, chance)), chance)
    try:
        direct = data.read_arguments(memoryview(whole), 0) if read else data.write_arguments(memoryview(whole), 0)
    except XdrError:
        return
    try:
        declared, _ = unpack(row.arguments, memoryview(whole), 0)
    except XdrError:
        # The data's padding may be missing: the last bytes of a record, which nobody reads.
        assert not read
        return
    if read:
        assert direct == declared
    else:
        assert direct == (declared.file, declared.offset, declared.stable, declared.length, declared.data)


def rpc(chance: Random) -> None:
    """Any bytes in any fragments: answers that are whole records, or the end of the connection."""
    link = CollectingLink()
    held: list[Call] = []

    def serve(call: Call) -> None:
        held.append(call) if chance.random() < 0.2 else call.reply(bytes(call.data[call.at :]))

    core = RpcConnection(link, {NFS: Program({3: Version(dict.fromkeys(range(22), serve))}), MOUNT: Program({})})
    try:
        for _ in range(chance.choice((1, 2, 5))):
            auth = chance.choice((bytes(16), sys_credential(1, 2, range(chance.randrange(20)))))
            program = chance.choice((NFS, NFS, NFS, 7))
            whole = mutated(
                call_bytes(program, chance.choice((3, 3, 3, 4)), chance.randrange(24), b"x" * 8, auth=auth, rpc=chance.choice((2, 2, 2, 3))), chance
            )
            for piece, last in fragments(whole, chance):
                header = len(piece) | (0x80000000 if last else 0)
                core.size(header)
                core.received(header, memoryview(bytearray(piece)))
    except PeerError:
        core.closed("broken")
    for call in held:
        call.reply(b"")
    for reply in link.replies():
        assert len(reply) % 4 == 0 or len(reply) >= 24


def fragments(whole: bytes, chance: Random) -> list[tuple[bytes, bool]]:
    """The record cut into some fragments; the last is now and then not marked."""
    pieces = []
    while whole and chance.random() < 0.3:
        at = chance.randrange(len(whole) + 1)
        pieces.append((whole[:at], False))
        whole = whole[at:]
    return [*pieces, (whole, chance.random() < 0.97)]


HANDLES = Handles(bytes(range(32)))


def handles(chance: Random) -> None:
    """What is read as a handle is one that was made."""
    made = HANDLES.make(chance.getrandbits(32), VolumeId(chance.getrandbits(63)), Inode(chance.getrandbits(63)), chance.getrandbits(32))
    changed = mutated(made, chance)
    try:
        named = HANDLES.read(changed)
    except BadHandle:
        assert changed != made
        return
    assert HANDLES.make(named.export, named.volume, named.inode, named.generation, named.snapshot) == changed


PORTMAP = Portmap(registrations(2049))


def portmapper(chance: Random) -> None:
    """A datagram gets one whole answer, or none."""
    arguments = encode(sample(chance.choice((portmap.Registration, portmap.Mapping4)), chance))
    call = call_bytes(chance.choice((100000, 100000, 100003)), chance.randrange(1, 6), chance.randrange(14), arguments)
    answer = PORTMAP.datagram(mutated(call, chance))
    assert answer is None or (len(answer) >= 20 and len(answer) % 4 == 0)


TARGETS = (
    Target("nfs-xdr", xdr, ("gateways.nfs.xdr",)),
    Target("nfs-data", hot, ("gateways.nfs.v3.data",)),
    Target("nfs-rpc", rpc, ("gateways.nfs.rpc", "gateways.nfs.auth")),
    Target("nfs-handles", handles, ("gateways.nfs.handles",)),
    Target("nfs-portmap", portmapper, ("gateways.nfs.portmap",)),
)
