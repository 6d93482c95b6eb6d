"""Outcomes as nfsstat3 (RFC 1813 2.6), by one table."""

from enum import IntEnum

from sofs import errors
from sofs.errors import SofsError


class Status(IntEnum):
    """nfsstat3."""

    OK = 0
    PERM = 1
    NOENT = 2
    IO = 5
    NXIO = 6
    ACCES = 13
    EXIST = 17
    XDEV = 18
    NODEV = 19
    NOTDIR = 20
    ISDIR = 21
    INVAL = 22
    FBIG = 27
    NOSPC = 28
    ROFS = 30
    MLINK = 31
    NAMETOOLONG = 63
    NOTEMPTY = 66
    DQUOT = 69
    STALE = 70
    REMOTE = 71
    BADHANDLE = 10001
    NOT_SYNC = 10002
    BAD_COOKIE = 10003
    NOTSUPP = 10004
    TOOSMALL = 10005
    SERVERFAULT = 10006
    BADTYPE = 10007
    JUKEBOX = 10008


STATUS: dict[type[SofsError], Status] = {
    errors.NotFound: Status.NOENT,
    errors.PathNotFound: Status.NOENT,
    errors.Stale: Status.STALE,
    errors.Exists: Status.EXIST,
    errors.NotDirectory: Status.NOTDIR,
    errors.IsDirectory: Status.ISDIR,
    errors.NotEmpty: Status.NOTEMPTY,
    errors.NotSymlink: Status.INVAL,
    errors.SymlinkInPath: Status.NOTDIR,  # a link where the handle should be a directory's
    errors.ReparsePoint: Status.NOTSUPP,
    errors.InvalidName: Status.INVAL,
    errors.NameTooLong: Status.NAMETOOLONG,
    errors.TooManyLinks: Status.MLINK,
    errors.CrossVolume: Status.XDEV,
    errors.SharingViolation: Status.ACCES,
    errors.LockConflict: Status.ACCES,
    errors.LockNotHeld: Status.INVAL,
    errors.DeletePending: Status.ACCES,
    errors.Busy: Status.JUKEBOX,
    errors.Delayed: Status.JUKEBOX,
    errors.Closed: Status.STALE,
    errors.NotRecalled: Status.INVAL,
    errors.LocksHeld: Status.ACCES,
    errors.Grace: Status.JUKEBOX,
    errors.NoGrace: Status.INVAL,
    errors.AccessDenied: Status.ACCES,
    errors.NotPermitted: Status.PERM,
    errors.ReadOnly: Status.ROFS,
    errors.CannotDelete: Status.ACCES,
    errors.NoSpace: Status.NOSPC,
    errors.QuotaExceeded: Status.DQUOT,
    errors.FileTooLarge: Status.FBIG,
    errors.NoData: Status.INVAL,
    errors.BufferTooSmall: Status.TOOSMALL,
    errors.InvalidArgument: Status.INVAL,
    errors.NotSupported: Status.NOTSUPP,
    errors.Cancelled: Status.SERVERFAULT,
    errors.Changed: Status.NOT_SYNC,
    # The client is to try again: the request had no effect here and may have one elsewhere.
    errors.Fenced: Status.JUKEBOX,
    errors.Unavailable: Status.JUKEBOX,
    errors.ExtentGone: Status.JUKEBOX,
    errors.Damaged: Status.IO,
    errors.DiskFailed: Status.IO,
    errors.DiskRefused: Status.IO,
    errors.ConfigError: Status.SERVERFAULT,
}


def status_of(error: SofsError) -> Status:
    """The status that tells the client of `error`."""
    return STATUS[type(error)]
