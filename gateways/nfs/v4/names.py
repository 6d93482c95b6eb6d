"""READLINK, CREATE, LINK, REMOVE and RENAME: names in directories (RFC 8881 18.4, 18.9, 18.24, 18.25, 18.26).

Each answers with the change attributes of the directories around the operation, atomically.
"""

import struct
from typing import Annotated, NamedTuple

from gateways.nfs.handles import Place
from gateways.nfs.v4 import settable
from gateways.nfs.v4.attributes import words_of
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.filehandles import checked, checked_new
from gateways.nfs.v4.metadata import set_acl
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.settable import NewAttributes
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Name, NoArguments
from gateways.nfs.xdr import U32, Opaque, Switch, Void, opaque
from sofs.errors import CrossVolume
from sofs.types import Kind
from sofs.volume.api import Attributes, Found, Link, Make, ReadLink, Remove, Removed, Rename, Renamed, Text

_CHANGE = struct.Struct(">IQQ")  # atomic, before, after


class Link4(NamedTuple):
    target: Annotated[bytes, Opaque(1 << 16)]


class Device(NamedTuple):
    """specdata4."""

    major: U32
    minor: U32


REGULAR, DIRECTORY, BLOCK, CHARACTER, LINK, SOCKET, FIFO = range(1, 8)
"""nfs_ftype4."""


class CreateArgs(NamedTuple):
    what: Annotated[tuple[int, object], Switch({LINK: Link4, BLOCK: Device, CHARACTER: Device}, Void)]
    name: Name
    attributes: NewAttributes


class LinkArgs(NamedTuple):
    name: Name


class RemoveArgs(NamedTuple):
    name: Name


class RenameArgs(NamedTuple):
    old: Name
    new: Name


def change_info(before: tuple[int, int, int, int] | None, after: Attributes | None) -> bytes:
    """change_info4 of a directory that a request changed."""
    assert before is not None and after is not None
    return _CHANGE.pack(1, before[3], after.change)


def readlink(c: Compound, args: NoArguments) -> Outcome:
    place = c.place

    def answer(text: Text) -> bytes:
        return opaque(text.text)

    return Ask(place.volume, ReadLink(place.caller, place.inode), answer)


_KINDS = {
    DIRECTORY: Kind.DIRECTORY,
    BLOCK: Kind.BLOCK_DEVICE,
    CHARACTER: Kind.CHARACTER_DEVICE,
    LINK: Kind.SYMLINK,
    SOCKET: Kind.SOCKET,
    FIFO: Kind.FIFO,
}


def create(c: Compound, args: CreateArgs) -> Outcome:
    """Everything but regular files, which OPEN makes. An ACL comes after the file, which nobody else has a handle of yet."""
    number, what = args.what
    kind = _KINDS.get(number)
    if kind is None:
        raise Failure(Status.BADTYPE)
    place = c.place
    name = checked_new(place, args.name)
    new = settable.read(args.attributes, c.minor, c.service.owners)
    changes = new.whole(None)
    if changes.size is not None:
        raise Failure(Status.INVAL)
    target = what.target if isinstance(what, Link4) else b""
    device = (what.major, what.minor) if isinstance(what, Device) else (0, 0)
    if kind is Kind.SYMLINK and not target:
        raise Failure(Status.INVAL)

    def answer(found: Found) -> Outcome:
        made = place.sibling(found.attributes)

        def finish() -> bytes:
            c.go(made)
            return change_info(found.before, found.directory) + words_of(new.mask)

        return set_acl(made, made.target, new, finish)

    return Ask(place.volume, Make(place.caller, place.inode, name, kind, changes, True, None, target, device), answer, True)


def link(c: Compound, args: LinkArgs) -> Outcome:
    """One more name, in the current directory, for the file of the saved filehandle."""
    directory = c.place
    file = same_export(c, directory)

    def answer(found: Found) -> bytes:
        return change_info(found.before, found.directory)

    return Ask(directory.volume, Link(directory.caller, file.inode, directory.inode, checked_new(directory, args.name)), answer, True)


def remove(c: Compound, args: RemoveArgs) -> Outcome:
    place = c.place

    def answer(removed: Removed) -> bytes:
        return change_info(removed.before, removed.directory)

    return Ask(place.volume, Remove(place.caller, place.inode, checked(args.name), None), answer, True)


def rename(c: Compound, args: RenameArgs) -> Outcome:
    """From the saved directory to the current one."""
    to = c.place
    source = same_export(c, to)

    def answer(renamed: Renamed) -> bytes:
        return change_info(renamed.source_before, renamed.source) + change_info(renamed.target_before, renamed.target)

    old, new = checked(args.old), checked_new(to, args.new)
    return Ask(to.volume, Rename(to.caller, to.inode, new, True, source.inode, old), answer, True)


def same_export(c: Compound, here: Place) -> Place:
    """The saved filehandle's file. What two exports of one volume may do differs, so an operation stays within one."""
    saved = c.saved_place
    if (saved.share.number, saved.snapshot) != (here.share.number, here.snapshot):
        # An inode's number is the same in a snapshot and in the living tree: what is meant would be taken from the wrong one.
        raise CrossVolume("the two filehandles belong to different exports or snapshots")
    return saved
