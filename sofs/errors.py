"""Outcomes, by meaning.

A `SofsError` is an outcome that a caller is told of: gateways turn each class into their protocol's
status by one table. `PeerError` means that the other side sent bytes no correct peer sends: its
connection is dropped. A violated `assert` is our own bug. The three are never mixed.
"""

from sofs.types import Lsn


class PeerError(Exception):
    """The other side broke the protocol; the message says how."""


class SofsError(Exception):
    """An outcome that is not success. The message names the cause and, where there is one, the remedy.

    `gate` is the log position on which the outcome depends: like any reply, an error is told only
    once that is committed ("not found" may rest on a removal that is still on its way).
    """

    gate: Lsn = Lsn(0)


# What a name or a handle stands for


class NotFound(SofsError):
    """No such name in the directory."""


class PathNotFound(SofsError):
    """A directory on the way to the name does not exist."""


class Stale(SofsError):
    """The file that the handle named is gone."""


class Exists(SofsError):
    """The name is taken."""


class NotDirectory(SofsError):
    """A directory was needed."""


class IsDirectory(SofsError):
    """A directory was not expected."""


class NotEmpty(SofsError):
    """The directory has entries."""


class NotSymlink(SofsError):
    """A symbolic link was needed."""


class SymlinkInPath(SofsError):
    """A symbolic link stands where the protocol wants the client to follow it.

    `unparsed` counts the bytes of path after it (MS-SMB2 2.2.2.2.1).
    """

    def __init__(self, target: bytes, unparsed: int, relative: bool) -> None:
        super().__init__(target)
        self.target = target
        self.unparsed = unparsed
        self.relative = relative


class ReparsePoint(SofsError):
    """The file is a reparse point that only clients understand, and was not opened as one."""


class InvalidName(SofsError):
    """The name cannot be used: empty, reserved, or with characters that cannot be stored."""


class NameTooLong(SofsError):
    """The name is longer than 255 UTF-16 units (or 765 bytes)."""


class TooManyLinks(SofsError):
    """The file has as many names as it can have."""


class CrossVolume(SofsError):
    """Both names must lie in one volume."""


# Sharing


class SharingViolation(SofsError):
    """Another open's access or share mode is in the way."""


class LockConflict(SofsError):
    """Another owner's byte-range lock is in the way."""


class LockNotHeld(SofsError):
    """There is no such byte-range lock to release."""


class DeletePending(SofsError):
    """The file will go with its last open; it can no longer be opened."""


class Busy(SofsError):
    """Something is in use, and would have to be ended first."""


class Delayed(SofsError):
    """A grant is being recalled, or a disconnected handle stands in the way: try again soon."""


class Closed(SofsError):
    """There is no such open any more."""


class NotRecalled(SofsError):
    """An answer to a recall that was never made, or is over."""


class LocksHeld(SofsError):
    """The state still stands for an open or for locks."""


class Grace(SofsError):
    """Records of opens and locks may have been lost: only those who had them before may have them now."""


class NoGrace(SofsError):
    """Nothing was lost, or the time to reclaim it is over."""


# Rights


class AccessDenied(SofsError):
    """The security descriptor or mode forbids it."""


class NotPermitted(SofsError):
    """Only an owner or the superuser may do that."""


class ReadOnly(SofsError):
    """The file, share or volume is read-only."""


class CannotDelete(SofsError):
    """The file cannot be deleted: read-only attribute, or mapped."""


# Space and limits


class NoSpace(SofsError):
    """The pool, the disk or the reservation is full; the message says which, and what to add."""


class QuotaExceeded(SofsError):
    """The quota of the user, directory or volume is used up."""


class FileTooLarge(SofsError):
    """Beyond the largest offset a file can have."""


class NoData(SofsError):
    """Nothing there: end of file, no such attribute, no more entries."""


class BufferTooSmall(SofsError):
    """The answer does not fit into what the client can take."""


# The request itself


class InvalidArgument(SofsError):
    """The request makes no sense as it stands."""


class NotSupported(SofsError):
    """Correct, but not offered."""


class Cancelled(SofsError):
    """The client took the request back."""


class Changed(SofsError):
    """The object is not as the client believed (guard, cookie verifier)."""


# The service


class Fenced(SofsError):
    """The caller's configuration or gateway incarnation has been superseded."""


class Unavailable(SofsError):
    """Not to be served now (no quorum, lease run out, stopping); the request had no effect."""


class Damaged(SofsError):
    """Bytes on a disk do not match their checksum and no good copy is left."""


class DiskFailed(SofsError):
    """The disk returned an error; the message names the disk and the system's error."""


class DiskRefused(SofsError):
    """The disk carries a foreign, duplicate or unreadable label; the message names the remedy."""


class ExtentGone(SofsError):
    """The extent has been freed: read the map again."""


class ConfigError(SofsError):
    """A configuration is wrong; the message names file, line and remedy."""
