"""What the messages of several operations are made of (RFC 8881 3.2 and 3.3). Operations declare their own arguments and results beside their handlers."""

from typing import Annotated, NamedTuple

from gateways.nfs.xdr import U32, U64, Array, Fixed, Opaque

HANDLE_SIZE = 128
"""NFS4_FHSIZE: what a decoder takes; ours are shorter."""
NAME_LIMIT = 4096
"""What the decoder takes; the volume decides what is too long for it (NFS4ERR_NAMETOOLONG)."""

Handle = Annotated[bytes, Opaque(HANDLE_SIZE)]
Name = Annotated[bytes, Opaque(NAME_LIMIT)]
Verifier = Annotated[bytes, Fixed(8)]
SessionId = Annotated[bytes, Fixed(16)]
ClientId = U64
Bitmap = Annotated[tuple[int, ...], Array(U32, 16)]
"""bitmap4: words of 32 bits, the first has attributes 0 to 31."""


class Stateid(NamedTuple):
    """stateid4, RFC 8881 8.2."""

    sequence: U32
    other: Annotated[bytes, Fixed(12)]


ANONYMOUS = Stateid(0, bytes(12))
CURRENT = Stateid(1, bytes(12))
"""Stands for the COMPOUND's current stateid, 8.2.3."""
INVALID = Stateid(0xFFFFFFFF, bytes(12))


class NoArguments(NamedTuple):
    """Of an operation that has none."""
