"""Sessions and their slots: each request of a session has a slot and a sequence number, and is carried out once (RFC 8881 2.10.6).

While the server runs, a slot remembers its last reply. What survives a crash are the tokens in the volumes: of each slot's last request that changed
something, the operation up to which it had come and, if the client asked for the reply to be kept, what is needed to go on behind it (PROTOCOLS, "NFS").
After a restart the first request of a slot is compared with its token: equal is a retry, greater is new. That first request may have been late, forwarded by a
node that had held it up, while its client was already further on. So until one has been carried out that leaves a token (had it been late, that would have been
known from the one it left the first time), later requests may be more than one ahead, too: whatever had an effect has left its token, and a client goes on only
when it has an answer.
"""

import asyncio
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from crc32c import crc32c

from gateways.nfs.rpc import REPLY_SIZE, RpcConnection
from gateways.nfs.v4 import restoring
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.operation import ABOVE, Above, Outcome, Replayed, Resumed, Uncached
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import SessionId, Stateid
from gateways.nfs.xdr import U32, Bool
from sofs.encoding import decoder, encode
from sofs.errors import Damaged
from sofs.runtime.ports import Buffer
from sofs.volume import api
from sofs.volume.api import SlotToken, Volume

if TYPE_CHECKING:
    from gateways.nfs.handles import Place
    from gateways.nfs.v4.backchannel import Backchannel
    from gateways.nfs.v4.clients import Client

SEQUENCE_SIZE = 24 + 12 + 8 + 36
"""A reply that has nothing but the result of SEQUENCE, without its tag."""
NOTE_LIMIT = 1800
"""Bytes of a token's note: a record has 3 KiB, and the volume adds its reply."""
DIGESTED = 4096
"""Bytes of a request that its digest covers, besides its length: another request differs in its beginning."""


class Channel(NamedTuple):
    """channel_attrs4 as granted, 18.36.1."""

    max_request: int
    max_response: int
    max_cached: int
    operations: int
    requests: int


class Note(msgspec.Struct, array_like=True):
    """What is needed to go on with a COMPOUND at the operation whose token has it."""

    results: bytes
    """Of the operations before."""
    here: bytes
    saved: bytes
    stateid: tuple[int, bytes]
    saved_stateid: tuple[int, bytes]


_read_note = decoder(Note, "a slot token's note", Damaged)


class Slot:
    """One slot's last request."""

    __slots__ = ("busy", "digest", "kept", "number", "reply", "sequence", "sure", "tokened", "used")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sequence = 0
        self.used = False
        """It has had a request since the server's start."""
        self.busy = False
        self.digest = b""
        self.reply: bytes | None = None
        """What followed the RPC header, if the client asked to keep it."""
        self.kept: api.Slot | None = None
        """The newest token, until the first request after the server's start."""
        self.tokened = False
        """What the request asks of volumes carries tokens."""
        self.sure = False
        """The client has come as far as `sequence`, and no further: of a session from before the server's start."""


class Session:
    """One session of a client."""

    def __init__(self, id: bytes, client: "Client", flags: int, fore: Channel, back: "Backchannel") -> None:
        self.id = id
        self.client = client
        self.flags = flags
        self.fore = fore
        self.back = back
        self.slots = [Slot(number) for number in range(fore.requests)]
        self.resumed = False
        """From before the server's start: its slots' first requests are compared with tokens."""
        self.restored = True
        """The tokens have been fetched."""
        self.doubts = 0
        """How often what had been fetched, or was being fetched, was not enough."""
        self.connections: set[RpcConnection] = set()

    # For Compound

    def token(self, compound: Compound, volume: Volume) -> SlotToken:
        """The token of the operation that is being carried out."""
        slot = compound.slot
        assert slot is not None and volume.id in self.client.volumes
        slot.tokened = True
        note = _progress(compound) if compound.cache else None
        return SlotToken(self.id, slot.number, slot.sequence, slot.digest, compound.index, note)

    def check_size(self, compound: Compound, more: int) -> None:
        """Raises `Failure` when the reply with `more` bytes would be larger than the client takes, or than it is to be kept for it."""
        size = compound.size + more + 24
        if size > self.fore.max_response:
            raise Failure(Status.REP_TOO_BIG)
        if compound.cache and size > self.fore.max_cached:
            raise Failure(Status.REP_TOO_BIG_TO_CACHE)

    def answered(self, compound: Compound, pieces: Sequence[Buffer]) -> None:
        """The reply is on its way; the slot is free for the next request."""
        slot = compound.slot
        assert slot is not None
        slot.busy = False
        if slot.tokened:
            slot.tokened, slot.sure = False, slot.sure or compound.status is Status.OK
        slot.reply = b"".join(pieces)[REPLY_SIZE:] if compound.cache else None
        self.client.waiting -= 1

    def restore(self, slots: Sequence[api.Slot]) -> None:
        """Tokens from a volume; the highest sequence counts. Slots that have been used since the server's start know more than these."""
        for kept in slots:
            if kept.slot < len(self.slots):
                slot = self.slots[kept.slot]
                if not slot.used and (slot.kept is None or _behind(slot.kept, kept)):
                    slot.kept = kept

    def doubt(self) -> None:
        """There may be other tokens by now: they are to be fetched before the next request."""
        self.restored = False
        self.doubts += 1

    def wait_for(self, number: int, call: "asyncio.Task[Any]") -> None:
        """The slot's last request was dropped, and a volume may yet carry it out: until it has answered, nobody knows the slot's token."""
        slot = self.slots[number]
        slot.busy = True
        self.client.waiting += 1

        def answered(_: object) -> None:
            slot.busy = False
            self.client.waiting -= 1
            self.doubt()

        call.add_done_callback(answered)


def _behind(first: api.Slot, second: api.Slot) -> bool:
    """`second` is newer: a later request, or a later operation of the same."""
    return _is_ahead(second.sequence, first.sequence) or (second.sequence == first.sequence and second.index > first.index)


def _may_jump(session: Session, slot: Slot) -> bool:
    """What the slot has come to may be a late request's doing."""
    return session.resumed and not slot.sure


def _is_ahead(sequence: int, other: int) -> bool:
    """By serial arithmetic."""
    return 0 < sequence - other & 0xFFFFFFFF < 1 << 31


def _progress(compound: Compound) -> bytes | None:
    results = compound.results()
    note = Note(
        results,
        _handle(compound, compound.here),
        _handle(compound, compound.saved),
        (compound.stateid.sequence, compound.stateid.other),
        (compound.saved_stateid.sequence, compound.saved_stateid.other),
    )
    encoded = encode(note)
    return encoded if len(encoded) <= NOTE_LIMIT else None


def _handle(compound: Compound, of: "Place | Above | None") -> bytes:
    if of is None:
        return b""
    if isinstance(of, Above):
        return compound.places.root_handle
    return of.own_handle


# SEQUENCE


class SequenceArgs(NamedTuple):
    """SEQUENCE4args, 18.46.1."""

    session: SessionId
    sequence: U32
    slot: U32
    highest: U32
    cache: Bool


_RESULT = struct.Struct(">16s5I")


def sequence(c: Compound, args: SequenceArgs) -> Outcome:
    """18.46: admits the request to its slot, or answers a retry."""
    session = c.service.sessions.get(args.session)
    if session is None:
        raise Failure(Status.BADSESSION)
    if not session.restored:
        return restoring.restore_session(c.service, session, lambda: sequence(c, args))
    if args.slot >= len(session.slots):
        raise Failure(Status.BADSLOT)
    slot = session.slots[args.slot]
    fore = session.fore
    view = c.rest_of_request
    digest = struct.pack(">II", crc32c(view[:DIGESTED]), len(view))
    resume = None
    if slot.kept is not None or (session.resumed and not slot.used):
        resume = _first(slot, args, digest)
    elif args.sequence != (slot.sequence + 1 & 0xFFFFFFFF) and not (_may_jump(session, slot) and _is_ahead(args.sequence, slot.sequence)):
        _repeated(c, session, slot, args, digest)
    elif slot.busy:
        raise Failure(Status.DELAY if _may_jump(session, slot) else Status.SEQ_MISORDERED)
    if args.highest >= len(session.slots):
        raise Failure(Status.BAD_HIGH_SLOT)
    if c.count > fore.operations:
        raise Failure(Status.TOO_MANY_OPS)
    if len(c.call.data) > fore.max_request:
        raise Failure(Status.REQ_TOO_BIG)
    if args.cache and c.size + SEQUENCE_SIZE - 12 > fore.max_cached:
        raise Failure(Status.REP_TOO_BIG_TO_CACHE)
    c.renew(session.client)
    if resume is not None:
        c.service.repeat()
    if resume is not None and resume.note is None:
        slot.sequence, slot.digest, slot.used, slot.kept = args.sequence, digest, True, None
        raise Uncached(result(c, session, args))
    slot.sequence, slot.digest, slot.busy, slot.used, slot.reply, slot.kept = args.sequence, digest, True, True, None, None
    session.client.waiting += 1
    c.session, c.slot, c.cache = session, slot, args.cache
    connection = c.call.connection
    if connection not in session.connections:
        c.service.bind(session, connection)
    if resume is not None:
        _go_on(c, resume)
        raise Resumed
    return result(c, session, args)


def result(c: Compound, session: Session, args: SequenceArgs) -> bytes:
    last = len(session.slots) - 1
    return _RESULT.pack(args.session, args.sequence, args.slot, last, last, c.service.flags(session, c.call.connection))


def _repeated(c: Compound, session: Session, slot: Slot, args: SequenceArgs, digest: bytes) -> None:
    """A sequence that is not the next one: a retry is answered, all else refused. Raises `Replayed` or `Failure`, or makes the next operation fail."""
    if args.sequence != slot.sequence or not slot.used:
        raise Failure(Status.SEQ_MISORDERED)
    if slot.busy:
        raise Failure(Status.DELAY)
    if slot.digest != digest:
        raise Failure(Status.SEQ_FALSE_RETRY)
    c.renew(session.client)
    c.service.repeat()
    if slot.reply is not None:
        raise Replayed(slot.reply)
    raise Uncached(result(c, session, args))


def _first(slot: Slot, args: SequenceArgs, digest: bytes) -> api.Slot | None:
    """The first request of a slot since the server's start. Gives the token to go on from if it is a retry. Raises `Failure`."""
    if slot.busy:
        raise Failure(Status.DELAY)
    kept = slot.kept
    if kept is None:
        return None
    if _is_ahead(args.sequence, kept.sequence):
        return None
    if args.sequence != kept.sequence:
        raise Failure(Status.SEQ_MISORDERED)
    if kept.digest != digest:
        raise Failure(Status.SEQ_FALSE_RETRY)
    return kept


def _go_on(c: Compound, kept: api.Slot) -> None:
    """Makes the COMPOUND stand where it stood at the operation of the token."""
    assert kept.note is not None
    note = _read_note(kept.note)
    c.resume_at(kept.index, note.results, kept.reply)
    c.here = _place(c, note.here)
    c.saved = _place(c, note.saved)
    c.stateid = Stateid(*note.stateid)
    c.saved_stateid = Stateid(*note.saved_stateid)


def _place(c: Compound, handle: bytes) -> "Place | Above | None":
    if not handle:
        return None
    return c.places.at(handle, c.credential) or ABOVE
