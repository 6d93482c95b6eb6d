"""Requests about security descriptors: GetSecurity and SetSecurity.

Owner and group are the record's uid and gid wherever those can say it; a SID that stands for no number is kept in the stored descriptor. All else is
kept as it was given.
"""

from sofs.errors import NotPermitted
from sofs.types import Inode, Kind
from sofs.volume import keys, security
from sofs.volume.access import SETGID, SETUID, is_superuser, require
from sofs.volume.api import Access, AnyToken, Caller, Changed, GetSecurity, Reply, SetSecurity, Text
from sofs.volume.attributes import change_owner
from sofs.volume.batch import Batch
from sofs.volume.core import Core
from sofs.volume.inode import HAS_DESCRIPTOR, InodeRecord
from sofs.volume.security import DACL_PART, GROUP_PART, LABEL_PART, OWNER_PART, SACL_PART, Descriptor


def get_security(core: Core, request: GetSecurity, token: AnyToken | None) -> Text:
    subject = core.subject(request.target)
    inode, record = core.file_of(subject.inode, subject.record)
    wanted = int(Access.READ_CONTROL) if request.parts & ~SACL_PART else 0
    require(subject.rights, wanted | (Access.SYSTEM_SECURITY if request.parts & SACL_PART else 0))
    whole = _whole(core, inode, record)
    parts, control = request.parts, whole.control
    if not parts & DACL_PART:
        control &= ~0x140C
    if not parts & (SACL_PART | LABEL_PART):
        control &= ~0x2830
    shown = Descriptor(
        control,
        whole.owner if parts & OWNER_PART else None,
        whole.group if parts & GROUP_PART else None,
        whole.dacl if parts & DACL_PART else None,
        whole.sacl if parts & (SACL_PART | LABEL_PART) else None,
    )
    return Text(core.gate, security.encode(shown), record.attributes(inode))


def _whole(core: Core, inode: Inode, record: InodeRecord) -> Descriptor:
    """The file's descriptor with owner and group, stored or derived."""
    stored = core.descriptor(inode, record)
    owner, group = core.sids(record.uid, record.gid)
    if stored is None:
        return security.derive(record.mode, record.kind == Kind.DIRECTORY, owner, group)
    return stored._replace(owner=stored.owner or owner, group=stored.group or group)


def set_security(core: Core, request: SetSecurity, token: AnyToken | None) -> Reply:
    subject = core.subject(request.target)
    inode, record = core.file_of(subject.inode, subject.record)
    parts, given = request.parts, security.decode(request.descriptor)
    wanted = 0
    for part, right in (
        (OWNER_PART | GROUP_PART | LABEL_PART, Access.WRITE_OWNER),
        (DACL_PART, Access.WRITE_DAC),
        (SACL_PART, Access.SYSTEM_SECURITY),
    ):
        if parts & part:
            wanted |= right
    require(subject.rights, wanted)
    now = core.clock.now()
    batch = Batch()
    old = core.descriptor(inode, record)
    after, descriptor = with_security(core, subject.caller, record, old, given, parts)
    if descriptor is not None:
        batch.put(keys.descriptor(inode), security.encode(descriptor))
    change_owner(core, batch, inode, record, after)
    core.put_record(batch, inode, after.stamped(now))
    reply = core.commit(batch, Reply(core.gate), token)
    core.altered(inode, Changed.SECURITY)
    return reply


def with_security(
    core: Core, caller: Caller, record: InodeRecord, old: Descriptor | None, given: Descriptor, parts: int
) -> tuple[InodeRecord, Descriptor | None]:
    """The record, and the descriptor to be stored with it (None: none), after the given parts are set.

    Raises `NotPermitted` for an owner that the caller cannot make one (MS-FSA 2.1.5.16: he himself, or with restore intent anyone).
    """
    known = core.judge.identities
    before = record.uid, record.gid
    kept = security.merge(old or Descriptor(security.DACL_PRESENT, None, None, None, None), given, parts)
    if parts & OWNER_PART and given.owner is not None:
        uid = known.uid_of_sid(security.sid_text(given.owner))
        if not is_superuser(caller) and uid != record.uid and given.owner not in core.judge.sids(caller):
            raise NotPermitted("a file can only be taken, not given away")
        if uid is None and given.owner in core.judge.sids(caller):
            uid = caller.uid
        if uid is not None:
            record, kept = record._replace(uid=uid), kept._replace(owner=None)
    if parts & GROUP_PART and given.group is not None:
        gid = known.gid_of_sid(security.sid_text(given.group))
        if gid is not None:
            record, kept = record._replace(gid=gid), kept._replace(group=None)
    if (record.uid, record.gid) != before and record.kind == Kind.FILE and not is_superuser(caller):
        record = record._replace(mode=record.mode & ~(SETUID | SETGID))  # as with chown: it must not run as its new owner or group
    owner, group = core.sids(record.uid, record.gid)
    if old is None and not parts & DACL_PART:
        if kept.owner is None and kept.group is None and kept.sacl is None:
            return record, None  # mode and owners still say it all
        derived = security.derive(record.mode, record.kind == Kind.DIRECTORY, owner, group)
        kept = kept._replace(dacl=derived.dacl)
    mode = record.mode & ~0o777 | security.mode_of(kept.dacl, kept.owner or owner, kept.group or group)
    return record._replace(mode=mode, marks=record.marks | HAS_DESCRIPTOR), kept
