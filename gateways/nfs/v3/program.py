"""Program 100003 version 3 (RFC 1813 3): the table of procedures, and how one is carried out.

The table says of each procedure what its arguments are, whether it changes something, whether a retransmission has to be recognised,
and what follows the status when it fails. The dispatcher looks after all that; handlers only decide.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from gateways.eager import is_here
from gateways.nfs.ask import Outcome, Performer
from gateways.nfs.handles import BadHandle, Place, Places
from gateways.nfs.rpc import Call, Version
from gateways.nfs.status import Status, status_of
from gateways.nfs.v3 import attributes, data, directories, layout, messages, names
from gateways.nfs.v3.pseudo import PSEUDO, Pseudo
from gateways.nfs.xdr import unpack
from sofs.errors import CrossVolume, Fenced, ReadOnly, SofsError
from sofs.types import Level, Lsn
from sofs.volume.api import Found, GetAttributes, Reply, Token

PROGRAM = 100003


class Procedure(NamedTuple):
    """One line of the table."""

    name: str
    arguments: Any
    handle: Callable[[Any], bytes]
    """The file handle among the arguments that the procedure works on."""
    handler: Callable[..., Outcome]
    failure: bytes
    """What follows a status other than OK: a `post_op_attr` or `wcc_data` of the object for each byte P and W; N for those of other objects."""
    modifies: bool = False
    once: bool = False
    """Not idempotent: a retransmission is answered by the first time's reply."""
    second: Callable[[Any], bytes] | None = None
    """The other directory's handle."""


def _object(args: Any) -> bytes:
    handle: bytes = args[0]
    return handle


def _directory(args: Any) -> bytes:
    handle: bytes = args[0].directory
    return handle


def _second(args: Any) -> bytes:
    handle: bytes = args[1].directory
    return handle


_m = messages
PROCEDURES: dict[int, Procedure] = {
    1: Procedure("GETATTR", _m.GetAttributesArgs, _object, attributes.getattr, b""),
    2: Procedure("SETATTR", _m.SetAttributesArgs, _object, attributes.setattr, b"W", True, True),
    3: Procedure("LOOKUP", _m.LookupArgs, _directory, names.lookup, b"P"),
    4: Procedure("ACCESS", _m.AccessArgs, _object, attributes.access, b"P"),
    5: Procedure("READLINK", _m.ReadLinkArgs, _object, names.readlink, b"P"),
    8: Procedure("CREATE", _m.CreateArgs, _directory, names.create, b"W", True, True),
    9: Procedure("MKDIR", _m.MakeDirectoryArgs, _directory, names.mkdir, b"W", True, True),
    10: Procedure("SYMLINK", _m.SymlinkArgs, _directory, names.symlink, b"W", True, True),
    11: Procedure("MKNOD", _m.MakeNodeArgs, _directory, names.mknod, b"W", True, True),
    12: Procedure("REMOVE", _m.RemoveArgs, _directory, names.remove, b"W", True, True),
    13: Procedure("RMDIR", _m.RemoveArgs, _directory, names.rmdir, b"W", True, True),
    14: Procedure("RENAME", _m.RenameArgs, _directory, names.rename, b"WN", True, True, _second),
    15: Procedure("LINK", _m.LinkArgs, _object, names.link, b"PN", True, True, _second),
    16: Procedure("READDIR", _m.ReadDirectoryArgs, _object, directories.readdir, b"P"),
    17: Procedure("READDIRPLUS", _m.ReadDirectoryPlusArgs, _object, directories.readdirplus, b"P"),
    18: Procedure("FSSTAT", _m.FileSystemArgs, _object, attributes.fsstat, b"P"),
    19: Procedure("FSINFO", _m.FileSystemArgs, _object, attributes.fsinfo, b"P"),
    20: Procedure("PATHCONF", _m.FileSystemArgs, _object, attributes.pathconf, b"P"),
    21: Procedure("COMMIT", _m.CommitArgs, _object, attributes.commit, b"W", True),
}
"""All procedures but NULL (0), READ (6) and WRITE (7), which have paths of their own."""
_READ_FAILURE, _WRITE_FAILURE = b"P", b"W"


class Nfs3:
    """The program, as one connection is served by it."""

    def __init__(self, places: Places, performer: Performer, take: Callable[[int], bytearray]) -> None:
        self._places = places
        self._performer = performer
        self._take = take

    def version(self) -> Version:
        """What the RPC layer dispatches to."""
        served: dict[int, Callable[[Call], None]] = dict.fromkeys(PROCEDURES, self.serve)
        return Version({0: null, **served, 1: self.getattr, 6: self.read, 7: self.write})

    def serve(self, call: Call) -> None:
        """Any procedure of the table."""
        procedure = PROCEDURES[call.procedure]
        args, end = unpack(procedure.arguments, call.data, call.at)
        place: Place | None = None

        def fail(error: SofsError) -> None:
            self._fail(call, procedure.failure, place, error)

        try:
            place = self._places.at(procedure.handle(args), call.credential)
            if place is None:
                answer = PSEUDO.get(call.procedure, Pseudo.refuse)
                outcome = answer(Pseudo(self._places, call.credential), args)
                self._performer.perform(call, outcome, None, Level.COMMITTED, fail)
                return
            if self._performer.held_up(call, place.volume, self.serve):
                return
            if procedure.modifies and place.read_only:
                raise ReadOnly(f"export {place.share.name} is read-only")
            if procedure.second is None:
                outcome = procedure.handler(place, args)
            else:
                outcome = procedure.handler(place, args, self._other(procedure.second(args), call))
            token = self._token(call, end) if procedure.once else None
            level = Level.STABLE if procedure.modifies else Level.COMMITTED
            self._performer.perform(call, outcome, token, level, fail)
        except BadHandle:
            call.reply(_failure(procedure.failure, Status.BADHANDLE, b""))
        except SofsError as error:
            fail(error)

    def _other(self, handle: bytes, call: Call) -> Place:
        other = self._places.at(handle, call.credential)
        if other is None:
            raise CrossVolume("the directory above the exports belongs to none of them")
        return other

    def getattr(self, call: Call) -> None:
        """GETATTR, 3.3.1: as the table has it, without the table's detours, which are a quarter of it. Clients ask nothing more often."""
        place: Place | None = None
        try:
            place = self._places.at(data.handle_argument(call.data, call.at), call.credential)
            if place is None or self._performer.barriers:
                self.serve(call)
                return
            found = place.volume.call(GetAttributes(place.target), None, self._performer.by)
            if isinstance(found, Found):
                _tell_attributes(call, place, found)
            else:
                self._performer.later(call, self._finish_getattr(call, place, found))
        except BadHandle:
            call.reply(_failure(b"", Status.BADHANDLE, b""))
        except SofsError as error:
            self._fail(call, b"", place, error)

    async def _finish_getattr(self, call: Call, place: Place, result: Reply | Awaitable[Reply]) -> None:
        try:
            found = result if isinstance(result, Reply) else await result
        except SofsError as error:
            self._fail(call, b"", place, error)
            return
        assert isinstance(found, Found)
        _tell_attributes(call, place, found)

    def read(self, call: Call) -> None:
        """READ; RFC 1813 3.3.6."""
        args = data.read_arguments(call.data, call.at)
        place: Place | None = None

        def fail(error: SofsError) -> None:
            self._fail(call, _READ_FAILURE, place, error)

        try:
            place = self._places.at(args[0], call.credential)
            if place is None:
                call.reply(_failure(_READ_FAILURE, Status.ISDIR, b""))
                return
            if self._performer.held_up(call, place.volume, self.read):
                return
            data.read(self._performer, self._take, call, place, args, fail)
        except BadHandle:
            call.reply(_failure(_READ_FAILURE, Status.BADHANDLE, b""))
        except SofsError as error:
            fail(error)

    def write(self, call: Call) -> None:
        """WRITE; RFC 1813 3.3.7."""
        args = data.write_arguments(call.data, call.at)
        place: Place | None = None

        def fail(error: SofsError) -> None:
            self._fail(call, _WRITE_FAILURE, place, error)

        try:
            place = self._places.at(args[0], call.credential)
            if place is None or place.read_only:
                raise ReadOnly("the export is read-only")
            if self._performer.held_up(call, place.volume, self.write):
                return
            data.write(self._performer, call, place, args, fail)
        except BadHandle:
            call.reply(_failure(_WRITE_FAILURE, Status.BADHANDLE, b""))
        except SofsError as error:
            fail(error)

    def _token(self, call: Call, end: int) -> Token:
        """What a retransmission has in common with the first time: the client's address (not its port, which may be new), user, xid,
        procedure and arguments."""
        who = call.credential
        digest = hashlib.blake2b(call.data[call.at : end], digest_size=12)
        digest.update(b"%s %d %d" % (self._places.peer.encode(), call.xid, call.procedure))
        # Without the user, whoever shares the client's address could have another's reply, or take his own call for done.
        digest.update(b" %d %d %d " % (who.anonymous, who.uid, who.gid) + b"%r" % (who.groups,))
        return Token(b"nfs3" + digest.digest())

    def _fail(self, call: Call, parts: bytes, place: Place | None, error: SofsError) -> None:
        """Tells a status, with the object's attributes if the volume has them at hand: they save the client a GETATTR."""
        if isinstance(error, Fenced):
            call.drop()
            return
        status = status_of(error)
        if place is None:
            call.reply(_failure(parts, status, b""))
            return
        gate, now = error.gate, b""
        if parts and status != Status.STALE and is_here(place.volume):
            try:
                found = place.volume.call(GetAttributes(place.target), None, self._performer.by)
                if isinstance(found, Found):
                    gate = max(gate, found.gate)
                    now = layout.post_op(found.attributes, place.fsid)
            except SofsError:
                pass
        results = _failure(parts, status, now)
        place.volume.when(Lsn(gate), Level.COMMITTED, lambda: call.reply(results))


def _tell_attributes(call: Call, place: Place, found: Found) -> None:
    results = attributes.OK + layout.attributes(found.attributes, place.fsid)
    place.volume.when(found.gate, Level.COMMITTED, lambda: call.reply(results))


def _failure(parts: bytes, status: Status, now: bytes) -> bytes:
    """A status and what must follow it (`Procedure.failure`); `now` is the object's `post_op_attr`, empty if not known."""
    now = now or layout.ABSENT
    known = {ord("P"): now, ord("W"): layout.ABSENT + now}
    return status.to_bytes(4) + b"".join(known.get(part, layout.NO_WCC) for part in parts)


def null(call: Call) -> None:
    """Procedure 0 of every program: does nothing."""
    call.reply(b"")
