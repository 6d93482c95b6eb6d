"""Who may do what: one truth per file.

Without an explicit descriptor that is mode and owners, with one it is the descriptor; both give rights in NT's words, which NFS's questions
are asked in too. The superuser and callers with backup intent are not asked.
"""

from functools import lru_cache

from sofs.errors import AccessDenied
from sofs.types import Kind
from sofs.volume.api import Access, Caller
from sofs.volume.inode import InodeRecord
from sofs.volume.security import AUTHENTICATED, EVERYONE, OWNER_RIGHTS, Descriptor, Identities, granted, rights_of_bits, sid_bytes

SETUID, SETGID, STICKY = 0o4000, 0o2000, 0o1000
ANONYMOUS = "S-1-5-7"
"""Who has not said who he is (MS-DTYP 2.4.2.4)."""

_TABLE = {
    (bits, directory, owner): rights_of_bits(bits, directory, owner) for bits in range(8) for directory in (False, True) for owner in (False, True)
}
_EVERYTHING = int(Access.ALL | Access.SYSTEM_SECURITY)
_OWNERS_OWN = int(Access.READ_CONTROL | Access.WRITE_DAC)


def is_superuser(caller: Caller) -> bool:
    return caller.uid == 0 or caller.privileged


def is_owner(caller: Caller, record: InodeRecord) -> bool:
    """Whether the caller may do what only owners may."""
    return caller.uid == record.uid or caller.uid == 0 or caller.privileged


def is_member(caller: Caller, gid: int) -> bool:
    return caller.gid == gid or gid in caller.groups


def class_bits(caller: Caller, record: InodeRecord) -> int:
    """The three permission bits that apply to the caller: those of the first class he belongs to."""
    if caller.uid == record.uid:
        return record.mode >> 6 & 7
    if is_member(caller, record.gid):
        return record.mode >> 3 & 7
    return record.mode & 7


class Judge:
    """Computes rights; holds the mapping between numbers and SIDs."""

    def __init__(self, identities: Identities) -> None:
        self.identities = identities
        self.sids = lru_cache(4096)(self._sids)

    def _sids(self, caller: Caller) -> frozenset[bytes]:
        """All SIDs by which an entry may mean this caller."""
        known = self.identities
        texts = {f"S-1-22-1-{caller.uid}", known.sid_of_uid(caller.uid), *caller.sids}
        for gid in (caller.gid, *caller.groups):
            texts |= {f"S-1-22-2-{gid}", known.sid_of_gid(gid)}
        everybody = {EVERYONE} if ANONYMOUS in caller.sids else {EVERYONE, AUTHENTICATED}
        return frozenset(map(sid_bytes, texts)) | everybody

    def rights(self, record: InodeRecord, descriptor: Descriptor | None, caller: Caller) -> int:
        """All rights that the caller has to the file by itself (its directory may let him delete it besides)."""
        if caller.uid == 0 or caller.privileged:
            return _EVERYTHING
        if descriptor is None:
            return _TABLE[class_bits(caller, record), record.kind == Kind.DIRECTORY, caller.uid == record.uid]
        sids = self.sids(caller)
        owner = descriptor.owner in sids if descriptor.owner else caller.uid == record.uid
        if not owner:
            return granted(descriptor.dacl, sids)
        rights = granted(descriptor.dacl, sids | {OWNER_RIGHTS})
        # The owner can always repair the descriptor, unless it says otherwise by an OWNER RIGHTS entry (MS-DTYP 2.5.3.2).
        if not any(ace.sid == OWNER_RIGHTS for ace in descriptor.dacl or ()):
            rights |= _OWNERS_OWN
        return rights


def execute(record: InodeRecord, descriptor: Descriptor | None, caller: Caller, rights: int) -> int:
    """`rights` with EXECUTE as NFS means it: a file without any x bit cannot be executed, not even by the superuser (RFC 1813 3.3.4)."""
    if record.kind == Kind.DIRECTORY or descriptor is not None:
        return rights
    bits = 1 if is_superuser(caller) and record.mode & 0o111 else class_bits(caller, record) & 1
    if is_superuser(caller) and not record.mode & 0o111:
        bits = 0
    return rights if bits else rights & ~int(Access.EXECUTE)


def require(rights: int, wanted: int) -> None:
    """Raises `AccessDenied` unless `rights` holds all that is `wanted`."""
    if wanted & ~rights:
        raise AccessDenied(f"rights {wanted & ~rights:#x} are missing")


def sticky_forbids(caller: Caller, directory: InodeRecord, file: InodeRecord) -> bool:
    """Whether the directory's sticky bit keeps this caller from removing or renaming the file."""
    if not directory.mode & STICKY or is_superuser(caller):
        return False
    return caller.uid not in (directory.uid, file.uid)
