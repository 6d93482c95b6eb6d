"""How opens that outlive their connection are recorded, with their byte ranges and grants.

    O  open                                               the open (`KeptOpen`)
    V  open   lock state u64, start u64, end u72, mode    a byte range: how often it is held (SMB allows a shared lock twice), u32
    k  state                                              an NFSv4 lock owner's locks: inode, owner, open, sequence (`KeptLocks`)
    G  inode  key                                         a grant
    P  inode                                              the file is deleted at its last close: through which open, and what name goes (`Doom`)

Values are msgpack but the ranges'.
"""

from operator import attrgetter
from typing import NamedTuple, TypeVar

import msgspec

from sofs.encoding import decode, encode
from sofs.errors import Damaged
from sofs.locks import ByteLock, Grant
from sofs.types import Inode, OpenId
from sofs.volume import keys
from sofs.volume.api import Binding, Caller, Keep
from sofs.volume.openfile import LockState, OpenFile, StateKind


class KeptOpen(msgspec.Struct, array_like=True, frozen=True):
    """An `OpenFile` as it is recorded; the fields are the same."""

    inode: Inode
    base: Inode
    access: int
    share: int
    caller: Caller
    by: Binding
    owner: bytes
    guid: bytes
    parent: Inode
    name: bytes
    stream: bytes
    kind: int
    mandatory: bool
    delete_on_close: bool
    keep_modified: bool
    keep_changed: bool
    sheds: bool
    state: StateKind
    key: bytes
    lease: bytes | None
    parent_key: bytes
    client: bytes
    keep: Keep | None
    former: tuple[Binding, ...]
    sequence: int
    combinations: tuple[tuple[int, int], ...]
    numbers: dict[bytes, bytes]
    path: tuple[bytes, ...]
    maximal: int
    change: int
    connected: bool = False
    """An SMB one's, when it was recorded last."""
    unclaimed: bool = False

    def opened(self, id: OpenId, ended: bool) -> OpenFile:
        """The open as it is when the volume is opened; `ended` says that the gateway it was reached through has."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        fields["connected"] = not self.mandatory or (self.connected and not ended)
        return OpenFile(id=id, **fields)


class KeptLocks(NamedTuple):
    """A `LockState` as it is recorded."""

    inode: Inode
    owner: bytes
    open: OpenId
    sequence: int


class Doom(NamedTuple):
    """How a delete-pending file was marked."""

    open: OpenId
    base: Inode
    parent: Inode
    name: bytes
    stream: bytes


T = TypeVar("T")
_fields = attrgetter(*KeptOpen.__struct_fields__)


def decode_record(value: bytes, kind: type[T]) -> T:
    """Raises `Damaged`."""
    return decode(value, kind, f"a record, which is no {kind.__name__},", Damaged)


def encode_open(opened: OpenFile) -> bytes:
    return encode(_fields(opened))


def encode_grant(grant: Grant) -> bytes:
    """Without what is being recalled of it."""
    return encode(msgspec.structs.replace(grant, target=grant.rights, told=grant.rights))


def encode_locks(locks: KeptLocks) -> bytes:
    return encode(locks)


def encode_doom(marked: OpenFile) -> bytes:
    """`marked` is the open through which the file was marked; it may have ended."""
    return encode(Doom(marked.id, marked.base, marked.parent, marked.name, marked.stream))


def range_key(held: ByteLock, owner: LockState | None) -> bytes:
    state = 0 if owner is None else owner.id
    return keys.bucket(keys.RANGE, held.open) + state.to_bytes(8) + held.start.to_bytes(8) + held.end.to_bytes(9) + bytes((held.exclusive,))


def split_range(key: bytes) -> tuple[OpenId, OpenId, int, int, bool]:
    """What the key of a range says: open, lock state (0 for SMB), start, end, whether it is exclusive."""
    number = int.from_bytes
    return OpenId(number(key[1:9])), OpenId(number(key[9:17])), number(key[17:25]), number(key[25:34]), bool(key[34])
