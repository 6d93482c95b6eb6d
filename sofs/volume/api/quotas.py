"""Quotas: limits on the bytes and files of a volume, a directory tree or a user."""

from enum import IntEnum

import msgspec

from sofs.types import Inode
from sofs.volume.api.values import Reply, Request


class QuotaKind(IntEnum):
    VOLUME = 1
    DIRECTORY = 2
    """Everything below a directory that was empty, or had its use counted, when the quota was set."""
    USER = 3
    GROUP = 4


class Quota(msgspec.Struct, array_like=True):
    kind: QuotaKind
    subject: int
    """0 for the volume, a directory's inode, a uid or a gid. A user's quota of subject 2**32 - 1 is the default for those without one."""
    soft_bytes: int = 0
    """Shown, and warned about; 0 for none."""
    hard_bytes: int = 0
    """What would exceed it is refused with `QuotaExceeded` (EDQUOT, STATUS_DISK_FULL); 0 for none."""
    hard_files: int = 0
    used_bytes: int = 0
    used_files: int = 0


class SetQuota(Request):
    """Sets the limits of a subject (its use is counted, whatever is given); all 0 takes the quota away. Counting what a directory holds already may take a
    while, in the background: `QuotaList` says how far it is. Answers `QuotaList` with this one."""

    quota: Quota


class GetQuota(Request):
    """One subject's limits and use. Raises `NotFound`. Answers `QuotaList`."""

    kind: QuotaKind
    subject: int


class ListQuotas(Request):
    """Every quota, and every user's use. Answers `QuotaList`, in order of kind and subject, those behind `after`, at most `limit`."""

    after: tuple[int, int] = (0, -1)
    limit: int = 1000
    directory: Inode | None = None
    """Only those that bind what lies in this directory."""


class QuotaList(Reply):
    quotas: list[Quota]
    end: bool = True
