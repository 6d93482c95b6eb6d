"""Requests about attributes, rights, security descriptors, extended attributes and streams."""

import msgspec

from sofs.types import Inode, Time
from sofs.volume.api.values import Attributes, Caller, Reply, Request, Target


class Changes(msgspec.Struct, array_like=True):
    """Attributes to set; None leaves one alone. A time of -1 means the server's time now."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    created: Time | None = None
    accessed: Time | None = None
    modified: Time | None = None
    changed: Time | None = None
    flags: int | None = None
    """The settable ones (`SETTABLE_FLAGS`), all at once; SPARSE_FILE has its own field."""
    sparse: bool | None = None
    """FSCTL_SET_SPARSE: whether zeroed ranges give their space back, and how the file is shown."""
    keep_times: bool | None = None
    """Whether from now on changes through this open leave `modified` alone (FILETIME -1 and -2, MS-FSCC 2.4.7).

    A time that is set through an open stays what it was set to, whatever the open does later (MS-FSA 2.1.5.14.2)."""


class GetAttributes(Request):
    """Breaks no grant. Answers `Found`."""

    target: Target


class SetAttributes(Request):
    """`guard`: raises `Changed` unless the file's `changed` is this (NFSv3 sattrguard3). Answers `Found` with `before` of the file."""

    target: Target
    changes: Changes
    guard: Time | None = None


class CheckAccess(Request):
    """Which of the `wanted` rights the caller has. Answers `Rights`."""

    caller: Caller
    inode: Inode
    wanted: int


class Rights(Reply):
    granted: int
    attributes: Attributes


class GetSecurity(Request):
    """The security descriptor's parts (MS-DTYP 2.4.6; bits of MS-SMB2 2.2.37 AdditionalInformation), stored or derived. Answers `Text`."""

    target: Target
    parts: int


class SetSecurity(Request):
    target: Target
    parts: int
    descriptor: bytes


class GetExtended(Request):
    """Extended attributes: all of them (names None) or those named. Answers `Extended`."""

    target: Target
    names: tuple[bytes, ...] | None = None


class Extended(Reply):
    attributes: list[tuple[bytes, bytes]]


class SetExtended(Request):
    """Sets each; an empty value removes (SMB), `create`/`replace` as setxattr(2). Raises `NoData`, `Exists`."""

    target: Target
    attributes: tuple[tuple[bytes, bytes], ...]
    create: bool = False
    replace: bool = False


class ListStreams(Request):
    """Named streams with size and allocation, the unnamed not among them. Answers `Streams`."""

    target: Target


class Streams(Reply):
    streams: list[tuple[bytes, int, int]]
