"""NFSv4's attributes, owners and ACLs, read back by the tests' own XDR."""

from __future__ import annotations

import struct

import pytest

from gateways.identity import Identities, User, domain_sid
from gateways.nfs.v4 import settable
from gateways.nfs.v4.acls import acl_of, bound, dacl_of, read_acl
from gateways.nfs.v4.attributes import EVERY, SETTABLE, WRITE_ONLY, Attr, Facts, encoder, mask_of, smallest, supported, words_of
from gateways.nfs.v4.owners import Owners
from gateways.nfs.v4.settable import NewAttributes
from gateways.nfs.v4.status import Failure, Status
from sofs.types import UNIX_EPOCH, Inode, Kind, Time
from sofs.volume import security
from sofs.volume.api import ARCHIVE, HIDDEN, READONLY, Attributes, SpaceReply
from sofs.volume.security import ALLOW, CREATOR_OWNER, DENY, OWNER_RIGHTS, Ace, Descriptor, sid_bytes
from tests.protocol import nfs4_xdr as xdr

OWNERS = Owners(Identities(domain_sid(b"tests of sofs"), [User("alice", 1000, 1000)]))
SECOND = 10_000_000


def a_file(**changes: object) -> Attributes:
    values: dict[str, object] = {
        "inode": Inode(77), "generation": 3, "kind": Kind.FILE, "mode": 0o4755, "links": 2, "uid": 1000, "gid": 100, "size": 1 << 40,
        "allocated": 8192, "created": Time(UNIX_EPOCH + SECOND), "accessed": Time(UNIX_EPOCH + 2 * SECOND + 5),
        "modified": Time(UNIX_EPOCH - SECOND - 1), "changed": Time(UNIX_EPOCH + 4 * SECOND), "change": 99, "flags": HIDDEN | READONLY,
        "device": (8, 1), "parent": Inode(1),
    }  # fmt: skip
    return Attributes(**(values | changes))  # type: ignore[arg-type]


def facts(minor: int = 2) -> Facts:
    made = Facts(minor, OWNERS, 90, 0x5105, lambda of: b"h" * 48, Inode(77), 5)
    made.space = SpaceReply(0, 1 << 30, 1 << 20, 12, 1 << 20)  # type: ignore[arg-type]
    sids = sid_bytes("S-1-22-1-55"), sid_bytes("S-1-22-2-66")
    made.security = security.encode(security.derive(0o750, False, *sids))
    return made


def read(encoded: bytes) -> dict[str, object]:
    reader = xdr.Reader(encoded)
    found = xdr.fattr(reader)
    reader.end()
    return found


def test_every_attribute_is_encoded_as_the_specification_has_it() -> None:
    readable = EVERY & ~WRITE_ONLY
    found = read(encoder(readable)(a_file(), facts()))
    assert set(found) == {name for name, (number, _) in xdr.ATTRIBUTES.items() if readable >> number & 1}
    assert found["type"] == 1 and found["change"] == 99 and found["size"] == 1 << 40
    assert found["fsid"] == (0x5105, 0) and found["filehandle"] == b"h" * 48 and found["lease_time"] == 90
    assert (found["owner"], found["owner_group"], found["mode"], found["numlinks"]) == (b"1000", b"100", 0o4755, 2)
    assert (found["hidden"], found["archive"], found["system"]) == (True, False, False)
    assert found["time_access"] == (2, 500) and found["time_modify"] == (-2, 999_999_900) and found["time_create"] == (1, 0)
    assert (found["fileid"], found["mounted_on_fileid"]) == (77, 5)
    assert (found["space_total"], found["space_avail"], found["files_total"]) == (1 << 30, 1 << 20, 12 + (1 << 8))
    assert found["rawdev"] == (8, 1) and found["space_used"] == 8192
    assert found["suppattr_exclcreat"] == {number for number in range(128) if SETTABLE >> number & 1}


@pytest.mark.parametrize("attribute", list(Attr))
def test_each_attribute_is_encoded_by_itself(attribute: Attr) -> None:
    if not WRITE_ONLY >> attribute & 1:
        found = read(encoder(1 << attribute)(a_file(), facts()))
        assert [xdr.ATTRIBUTES[name][0] for name in found] == [attribute]


def test_values_are_never_smaller_than_a_listing_counts_on() -> None:
    for attribute in Attr:
        if not WRITE_ONLY >> attribute & 1:
            encoded = encoder(1 << attribute)(a_file(uid=0, gid=0), facts(1))
            assert len(encoded) - len(words_of(1 << attribute)) - 4 >= smallest(1 << attribute), attribute


def test_required_attributes_are_all_supported() -> None:
    """RFC 8881 table 4, and those of RFC 7862 and RFC 8276 that are served."""
    for minor in (1, 2):
        required = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 19, 75}
        assert all(supported(minor) >> number & 1 for number in required)
    assert supported(1).bit_length() <= 77, "minor version 1 has no numbers beyond fs_charset_cap"
    assert supported(2) >> 82 & 1 and not supported(2) >> 80 & 1 and not supported(2) >> 24 & 1
    assert read(encoder(1)(a_file(), facts(1)))["supported_attrs"] == {n for n in range(77) if supported(1) >> n & 1}


def test_masks_and_bitmaps_are_the_same_thing() -> None:
    for mask in (0, 1, 1 << 31, 1 << 32, 1 << 82 | 1):
        reader = xdr.Reader(words_of(mask))
        words = reader.array(xdr.Reader.u32)
        assert mask_of(tuple(words)) == mask
        assert not words or words[-1], "no words of zeros at the end"


# Setting


def given(raw: bytes) -> NewAttributes:
    reader = xdr.Reader(raw)
    words = tuple(reader.array(xdr.Reader.u32))
    return NewAttributes(words, reader.opaque())


def new(**values: object) -> settable.New:
    return settable.read(given(xdr.new_fattr(**values)), 2, OWNERS)


def refused(attributes: NewAttributes) -> Status:
    with pytest.raises(Failure) as failure:
        settable.read(attributes, 2, OWNERS)
    return failure.value.status


def test_what_a_client_sets_is_understood() -> None:
    got = new(size=5, mode=0o640, owner=b"1000", owner_group=b"55", time_access_set=None, time_modify_set=(2000, 300), time_create=(7, 0))
    changes = got.whole(None)
    assert (changes.size, changes.mode, changes.uid, changes.gid) == (5, 0o640, 1000, 55)
    assert (changes.accessed, changes.modified, changes.created) == (-1, UNIX_EPOCH + 2000 * SECOND + 3, UNIX_EPOCH + 7 * SECOND)
    assert got.mask == sum(1 << number for number in (4, 33, 36, 37, 48, 50, 54)) and not got.relative


def test_flags_and_masked_modes_keep_what_they_do_not_speak_of() -> None:
    got = new(hidden=False, archive=True, mode_set_masked=(0o070, 0o077))
    assert got.relative
    changes = got.whole(a_file(flags=HIDDEN | READONLY, mode=0o4707))
    assert (changes.flags, changes.mode) == (ARCHIVE | READONLY, 0o4770)


def test_owners_are_numbers_or_known_names() -> None:
    assert new(owner=b"alice@anywhere").changes.uid == 1000
    assert new(owner=b"nobody@anywhere").changes.uid == 65534
    for who in (b"bob@anywhere", b"alice", b"", b"-1", b"4294967296", b"01"):
        assert refused(given(xdr.new_fattr(owner=who))) is Status.BADOWNER
    assert refused(given(xdr.new_fattr(owner=b"\xff@x"))) is Status.INVAL


def test_what_cannot_be_set_is_refused() -> None:
    assert refused(NewAttributes((1 << Attr.FILEID,), bytes(8))) is Status.INVAL
    assert refused(NewAttributes((1 << 24,), b"")) is Status.ATTRNOTSUPP
    assert refused(NewAttributes((0, 0, 0, 1), b"")) is Status.ATTRNOTSUPP
    assert refused(given(xdr.new_fattr(mode=0o10000))) is Status.INVAL
    assert refused(given(xdr.new_fattr(time_modify_set=(1, 1_000_000_000)))) is Status.INVAL
    assert refused(given(xdr.new_fattr(mode=1, mode_set_masked=(1, 1)))) is Status.INVAL
    whole = given(xdr.new_fattr(size=1, owner=b"1000", time_modify_set=(1, 1)))
    for length in range(len(whole.values)):
        assert refused(whole._replace(values=whole.values[:length])) is Status.BADXDR
    assert refused(whole._replace(values=whole.values + bytes(4))) is Status.BADXDR
    hidden = given(xdr.new_fattr(hidden=True))
    assert refused(hidden._replace(values=struct.pack(">I", 2))) is Status.BADXDR


# ACLs

OWNER, GROUP = sid_bytes("S-1-22-1-55"), sid_bytes("S-1-22-2-66")


def shown(descriptor: Descriptor) -> list[xdr.Ace]:
    reader = xdr.Reader(acl_of(security.encode(descriptor), OWNERS))
    aces: list[xdr.Ace] = reader.array(xdr.ace)
    reader.end()
    return aces


def kept(*aces: xdr.Ace) -> tuple[Ace, ...]:
    data = given(xdr.new_fattr(acl=list(aces))).values
    read, end = read_acl(memoryview(data), 0, OWNERS)
    assert end == len(data)
    dacl = security.decode(bound(read, GROUP)).dacl
    assert dacl is not None
    return dacl


def test_a_mode_is_shown_as_an_acl_of_owner_group_and_everyone() -> None:
    aces = shown(security.derive(0o750, False, OWNER, GROUP))
    assert {(ace.type, ace.who) for ace in aces} >= {(0, b"OWNER@"), (0, b"GROUP@"), (0, b"EVERYONE@")}
    assert all(ace.flags == (0x40 if ace.who == b"GROUP@" else 0) for ace in aces)


def test_an_acl_means_the_same_after_it_was_kept_as_a_descriptor() -> None:
    wanted = [
        xdr.Ace(0, 0, 0x1601BF, b"OWNER@"),
        xdr.Ace(1, 0x40, 0x2, b"GROUP@"),
        xdr.Ace(0, 0x3, 0x1200A9, b"1000"),
        xdr.Ace(0, 0x40, 0x1, b"100"),
        xdr.Ace(1, 0xB, 0x10000, b"EVERYONE@"),
        xdr.Ace(0, 0x80, 0x1, b"AUTHENTICATED@"),
        xdr.Ace(0, 0, 0x1, b"S-1-5-21-1-2-3-4"),
    ]
    stored = Descriptor(security.DACL_PRESENT, OWNER, GROUP, kept(*wanted), None)
    assert shown(stored) == wanted
    assert security.granted(stored.dacl, frozenset({OWNER, OWNER_RIGHTS})) & 0x1 == 0x1


def test_what_a_file_s_own_owner_inherits_is_creator_owner() -> None:
    here, inherited = kept(xdr.Ace(0, 0x3, 0x1601BF, b"OWNER@"))
    assert (here.sid, here.flags) == (OWNER_RIGHTS, 0)
    assert (inherited.sid, inherited.flags, inherited.mask) == (CREATOR_OWNER, 0xB, 0x1601BF)
    (only,) = kept(xdr.Ace(0, 0xB, 0x1, b"OWNER@"))
    assert (only.sid, only.flags) == (CREATOR_OWNER, 0xB)
    stored = Descriptor(security.DACL_PRESENT, OWNER, GROUP, (here, inherited), None)
    assert shown(stored) == [xdr.Ace(0, 0, 0x1601BF, b"OWNER@"), xdr.Ace(0, 0xB, 0x1601BF, b"OWNER@")]


def test_an_owner_keeps_the_right_to_repair_the_acl() -> None:
    (denied, allowed) = kept(xdr.Ace(1, 0, 0x40002, b"OWNER@"), xdr.Ace(0, 0, 0x1, b"OWNER@"))
    assert (denied.type, denied.mask) == (DENY, 0x2)
    assert allowed.type == ALLOW and allowed.mask & 0x60000 == 0x60000


def test_what_is_inherited_automatically_is_said_in_dacl() -> None:
    read_back = xdr.Reader(dacl_of(security.encode(Descriptor(0x1404, OWNER, GROUP, (), None)), OWNERS))
    assert read_back.u32() == 3
    got = settable.read(given(xdr.new_fattr(dacl=(3, [xdr.Ace(0, 0, 1, b"EVERYONE@")]))), 2, OWNERS)
    assert got.acl is not None and got.acl.control & 0x1500 == 0x1500


def test_acls_that_cannot_be_kept_are_refused() -> None:
    assert refused(given(xdr.new_fattr(acl=[xdr.Ace(2, 0x10, 1, b"EVERYONE@")]))) is Status.ATTRNOTSUPP
    assert refused(given(xdr.new_fattr(acl=[xdr.Ace(9, 0, 1, b"EVERYONE@")]))) is Status.INVAL
    assert refused(given(xdr.new_fattr(acl=[xdr.Ace(0, 0, 1, b"")]))) is Status.INVAL
    assert refused(given(xdr.new_fattr(acl=[xdr.Ace(0, 0, 1, b"bob@anywhere")]))) is Status.BADOWNER
    whole = given(xdr.new_fattr(acl=[xdr.Ace(0, 0, 1, b"EVERYONE@")]))
    for length in range(len(whole.values)):
        assert refused(whole._replace(values=whole.values[:length])) is Status.BADXDR
