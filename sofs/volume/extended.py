"""Requests about extended attributes: GetExtended and SetExtended.

One attribute is one record. SMB's EAs (MS-FSCC 2.4.15) and NFS's xattrs (RFC 8276) are the same ones. Names compare as bytes: a gateway whose protocol
folds case brings them into one form first.
"""

from sofs.errors import Exists, InvalidName, NameTooLong, NoData, NoSpace
from sofs.types import Inode
from sofs.volume import keys
from sofs.volume.access import require
from sofs.volume.api import Access, AnyToken, Changed, Extended, GetExtended, Reply, SetExtended
from sofs.volume.batch import Batch
from sofs.volume.core import Core
from sofs.volume.inode import InodeRecord

MAX_NAME = 255
MAX_VALUE = 65_535
MAX_TOTAL = 1 << 20
"""Bytes of one file's attributes with their names."""
_HEAD = 8
"""What an attribute takes beside name and value in a client's buffer (MS-FSCC 2.4.15): `ea_size` is the sum."""


def all_attributes(core: Core, inode: Inode) -> list[tuple[bytes, bytes]]:
    bucket = keys.bucket(keys.EXTENDED, inode)
    core.note(bucket)
    return [(key[keys.BUCKET :], value) for key, value in core.keys.scan(bucket)]


def get_extended(core: Core, request: GetExtended, token: AnyToken | None) -> Extended:
    """Raises `NoData` if one that is asked for by name is not there."""
    subject = core.subject(request.target)
    require(subject.rights, Access.READ_EA)
    inode, record = core.file_of(subject.inode, subject.record)
    if request.names is None:
        return Extended(core.gate, all_attributes(core, inode) if record.ea_size else [])
    core.note(keys.bucket(keys.EXTENDED, inode))
    found = []
    for name in request.names:
        value = core.get(keys.extended(inode, name))
        if value is None:
            raise NoData(f"there is no attribute {name!r}")
        found.append((name, value))
    return Extended(core.gate, found)


def set_extended(core: Core, request: SetExtended, token: AnyToken | None) -> Reply:
    """An empty value removes the attribute, except with `create` or `replace`, as NFS and SMB differ there."""
    subject = core.subject(request.target)
    require(subject.rights, Access.WRITE_EA)
    inode, record = core.file_of(subject.inode, subject.record)
    bucket = keys.bucket(keys.EXTENDED, inode)
    core.note(bucket)
    size = record.ea_size
    batch = Batch()
    pending: dict[bytes, bytes | None] = {}
    for name, value in request.attributes:
        _check(name, value)
        key = keys.extended(inode, name)
        old = pending[name] if name in pending else core.get(key)
        if old is not None and request.create:
            raise Exists(f"there is an attribute {name!r} already")
        if old is None and request.replace:
            raise NoData(f"there is no attribute {name!r}")
        if old is not None:
            size -= _HEAD + len(name) + len(old)
        if value or request.create or request.replace:
            size += _HEAD + len(name) + len(value)
            batch.put(key, value)
            pending[name] = value
        else:
            batch.delete(key)
            pending[name] = None
    if size > MAX_TOTAL:
        raise NoSpace(f"extended attributes of {size} bytes; {MAX_TOTAL} is the most of one file")
    core.put_record(batch, inode, record.stamped(core.clock.now(), ea_size=size))
    reply = core.commit(batch, Reply(core.gate), token)
    core.altered(inode, Changed.EA)
    return reply


def _check(name: bytes, value: bytes) -> None:
    if not name or b"\0" in name:
        raise InvalidName(f"{name!r} cannot be an attribute's name")
    if len(name) > MAX_NAME:
        raise NameTooLong(f"an attribute's name of {len(name)} bytes")
    if len(value) > MAX_VALUE:
        raise NoSpace(f"an attribute of {len(value)} bytes; {MAX_VALUE} is the most")


def put_new(batch: Batch, inode: Inode, record: InodeRecord, attributes: tuple[tuple[bytes, bytes], ...]) -> InodeRecord:
    """Adds the attributes of a new file to the batch, and gives its record with their size."""
    size = 0
    for name, value in dict(attributes).items():
        _check(name, value)
        if value:
            batch.put(keys.extended(inode, name), value)
            size += _HEAD + len(name) + len(value)
    if size > MAX_TOTAL:
        raise NoSpace(f"extended attributes of {size} bytes; {MAX_TOTAL} is the most of one file")
    return record._replace(ea_size=size)


def clear(core: Core, batch: Batch, inode: Inode, record: InodeRecord) -> InodeRecord:
    """Adds the removal of all attributes to the batch; gives the record without them."""
    for key, _ in core.keys.scan(keys.bucket(keys.EXTENDED, inode)) if record.ea_size else ():
        batch.delete(key)
    return record._replace(ea_size=0)
