"""Checking quotas: what every user, group, directory tree and the volume use, counted anew and compared with what is recorded."""

from collections import Counter
from collections.abc import Awaitable, Callable

from sofs.types import ROOT, Kind
from sofs.volume import keys
from sofs.volume.api import QuotaKind
from sofs.volume.check.view import Note, View
from sofs.volume.inode import LAYOUT
from sofs.volume.quotas.counting import files_key, owners, pages_key, use_of

_INODE = LAYOUT.size
"""Shorter records are damaged, which `check_names` tells."""


async def check_quotas(view: View, note: Note, pause: Callable[[], Awaitable[None]]) -> None:
    """Tells `note` (where, what) of each count that is wrong, and of inodes in trees that they are not below."""
    counted = int.from_bytes(view.get(keys.COUNTED) or b"", "little")
    uses: Counter[bytes] = Counter()
    if counted:
        for seen, (key, value) in enumerate(view.walk(keys.INODE)):
            if seen % 256 == 0:
                await pause()
            number = int.from_bytes(key[1:])
            if number < counted and len(value) >= _INODE:
                use = use_of(value)
                for kind, subject in owners(use):
                    uses[pages_key(kind, subject)] += use[3]
                    uses[files_key(kind, subject)] += 1
    for key, value in view.walk(keys.QUOTA):
        if key[-1:] in (b"p", b"f"):
            recorded = int.from_bytes(value, "little", signed=True)
            if recorded != uses[key]:
                note(_where(key), f"{recorded} {_what(key)} are recorded, there are {uses[key]}")
            del uses[key]
    for key, count in uses.items():
        if count:
            note(_where(key), f"{count} {_what(key)} are not recorded")
    await _trees(view, note, pause)


async def _trees(view: View, note: Note, pause: Callable[[], Awaitable[None]]) -> None:
    """Every directory belongs to its parent's tree, unless it begins one, or trees are being walked.

    Of a file that has had several names, in several trees, it cannot be told to which it should belong.
    """
    tops = set()
    for key, _ in view.walk(keys.QUOTA):
        if key[-1:] == b"w":
            return
        if key[-1:] == b"l" and int.from_bytes(key[1 : keys.BUCKET]) == QuotaKind.DIRECTORY:
            tops.add(int.from_bytes(key[keys.BUCKET : -1]))
    if not tops:
        return
    for seen, (key, value) in enumerate(view.walk(keys.ENTRY)):
        if seen % 256 == 0:
            await pause()
        inode = int.from_bytes(value[:8], "little")
        record = view.get(keys.INODE + inode.to_bytes(8))
        parent = view.get(keys.INODE + key[1 : keys.BUCKET])
        if not inode or inode == ROOT or record is None or parent is None or min(len(record), len(parent)) < _INODE:
            continue
        tree = use_of(record)[2]
        if inode in tops:
            if tree != inode:
                note(f"inode {inode}", f"has a quota and belongs to tree {tree}")
        elif tree != use_of(parent)[2] and record[0] == Kind.DIRECTORY:
            note(f"inode {inode}", f"belongs to tree {tree}, its directory to tree {use_of(parent)[2]}")


def _where(key: bytes) -> str:
    kind = QuotaKind(int.from_bytes(key[1 : keys.BUCKET]))
    return f"quota of {kind.name.lower()} {int.from_bytes(key[keys.BUCKET : -1])}"


def _what(key: bytes) -> str:
    return "pages" if key[-1:] == b"p" else "files"
