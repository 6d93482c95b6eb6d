"""Watching directories: what CHANGE_NOTIFY needs (MS-SMB2 3.3.5.19, MS-FSA 2.1.5.11)."""

from enum import IntEnum

from sofs.types import OpenId
from sofs.volume.api.values import Request


class Changed(IntEnum):
    """What can change about an entry: bits of the completion filter, MS-SMB2 2.2.35."""

    FILE_NAME = 0x1
    DIR_NAME = 0x2
    ATTRIBUTES = 0x4
    SIZE = 0x8
    LAST_WRITE = 0x10
    LAST_ACCESS = 0x20
    CREATION = 0x40
    EA = 0x80
    SECURITY = 0x100
    STREAM_NAME = 0x200
    STREAM_SIZE = 0x400
    STREAM_WRITE = 0x800


class Watch(Request):
    """From now on until the open's end, `Upcalls.noticed` is told of changes to the entries of the open's directory; with `tree` also of those below.

    Asked again for an open, only the filter changes (`tree` stays as it was first asked, MS-SMB2 3.3.5.19).
    """

    open: OpenId
    filter: int
    tree: bool = False
