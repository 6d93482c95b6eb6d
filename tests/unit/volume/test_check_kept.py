"""`sofs check` finds what is wrong with the records of opens, ranges, grants, marks and slots."""

import msgspec
import pytest

from sofs.locks import Grant, GrantKind
from sofs.types import OpenId
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.kept_records import Doom, KeptLocks
from tests.unit.volume.state_rig import RW, RWH, StateRig, run

encode = msgspec.msgpack.encode

PLANTED = [
    ("no file", "is of inode 999, which does not exist"),
    ("not shared", "do not share it with each other"),
    ("range of nobody", "belongs to open 77, which does not exist"),
    ("range of another state", "which is not that open's"),
    ("locked twice", "is locked twice"),
    ("locks of nobody", "belongs to open 77"),
    ("second state", "is the second one of its owner"),
    ("grant of nobody", "belongs to no open"),
    ("grant without reading", "not given without reading"),
    ("two writers", "is cached by others beside one who caches writes"),
    ("delegation without a grant", "is a delegation without a grant"),
    ("mark without opens", "is to be deleted with its last open, and has none"),
    ("unreadable", "is no KeptOpen"),
    ("unreadable slot", "the slot token of 1 bytes"),
]


@pytest.mark.parametrize(("what", "expected"), PLANTED)
def test_a_planted_discrepancy_is_found(what: str, expected: str) -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs(delegate=RW)
        rig.lock(opened.open, 0, 10, owner=b"nfs owner")
        inode, space = opened.attributes.inode, rig.store.keyspace
        await rig.clean()
        key = keys.bucket(keys.OPEN, opened.open)
        value = space.get(key)
        assert value is not None
        row = msgspec.msgpack.decode(value)
        batch = Batch()
        if what == "no file":
            batch.put(key, encode([999, 999, *row[2:]]))
        elif what == "not shared":
            batch.put(keys.bucket(keys.OPEN, 77), encode([*row[:3], 0, *row[4:]]))
        elif what == "range of nobody":
            batch.put(keys.bucket(keys.RANGE, 77) + bytes(8) + bytes(8) + (5).to_bytes(9) + b"\1", b"\0\0\0\1")
        elif what == "range of another state":
            batch.put(keys.bucket(keys.RANGE, opened.open) + (77).to_bytes(8) + bytes(8) + (5).to_bytes(9) + b"\1", b"\0\0\0\1")
        elif what == "locked twice":
            batch.put(keys.bucket(keys.RANGE, opened.open) + bytes(8) + (9).to_bytes(8) + (12).to_bytes(9) + b"\1", b"\0\0\0\1")
        elif what == "locks of nobody":
            batch.put(keys.bucket(keys.LOCKS, 78), encode(KeptLocks(inode, b"x", OpenId(77), 1)))
        elif what == "second state":
            batch.put(keys.bucket(keys.LOCKS, 78), encode(KeptLocks(inode, b"nfs owner", opened.open, 1)))
        elif what == "grant of nobody":
            batch.put(keys.bucket(keys.GRANT, inode) + b"x", encode(Grant(b"x", GrantKind.LEASE, 0, 0, 0)))
        elif what == "grant without reading":
            batch.put(keys.bucket(keys.GRANT, inode) + b"nfs", encode(Grant(b"nfs", GrantKind.LEASE, 4, 4, 4)))
        elif what == "two writers":
            batch.put(keys.bucket(keys.GRANT, inode) + b"x", encode(Grant(b"x", GrantKind.LEASE, RWH, RWH, RWH)))
        elif what == "delegation without a grant":
            batch.delete(keys.bucket(keys.GRANT, inode) + b"nfs")
        elif what == "mark without opens":
            batch.put(keys.bucket(keys.PENDING, 999), encode(Doom(OpenId(1), inode, inode, b"f", b"")))
        elif what == "unreadable":
            batch.put(key, value[:-1])
        else:
            batch.put(keys.slot(bytes(16), 1), b"x")
        space.commit(batch)
        found = [str(finding) for finding in (await rig.check(read_data=False)).findings]
        assert any(expected in finding for finding in found), found
        await undo(rig, key, value)

    run(scenario)


async def undo(rig: StateRig, changed: bytes, value: bytes) -> None:
    """As it was, so that the volume can be closed in order."""
    batch = Batch()
    batch.put(changed, value)
    for tag, owner in ((keys.OPEN, 77), (keys.RANGE, 77), (keys.LOCKS, 78), (keys.PENDING, 999)):
        for key, _ in list(rig.store.keyspace.scan(keys.bucket(tag, owner))):
            batch.delete(key)
    for tag in (keys.GRANT, keys.RANGE, keys.SLOT):
        for key, _ in list(rig.store.keyspace.walk(tag)):
            batch.delete(key)
    rig.store.keyspace.commit(batch)
    kept = rig.volume.core.kept
    for inode, file in kept._files.items():
        file.grants, file.ranges, file.locks = {}, {}, {}
        file.touched.update(dict.fromkeys(file.opens))
        kept.mark(inode)
    kept.flush()
