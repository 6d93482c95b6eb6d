"""Requests about reparse points (MS-FSA 2.1.1.3): what SMB clients see instead of a file's data.

Symbolic links, pipes, sockets and devices are kinds of files, and so the same ones for NFS. Every other reparse point is an ordinary file or directory that
carries a tag and data which only clients understand (MS-FSCC 2.1.2).
"""

from sofs.types import Kind, OpenId
from sofs.volume.api.values import Reply, Request


class GetReparse(Request):
    """Answers `Reparse`. Raises `NotSymlink` for what is no reparse point."""

    open: OpenId


class Reparse(Reply):
    kind: Kind
    """FILE or DIRECTORY: `tag` says what it is. Else a symbolic link to `text`, or what has no data."""
    tag: int
    text: bytes
    """A link's text, or the opaque data."""
    device: tuple[int, int] = (0, 0)


class SetReparse(Request):
    """Makes an empty file or directory a reparse point, or replaces one of the same sort. Raises `NotEmpty`, `NotSupported`, `NotPermitted`."""

    open: OpenId
    kind: Kind
    """FILE: an opaque one, with `tag`."""
    text: bytes = b""
    tag: int = 0
    device: tuple[int, int] = (0, 0)


class DeleteReparse(Request):
    """Makes it an ordinary file or directory again. Raises `NotSymlink`."""

    open: OpenId
