"""What others' opens and locks have to say to a request: the volume's way of asking the lock engine.

An SMB request waits until a grant in its way has been given back; a stateless one is `Delayed`, and its client asks again. The engine knows streams
as files of their own, so what binds a stream and its file together stands here (MS-FSA 2.1.5.1.2.2).
"""

from sofs.errors import SharingViolation
from sofs.types import Inode
from sofs.volume.api import Access, ShareMode
from sofs.volume.core import Core, Subject, Wait


def check_io(core: Core, subject: Subject, offset: int, length: int, write: bool) -> None:
    """Passes when these bytes may be read or written now. Raises `SharingViolation`, `LockConflict`, `Delayed`, `Wait`."""
    opened = subject.open
    may = core.locks.may_write if write else core.locks.may_read
    if opened is None:
        may(subject.inode, 0, offset, length)  # type: ignore[arg-type]
        return
    waiting = may(opened.inode, opened.id, offset, length, wait=opened.mandatory)
    if waiting is not None:
        raise Wait(waiting)


def check_remove(core: Core, inode: Inode) -> None:
    """Passes when a name of the file may go, for a request without an open. Raises `SharingViolation`, `Delayed`."""
    if inode in core.by_inode:
        check_streams(core, inode)
        core.locks.check_remove(inode)


def check_streams(core: Core, base: Inode) -> None:
    """Raises `SharingViolation` if an open of a stream keeps its file from being deleted."""
    for opened in core.by_inode.get(base, ()):
        if opened.stream and not opened.share & ShareMode.DELETE:
            raise SharingViolation(f"stream {opened.stream!r} is open, and does not share deletion")


def check_base(core: Core, base: Inode, share: int) -> None:
    """Raises `SharingViolation` if the file is open for deletion, and an open of its stream would not share that."""
    if share & ShareMode.DELETE:
        return
    for opened in core.by_inode.get(base, ()):
        if not opened.stream and opened.access & Access.DELETE:
            raise SharingViolation("the file is open for deletion")
