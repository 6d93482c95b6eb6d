"""Program 100005: MOUNT (RFC 1813 appendix I), how a client comes by its first file handle.

`/NAME` is the root of the export NAME, what follows a path below it; `/` is the directory above all exports. Nothing is remembered
of who has mounted what: handles say all that is needed, and the list that DUMP would show is a guess after any client's crash. Of versions 1 and 2
only what needs no NFSv2 file handle is there; some clients unmount with them.
"""

from collections.abc import Callable
from enum import IntEnum

import structlog

from gateways.exports import Share
from gateways.nfs.ask import Ask, Outcome, Performer
from gateways.nfs.auth import AUTH_NONE, AUTH_SYS, Credential
from gateways.nfs.handles import Places
from gateways.nfs.rpc import Call, Program, Version
from gateways.nfs.v3.messages import Exported, ExportList, Groups, Mounted, MountPath
from gateways.nfs.v3.program import null
from gateways.nfs.xdr import encode, unpack
from sofs import errors
from sofs.errors import NotFound, SofsError
from sofs.types import Kind, Level
from sofs.volume.api import Caller, Found, Lookup

log = structlog.get_logger("nfs")

PROGRAM = 100005
MNT, DUMP, UMNT, UMNTALL, EXPORT = range(1, 6)


class MountStatus(IntEnum):
    """mountstat3."""

    OK = 0
    PERM = 1
    NOENT = 2
    IO = 5
    ACCES = 13
    NOTDIR = 20
    INVAL = 22
    NAMETOOLONG = 63
    NOTSUPP = 10004
    SERVERFAULT = 10006


_STATUS: dict[type[SofsError], MountStatus] = {
    errors.NotFound: MountStatus.NOENT,
    errors.PathNotFound: MountStatus.NOENT,
    errors.Stale: MountStatus.NOENT,
    errors.AccessDenied: MountStatus.ACCES,
    errors.NotPermitted: MountStatus.PERM,
    errors.NotDirectory: MountStatus.NOTDIR,
    errors.SymlinkInPath: MountStatus.NOTDIR,
    errors.InvalidName: MountStatus.INVAL,
    errors.NameTooLong: MountStatus.NAMETOOLONG,
    errors.Damaged: MountStatus.IO,
    errors.DiskFailed: MountStatus.IO,
}
"""All others are SERVERFAULT."""
_SUPERUSER = Caller(0, 0, privileged=True)


class Mount:
    """The program, as one connection is served by it."""

    def __init__(self, places: Places, performer: Performer) -> None:
        self._places = places
        self._performer = performer

    def program(self) -> Program:
        old: dict[int, Callable[[Call], None]] = {
            0: null,
            DUMP: lambda call: call.reply(bytes(4)),
            UMNT: self.unmount,
            UMNTALL: null,
            EXPORT: self.export,
        }
        return Program({1: Version(old), 2: Version(old), 3: Version({**old, MNT: self.mount})})

    def mount(self, call: Call) -> None:
        """MNT."""
        path = unpack(MountPath, call.data, call.at)[0].path

        peer, shown = self._places.peer, path.decode(errors="backslashreplace")

        def fail(error: SofsError) -> None:
            if isinstance(error, errors.Fenced):
                call.drop()
                return
            status = _STATUS.get(type(error), MountStatus.SERVERFAULT)
            log.warning("nfs_mount_refused", peer=peer, path=shown, status=status.name, reason=str(error))
            call.reply(status.to_bytes(4))

        try:
            outcome = self._find(path, call.credential)
        except SofsError as error:
            fail(error)
            return
        self._performer.perform(call, outcome, None, Level.COMMITTED, fail)

    def _find(self, path: bytes, who: Credential) -> Outcome:
        names = tuple(name for name in path.split(b"/") if name)
        if not names:
            return _mounted(self._places.root_handle)
        share = self._share(names[0])
        if share is None or not share.nfs.enabled:
            raise NotFound(repr(path))
        if any(name in (b".", b"..") or b"\0" in name for name in names):
            raise NotFound(repr(path))
        place = self._places.place(share, who, share.root)

        def answer(found: Found) -> bytes:
            if found.attributes.kind is not Kind.DIRECTORY:
                raise errors.NotDirectory(repr(path))
            log.info("nfs_mounted", peer=self._places.peer, path=path.decode(errors="backslashreplace"))
            return _mounted(place.handle(found.attributes))

        # Whoever may mount the export may mount what is below: the path is resolved as the administrator's choice.
        return Ask(place.volume, Lookup(_SUPERUSER, share.root, names[1:]), answer)

    def _share(self, name: bytes) -> Share | None:
        try:
            return self._places.shares.named(name.decode())
        except UnicodeDecodeError:
            return None

    def unmount(self, call: Call) -> None:
        """UMNT: always succeeds, as RFC 1813 5.2.3 has it."""
        unpack(MountPath, call.data, call.at)
        call.reply(b"")

    def export(self, call: Call) -> None:
        """EXPORT: every export with the networks of its client list."""
        exports = [
            Exported(b"/" + share.name.encode(), tuple(Groups(client.network.encode()) for client in share.nfs.clients))
            for share in self._places.shares.all()
            if share.nfs.enabled
        ]
        call.reply(encode(ExportList(tuple(exports))))


def _mounted(handle: bytes) -> bytes:
    return bytes(4) + encode(Mounted(handle, (AUTH_SYS, AUTH_NONE)))
