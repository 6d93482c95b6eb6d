"""The operating system's errors as outcomes: the one table from errno to `SofsError`."""

import errno

from sofs.errors import DiskFailed, Exists, FileTooLarge, InvalidArgument, IsDirectory, NoSpace, NotDirectory, NotEmpty, NotFound, ReadOnly, SofsError

_MEANINGS: dict[int, type[SofsError]] = {
    errno.ENOENT: NotFound,
    errno.EEXIST: Exists,
    errno.ENOTDIR: NotDirectory,
    errno.EISDIR: IsDirectory,
    errno.ENOTEMPTY: NotEmpty,
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EFBIG: FileTooLarge,
    errno.EROFS: ReadOnly,
    errno.EINVAL: InvalidArgument,
    errno.ENAMETOOLONG: InvalidArgument,
}

_REMEDIES = {
    # Not `AccessDenied`: that is a client's lack of rights, this is the service's.
    errno.EACCES: "the service's user needs read and write access to it",
    errno.EPERM: "the service's user needs read and write access to it",
    errno.EMFILE: "raise the limit of open files (LimitNOFILE= in the unit, or `ulimit -n`)",
    errno.ENFILE: "the system's table of open files is full (sysctl fs.file-max)",
    errno.ENOSPC: "free space on that file system, or add a disk",
    errno.EDQUOT: "the service's user has used up its quota there",
    errno.EROFS: "the file system is mounted read-only: see the kernel's log for a disk error, then remount it",
}


def outcome(error: OSError, path: str) -> SofsError:
    """What `error` on `path` means; `DiskFailed` when it means nothing more precise."""
    code = error.errno or 0
    text = f"{path}: {error.strerror or error}"
    if code in _REMEDIES:
        text += f" ({_REMEDIES[code]})"
    return _MEANINGS.get(code, DiskFailed)(text)
