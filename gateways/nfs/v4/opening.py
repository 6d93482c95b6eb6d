"""OPEN (RFC 8881 18.16), by all its claims.

What is opened is an open of the volume with the client id and the open-owner as its owner: the same owner's second OPEN of a file is the first one with more
rights. It is kept until the client's end, and its number is the stateid's. A delegation is a wish that goes along.
"""

import struct
from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

from gateways.nfs.handles import Place
from gateways.nfs.v4 import stateids
from gateways.nfs.v4.attributes import words_of
from gateways.nfs.v4.backchannel import Referring
from gateways.nfs.v4.clients import Client
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.filehandles import checked, checked_new
from gateways.nfs.v4.metadata import set_acl
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.settable import New, NewAttributes, read
from gateways.nfs.v4.stateids import DELEGATION, OPEN, READ, WRITE, Held
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import ClientId, Name, Stateid, Verifier
from gateways.nfs.xdr import U32, Opaque, Switch, Void, pad
from sofs.errors import ReadOnly
from sofs.locks import GrantKind
from sofs.types import Kind, Level
from sofs.volume.api import (
    Access,
    Action,
    Attributes,
    Changes,
    Close,
    Disposition,
    Found,
    GetAttributes,
    Keep,
    Make,
    Open,
    Opened,
    Reply,
    SetAttributes,
    ShareMode,
    Stateless,
    Target,
    Wish,
)

NOCREATE, CREATE = 0, 1
UNCHECKED, GUARDED, EXCLUSIVE, EXCLUSIVE_ATTRIBUTES = range(4)
"""createmode4."""
NULL, PREVIOUS, DELEGATE_CUR, DELEGATE_PREV, FH, DELEG_CUR_FH, DELEG_PREV_FH = range(7)
"""open_claim_type4."""
WANT_MASK, WANT_READ, WANT_WRITE, WANT_ANY, WANT_NONE, WANT_CANCEL = 0xFF00, 0x100, 0x200, 0x300, 0x400, 0x500
KNOWN_ACCESS = 0x3 | WANT_MASK | 0x30000 | 0x300000
"""With the bits for signalling, and those of later minor versions, which may be ignored."""
NOT_WANTED, RESOURCE, NOT_SUPPORTED_UPGRADE, CANCELLED = 0, 2, 5, 7
"""why_no_delegation4."""
LOCKTYPE_POSIX, PRESERVE_UNLINKED = 4, 8
KEPT = Keep(-1)
MAKING = 0o600
"""The mode of a file between its exclusive making and its opening: its maker must be able to open it whatever mode he wants."""

_RIGHTS = {
    READ: int(Access.READ_DATA),
    WRITE: int(Access.WRITE_DATA | Access.APPEND_DATA),
    READ | WRITE: int(Access.READ_DATA | Access.WRITE_DATA | Access.APPEND_DATA),
}
_CHANGE = struct.Struct(">I12sIQQI")  # stateid, change_info4, rflags
_GRANTED = struct.Struct(">II12sI")  # kind of delegation, stateid, recall
_WHO = b"OWNER@"
_NO_ACE = struct.pack(">4I", 0, 0, 0, len(_WHO)) + _WHO + pad(len(_WHO))
"""An ACE that allows nothing: who may open a delegated file is still the server's to say (ACCESS)."""
_NO_LIMIT = struct.pack(">IQ", 1, (1 << 64) - 1)
"""nfs_space_limit4: a writer need not ask before it caches."""


class Owner(NamedTuple):
    """open_owner4 and lock_owner4; the client id means nothing in this minor version."""

    client: ClientId
    owner: Annotated[bytes, Opaque(1024)]


class ExclusiveAttributes(NamedTuple):
    """creatverfattr."""

    verifier: Verifier
    attributes: NewAttributes


class ExclusiveVerifier(NamedTuple):
    verifier: Verifier


class How(NamedTuple):
    """createhow4."""

    how: Annotated[
        tuple[int, NewAttributes | ExclusiveVerifier | ExclusiveAttributes],
        Switch({UNCHECKED: NewAttributes, GUARDED: NewAttributes, EXCLUSIVE: ExclusiveVerifier, EXCLUSIVE_ATTRIBUTES: ExclusiveAttributes}),
    ]


class NameClaim(NamedTuple):
    name: Name


class Previous(NamedTuple):
    delegation: U32


class DelegateCurrent(NamedTuple):
    stateid: Stateid
    name: Name


class DelegateHandle(NamedTuple):
    stateid: Stateid


class OpenArgs(NamedTuple):
    """OPEN4args."""

    sequence: U32
    access: U32
    deny: U32
    owner: Owner
    how: Annotated[tuple[int, Void | How], Switch({NOCREATE: Void, CREATE: How})]
    claim: Annotated[
        tuple[int, Void | NameClaim | Previous | DelegateCurrent | DelegateHandle],
        Switch(
            {
                NULL: NameClaim,
                PREVIOUS: Previous,
                DELEGATE_CUR: DelegateCurrent,
                DELEGATE_PREV: NameClaim,
                FH: Void,
                DELEG_CUR_FH: DelegateHandle,
                DELEG_PREV_FH: Void,
            }
        ),
    ]


class _Opening:
    """One OPEN on its way."""

    def __init__(self, c: Compound, args: OpenArgs) -> None:
        assert c.session is not None
        self.c = c
        self.args = args
        self.place: Place = c.place
        self.client: Client = c.session.client
        self.access = args.access & 3
        self.claim = args.claim[0]
        self.create, self.mode = args.how[0] == CREATE, UNCHECKED
        self.new: New | None = None
        self.verifier = b""
        if isinstance(args.how[1], How):
            self.mode, given = args.how[1].how
            if isinstance(given, NewAttributes):
                self.new = read(given, c.minor, c.service.owners)
            else:
                self.verifier = given.verifier
                if isinstance(given, ExclusiveAttributes):
                    self.new = read(given.attributes, c.minor, c.service.owners)
        self.made = False
        """By this OPEN's own Make."""
        self.before = self.after = 0
        """The directory's change attribute."""
        self.change = 0
        """The file's, after this OPEN has changed it."""

    def check(self) -> None:
        """What can be said without the volume. Raises `Failure`, `ReadOnly`."""
        args, client = self.args, self.client
        if not self.access or args.access & ~KNOWN_ACCESS or args.deny > 3 or args.access & WANT_MASK > WANT_CANCEL:
            raise Failure(Status.INVAL)
        if self.claim in (DELEGATE_PREV, DELEG_PREV_FH):
            raise Failure(Status.NOTSUPP)
        if self.create and self.claim != NULL:
            raise Failure(Status.INVAL)
        client.check_room()
        if self.place.read_only and (self.access & WRITE or self.create):
            raise ReadOnly("the export is read-only")
        if self.claim == PREVIOUS:
            if client.reclaimed:
                raise Failure(Status.NO_GRACE)
        elif not client.reclaimed and self.claim in (NULL, FH):
            raise Failure(Status.GRACE)  # 18.51.3

    # The way through the volume

    def start(self) -> Outcome:
        claim = self.args.claim[1]
        if isinstance(claim, (NameClaim, DelegateCurrent)):
            if isinstance(claim, DelegateCurrent):
                self._delegated(claim.stateid)
            self.name = checked_new(self.place, claim.name) if self.args.how[0] == CREATE else checked(claim.name)
            return Ask(self.place.volume, GetAttributes(self.place.target), self._in_directory)
        if isinstance(claim, DelegateHandle) and self.c.resumed is None:
            stateids.find(self.c, claim.stateid, DELEGATION)
        return self._open((), Disposition.OPEN)

    def _delegated(self, stateid: Stateid) -> None:
        held = self.client.states.get(stateid.other)
        if held is None or held.kind != DELEGATION:
            raise Failure(Status.BAD_STATEID)
        if held.revoked:
            raise Failure(Status.DELEG_REVOKED)
        stateids.check_sequence(held, stateid.sequence)

    def _in_directory(self, found: Found) -> Outcome:
        self.before = self.after = found.attributes.change
        if not self.create:
            return self._open((self.name,), Disposition.OPEN)
        if self.mode == GUARDED:
            return self._open((self.name,), Disposition.CREATE)
        if self.mode == UNCHECKED:
            return self._open((self.name,), Disposition.OPEN_IF)
        place = self.place
        if self.c.resumed is not None:
            self.made = True  # and opened: its name may have gone since
            return self._open((self.name,), Disposition.OPEN)
        make = Make(place.caller, place.inode, self.name, Kind.FILE, Changes(mode=MAKING), exclusive=int.from_bytes(self.verifier))
        return Ask(place.volume, make, self._made)

    def _made(self, found: Found) -> Outcome:
        assert found.directory is not None
        self.after = found.directory.change
        self.made = True
        self.c.rest(self.place.volume, found.gate, Level.STABLE)
        return self._open((self.name,), Disposition.OPEN)

    def _open(self, path: tuple[bytes, ...], disposition: Disposition) -> Outcome:
        place, args, client = self.place, self.args, self.client
        share = ShareMode.ALL & ~(args.deny & (ShareMode.READ | ShareMode.WRITE))
        request = Open(
            place.caller,
            place.inode,
            path,
            _RIGHTS[self.access],
            int(share),
            disposition,
            fold=False,
            directory=False,
            mode=None if self.new is None else self.new.whole(None).mode,
            owner=client.key + args.owner.owner,
            mandatory=False,
            client=client.key,
            keep=KEPT,
            wish=self._wish(),
            reclaim=self.claim == PREVIOUS,
        )
        return Ask(place.volume, request, self._opened, changes=True)

    def _wish(self) -> Wish | None:
        """The delegation that would be of use; none without a way to call it back."""
        want = self.args.access & WANT_MASK
        claim = self.args.claim[1]
        if isinstance(claim, Previous):
            rights = {1: stateids.GRANT_READ, 2: stateids.GRANT_WRITE}.get(claim.delegation)
            return None if rights is None else Wish(self.client.key, GrantKind.DELEGATION, rights)
        if want in (WANT_NONE, WANT_CANCEL) or self.claim not in (NULL, FH) or not self.client.trusted:
            return None
        writing = want == WANT_WRITE or (want != WANT_READ and self.access & WRITE)
        rights = stateids.GRANT_WRITE if writing else stateids.GRANT_READ
        return Wish(self.client.key, GrantKind.DELEGATION, rights, must=want in (WANT_READ, WANT_WRITE, WANT_ANY))

    def _opened(self, opened: Opened) -> Outcome:
        """The file is open. What is new gets the attributes that it was not made with; what was there may be cut off."""
        volume = self.place.volume
        if opened.attributes.kind is not Kind.FILE:
            return Ask(volume, Close(opened.open), self._refuse)
        created = opened.action is Action.CREATED
        finish: Callable[[], Outcome] = partial(self._finish, opened, opened.attributes)
        new = self.new
        if created:
            self.c.rest(volume, opened.gate, Level.STABLE)
            finish = self._look(finish)
        if new is None or not (created or self.made):
            if new is not None and new.changes.size == 0 and opened.attributes.size:
                return Ask(volume, SetAttributes(opened.open, Changes(size=0)), self._changed(finish))
            return finish()
        changes, size = new.whole(None), new.changes.size
        changes.size = None
        if created:
            changes.mode = None
        # The open has the rights to data only; its maker has those to the rest.
        target: Target = Stateless(opened.attributes.inode, self.place.caller, opened.attributes.generation)
        then: Callable[[], Outcome] = partial(set_acl, self.place, target, new, finish)
        if changes != Changes():
            then = partial(Ask, volume, SetAttributes(target, changes), self._changed(then))
        return Ask(volume, SetAttributes(opened.open, Changes(size=size)), self._changed(then)) if size else then()

    def _refuse(self, reply: Reply) -> Outcome:
        raise Failure(Status.WRONG_TYPE)

    def _changed(self, then: Callable[[], Outcome]) -> Callable[[Found], Outcome]:
        def answer(found: Found) -> Outcome:
            self.c.rest(self.place.volume, found.gate, Level.STABLE)
            self.change = found.attributes.change
            return then()

        return answer

    def _look(self, then: Callable[[], Outcome]) -> Callable[[], Outcome]:
        """`then`, once the directory's change attribute after the making is known."""

        def answer(found: Found) -> Outcome:
            self.after = found.attributes.change
            return then()

        return lambda: Ask(self.place.volume, GetAttributes(self.place.target), answer)

    # The answer

    def _finish(self, opened: Opened, attributes: Attributes) -> bytes:
        c, place = self.c, self.place
        here = place.sibling(attributes)
        held = Held(
            OPEN, place.volume.id, opened.open, opened.sequence, attributes.inode, self.args.owner.owner, opened.open, self.access, self.args.deny
        )
        before = self.client.states.get(held.other)
        if before is not None:
            held.access |= before.access
            held.deny |= before.deny
            held.came_to(before.sequence)
        self.client.states[held.other] = held
        delegation = self._delegation(opened, here)
        c.go(here)
        c.stateid = held.stateid
        mask = 0 if self.new is None or not (self.made or opened.action is Action.CREATED) else self.new.mask
        head = _CHANGE.pack(opened.sequence, held.other, 1, self.before, self.after, LOCKTYPE_POSIX | PRESERVE_UNLINKED)
        return head + words_of(mask) + delegation

    def _delegation(self, opened: Opened, place: Place) -> bytes:
        """open_delegation4."""
        if not opened.delegation:
            return self._none()
        c, writing = self.c, opened.grant & stateids.GRANT_WRITE == stateids.GRANT_WRITE
        inode, volume = opened.attributes.inode, place.volume.id
        access = READ | WRITE if writing else READ
        held = Held(DELEGATION, volume, opened.delegation, 1, inode, b"", opened.delegation, access, 0)
        held = self.client.states.setdefault(held.other, held)
        held.handle = place.own_handle
        assert c.session is not None and c.slot is not None
        held.granted = Referring(c.session.id, c.slot.sequence, c.slot.number)
        if writing:
            held.change = max(opened.attributes.change, self.change)
            c.service.writes(self.client, held)
        head = _GRANTED.pack(2 if writing else 1, *held.stateid, 0)
        return head + (_NO_LIMIT if writing else b"") + _NO_ACE

    def _none(self) -> bytes:
        want = self.args.access & WANT_MASK
        if not want:
            return bytes(4)
        if want == WANT_NONE:
            return struct.pack(">2I", 3, NOT_WANTED)
        if want == WANT_CANCEL:
            return struct.pack(">2I", 3, CANCELLED)
        return struct.pack(">3I", 3, RESOURCE, 0)


def open_file(c: Compound, args: OpenArgs) -> Outcome:
    opening = _Opening(c, args)
    if c.resumed is None:
        opening.check()
    return opening.start()


def open_above(c: Compound, args: OpenArgs) -> Outcome:
    """There are only directories."""
    claim = args.claim[1]
    if not isinstance(claim, NameClaim):
        raise Failure(Status.ISDIR)
    name = checked(claim.name)
    if any(share.name.encode() == name for share in c.places.visible()):
        raise Failure(Status.EXIST if args.how[0] == CREATE else Status.ISDIR)
    raise Failure(Status.ROFS if args.how[0] == CREATE else Status.NOENT)
