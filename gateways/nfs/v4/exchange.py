"""EXCHANGE_ID, DESTROY_CLIENTID and RECLAIM_COMPLETE: a client comes, goes, and has finished reclaiming (RFC 8881 18.35, 18.50, 18.51)."""

import struct
from typing import Annotated, NamedTuple

from gateways.nfs.v4 import departing, grace, restoring
from gateways.nfs.v4.clients import principal
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.operation import Outcome
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Bitmap, ClientId, Verifier
from gateways.nfs.xdr import I64, U32, Array, Bool, Opaque, Switch, Void, opaque
from gateways.server import origin_of

SP4_NONE, SP4_MACH_CRED, SP4_SSV = 0, 1, 2
USE_NON_PNFS, UPDATE, CONFIRMED = 0x10000, 0x40000000, 0x80000000
KNOWN_FLAGS = {1: 0x40070103, 2: 0x40070107}
"""What a client may say, by minor version: RFC 8881 18.35.1, RFC 7862 14.1 (SUPP_FENCE_OPS)."""
Text = Annotated[bytes, Opaque(1024)]


class ProtectedOperations(NamedTuple):
    """state_protect_ops4."""

    enforce: Bitmap
    allow: Bitmap


class MachineCredential(NamedTuple):
    operations: ProtectedOperations


class _Oid(NamedTuple):
    text: Text


class SsvParameters(NamedTuple):
    """ssv_sp_parms4."""

    operations: ProtectedOperations
    hashes: Annotated[tuple[_Oid, ...], Array(_Oid, 64)]
    ciphers: Annotated[tuple[_Oid, ...], Array(_Oid, 64)]
    window: U32
    handles: U32


class Implementation(NamedTuple):
    """nfs_impl_id4."""

    domain: Text
    name: Text
    seconds: I64
    nanoseconds: U32


class ExchangeArgs(NamedTuple):
    """EXCHANGE_ID4args."""

    verifier: Verifier
    owner: Text
    flags: U32
    protect: Annotated[
        tuple[int, Void | MachineCredential | SsvParameters], Switch({SP4_NONE: Void, SP4_MACH_CRED: MachineCredential, SP4_SSV: SsvParameters})
    ]
    implementation: Annotated[tuple[Implementation, ...], Array(Implementation, 1)]


def exchange_id(c: Compound, args: ExchangeArgs) -> Outcome:
    """Without RPCSEC_GSS there is neither a machine credential nor a place for an SSV."""
    if args.flags & ~KNOWN_FLAGS[c.minor]:
        raise Failure(Status.INVAL)
    if args.protect[0] == SP4_MACH_CRED:
        raise Failure(Status.INVAL)
    if args.protect[0] == SP4_SSV:
        raise Failure(Status.ENCR_ALG_UNSUPP)
    if not c.places.visible():
        # Whom no export admits has no use for a client record, and could do nothing but end others' or use up memory.
        raise Failure(Status.PERM)
    service = c.service
    found = service.clients.exchange(
        args.owner, args.verifier, principal(c.credential), bool(args.flags & UPDATE), service.clock.boottime(), origin_of(c.places.peer)
    )
    client = found.client
    flags = USE_NON_PNFS | (CONFIRMED if client.confirmed else 0)
    result = (
        struct.pack(">Q3I", client.id, client.sequence, flags, SP4_NONE)
        + bytes(8)  # so_minor_id
        + opaque(service.identity)
        + opaque(service.scope)
        + bytes(4)  # no implementation id
    )
    if found.replaced is not None:
        return departing.end_client(service, found.replaced, lambda: result)
    return result


class DestroyClientArgs(NamedTuple):
    """DESTROY_CLIENTID4args."""

    client: ClientId


def destroy_clientid(c: Compound, args: DestroyClientArgs) -> Outcome:
    """18.50: only a client without sessions and state goes; what is left of leaf state ends with it."""
    client = c.service.clients.numbered.get(args.client)
    if client is None:
        raise Failure(Status.STALE_CLIENTID)
    if client.sessions:
        raise Failure(Status.CLIENTID_BUSY)
    if not client.restored:
        return restoring.restore_client(c.service, client, lambda: destroy_clientid(c, args))
    if client.states:
        raise Failure(Status.CLIENTID_BUSY)
    return departing.end_client(c.service, client, lambda: b"")


class ReclaimCompleteArgs(NamedTuple):
    """RECLAIM_COMPLETE4args."""

    one: Bool
    """Only for the current file system, after it has moved."""


def reclaim_complete(c: Compound, args: ReclaimCompleteArgs) -> Outcome:
    """18.51: no file system of ours ever moves, so for one there is nothing to do."""
    if args.one:
        if c.here is None:
            raise Failure(Status.NOFILEHANDLE)
        return b""
    assert c.session is not None
    client = c.session.client
    if client.reclaimed:
        raise Failure(Status.COMPLETE_ALREADY)
    return grace.reclaimed(c.service, client, lambda: b"")
