"""LOOKUP, READLINK, CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME and LINK: names in directories (RFC 1813 3.3.3, 3.3.5, 3.3.8 to 3.3.15)."""

from gateways.nfs import climbing, past
from gateways.nfs.ask import Ask, Outcome
from gateways.nfs.handles import Place
from gateways.nfs.status import Status
from gateways.nfs.v3 import layout
from gateways.nfs.v3.attributes import OK, changes
from gateways.nfs.v3.messages import (
    CreateArgs,
    CreateMode,
    DeviceData,
    DirectoryName,
    ExclusiveVerifier,
    LinkArgs,
    LookupArgs,
    MakeDirectoryArgs,
    MakeNodeArgs,
    NewAttributes,
    ReadLinkArgs,
    RemoveArgs,
    RenameArgs,
    SymlinkArgs,
    Type,
)
from gateways.nfs.xdr import opaque
from sofs.errors import CrossVolume, Exists, InvalidName
from sofs.types import Kind
from sofs.volume.api import Changes, Found, GetAttributes, Link, Lookup, Make, ReadLink, Remove, Removed, Rename, Renamed, Text

_DOTS = (b".", b"..")


def lookup(place: Place, args: LookupArgs) -> Outcome:
    """`..` of an export's root is that root: a client does not get out of its export by its handle."""
    name = args.what.name
    fsid = place.fsid

    def answer(found: Found) -> bytes:
        return OK + opaque(place.handle(found.attributes)) + layout.post_op(found.attributes, fsid) + layout.post_op(found.directory, fsid)

    crossed = past.cross(place, name, Ask, _crossing)
    if crossed is not None:
        return crossed
    if name == b"." or (name == b".." and place.is_root):
        return Ask(place.volume, GetAttributes(place.target), answer)
    if name == b"..":
        return climbing.parent(place, Ask, lambda above: Ask(place.volume, Lookup(place.caller, above, ()), answer))
    return Ask(place.volume, Lookup(place.caller, place.inode, (_checked(name),)), answer)


def _crossing(to: Place) -> Ask:
    """Into a snapshot or back. Of the directory nothing is told: it is another file system's."""

    def answer(found: Found) -> bytes:
        return OK + opaque(to.handle(found.attributes)) + layout.post_op(found.attributes, to.fsid) + layout.ABSENT

    return Ask(to.volume, GetAttributes(to.target), answer)


def readlink(place: Place, args: ReadLinkArgs) -> Outcome:
    fsid = place.fsid

    def answer(text: Text) -> bytes:
        return OK + layout.post_op(text.attributes, fsid) + opaque(text.text)

    return Ask(place.volume, ReadLink(place.caller, place.inode), answer)


def create(place: Place, args: CreateArgs) -> Outcome:
    mode, how = args.how
    if isinstance(how, ExclusiveVerifier):
        # The client sets the real attributes afterwards (3.3.8); until then nobody else gets in.
        verifier = int.from_bytes(how.verifier)
        return _make(place, args.where, Kind.FILE, Changes(mode=0o600), exclusive=verifier)
    assert isinstance(how, NewAttributes)
    return _make(place, args.where, Kind.FILE, changes(how), guarded=mode == CreateMode.GUARDED)


def mkdir(place: Place, args: MakeDirectoryArgs) -> Outcome:
    return _make(place, args.where, Kind.DIRECTORY, changes(args.attributes))


def symlink(place: Place, args: SymlinkArgs) -> Outcome:
    return _make(place, args.where, Kind.SYMLINK, changes(args.attributes), target=args.target)


_NODES = {Type.CHR: Kind.CHARACTER_DEVICE, Type.BLK: Kind.BLOCK_DEVICE, Type.SOCK: Kind.SOCKET, Type.FIFO: Kind.FIFO}


def mknod(place: Place, args: MakeNodeArgs) -> Outcome:
    kind, what = args.what
    if isinstance(what, DeviceData):
        device = (what.device.major, what.device.minor)
        return _make(place, args.where, _NODES[Type(kind)], changes(what.attributes), device=device)
    if isinstance(what, NewAttributes):
        return _make(place, args.where, _NODES[Type(kind)], changes(what))
    # A type that other procedures make, or none at all (3.3.11).
    return bytes(Status.BADTYPE.to_bytes(4)) + layout.NO_WCC


def _make(
    place: Place,
    where: DirectoryName,
    kind: Kind,
    new: Changes,
    *,
    guarded: bool = True,
    exclusive: int | None = None,
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> Ask:
    fsid = place.fsid

    def answer(found: Found) -> bytes:
        return (
            OK
            + b"\0\0\0\1"
            + opaque(place.handle(found.attributes))
            + layout.post_op(found.attributes, fsid)
            + layout.wcc(found.before, found.directory, fsid)
        )

    name = _new_name(where.name)
    if past.is_reserved(place, name):
        raise Exists("the list of snapshots has this name")
    request = Make(place.caller, place.inode, name, kind, new, guarded, exclusive, target, device)
    return Ask(place.volume, request, answer)


def remove(place: Place, args: RemoveArgs) -> Outcome:
    return _remove(place, args, directory=False)


def rmdir(place: Place, args: RemoveArgs) -> Outcome:
    """`.` is INVAL and `..` is EXIST (3.3.13)."""
    if args.what.name == b"..":
        raise Exists("..")
    return _remove(place, args, directory=True)


def _remove(place: Place, args: RemoveArgs, directory: bool) -> Ask:
    fsid = place.fsid

    def answer(removed: Removed) -> bytes:
        return OK + layout.wcc(removed.before, removed.directory, fsid)

    request = Remove(place.caller, place.inode, _checked(args.what.name), directory)
    return Ask(place.volume, request, answer)


def rename(place: Place, args: RenameArgs, to: Place | None) -> Outcome:
    fsid = place.fsid

    def answer(renamed: Renamed) -> bytes:
        return OK + layout.wcc(renamed.source_before, renamed.source, fsid) + layout.wcc(renamed.target_before, renamed.target, fsid)

    request = Rename(place.caller, _same_export(place, to).inode, _checked(args.target.name), True, place.inode, _checked(args.source.name))
    return Ask(place.volume, request, answer)


def link(place: Place, args: LinkArgs, to: Place | None) -> Outcome:
    fsid = place.fsid

    def answer(found: Found) -> bytes:
        return OK + layout.post_op(found.attributes, fsid) + layout.wcc(found.before, found.directory, fsid)

    request = Link(place.caller, place.inode, _same_export(place, to).inode, _new_name(args.link.name))
    return Ask(place.volume, request, answer)


def _same_export(place: Place, other: Place | None) -> Place:
    """The second place of a call. What two exports of one volume may do differs, so one call stays within one; a snapshot is another file system."""
    if other is None or (other.share.number, other.snapshot) != (place.share.number, place.snapshot):
        raise CrossVolume("the two directories belong to different exports or snapshots")
    return other


def _checked(name: bytes) -> bytes:
    """The name of an entry. Raises `InvalidName` for what can be none."""
    if not name or name in _DOTS or b"/" in name or b"\0" in name:
        raise InvalidName(repr(name))
    return name


def _new_name(name: bytes) -> bytes:
    """The name of an entry to be made: `.` and `..` are there already."""
    if name in _DOTS:
        raise Exists(name.decode())
    return _checked(name)
