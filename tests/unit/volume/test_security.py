"""Security descriptors: bytes, rights, modes, inheritance; and over a whole volume."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofs.errors import AccessDenied, InvalidArgument, NotPermitted
from sofs.types import ROOT, Inode, Kind
from sofs.volume.api import Access, Caller, CheckAccess, Disposition, GetSecurity, SetSecurity, Stateless
from sofs.volume.security import (
    ALLOW,
    CONTAINER_INHERIT,
    CREATOR_OWNER,
    DACL_AUTO_INHERIT_REQ,
    DACL_AUTO_INHERITED,
    DACL_PART,
    DACL_PRESENT,
    DACL_PROTECTED,
    DENY,
    EVERYONE,
    GROUP_PART,
    INHERIT_ONLY,
    INHERITED,
    NO_PROPAGATE,
    OBJECT_INHERIT,
    OWNER_PART,
    SACL_PART,
    SACL_PRESENT,
    Ace,
    Descriptor,
    chmod,
    decode,
    derive,
    encode,
    generic,
    granted,
    inherit,
    merge,
    mode_of,
    sid_bytes,
    sid_text,
)
from tests.unit.volume.volume_rig import ALICE, BOB, SUPER, VolumeRig, run

OWNER, GROUP = sid_bytes("S-1-22-1-1000"), sid_bytes("S-1-22-2-1000")
OTHER = sid_bytes("S-1-5-21-1-2-3-1104")
READ, WRITE = int(Access.READ_DATA), int(Access.WRITE_DATA)
ALL = int(Access.ALL)

# Owner, group and a DACL of two entries, as Windows lays them out: [MS-DTYP] 2.4.6.
GOLDEN = bytes.fromhex(
    "0100048414000000240000000000000034000000"
    "010200000000001601000000e8030000"
    "010200000000001602000000e8030000"
    "0200380002000000"
    "0100140000000100010100000000000100000000"
    "00131c00ff011f000103000000000005150000000100000002000000"
)  # fmt: skip


def everything() -> Descriptor:
    audit = Ace(2, 0x40, ALL, b"", EVERYONE)
    aces = (Ace(DENY, 0, 0x10000, EVERYONE), Ace(ALLOW, 3 | INHERITED, ALL, OTHER, b"tail"))
    return Descriptor(DACL_PRESENT | SACL_PRESENT | DACL_PROTECTED, OWNER, GROUP, aces, (audit,))


def test_the_golden_descriptor_decodes_and_encodes() -> None:
    descriptor = decode(GOLDEN)
    assert sid_text(descriptor.owner or b"") == "S-1-22-1-1000" and sid_text(descriptor.group or b"") == "S-1-22-2-1000"
    assert descriptor.dacl == (Ace(DENY, 0, 0x10000, EVERYONE), Ace(ALLOW, 0x13, ALL, sid_bytes("S-1-5-21-1-2")))
    assert encode(descriptor) == GOLDEN


def test_a_descriptor_comes_back_as_it_went_with_its_order() -> None:
    assert decode(encode(everything())) == everything()


def test_every_prefix_is_refused() -> None:
    data = encode(everything())
    for length in range(len(data)):
        with pytest.raises(InvalidArgument):
            decode(data[:length])


@given(st.data())
def test_no_bytes_do_worse_than_be_refused(data: st.DataObject) -> None:
    raw = bytearray(encode(everything()))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(raw))
    except InvalidArgument:
        return
    assert decode(encode(decoded)) == decoded


@pytest.mark.parametrize("text", ["", "S", "S-1", "S-2-5", "S-1-5-x", "S-1-5--1", "S-1-5-4294967296", "S-1-5" + "-1" * 16, "X-1-5"])
def test_what_is_no_sid(text: str) -> None:
    with pytest.raises(InvalidArgument):
        sid_bytes(text)


def test_the_first_entry_that_speaks_of_a_right_decides() -> None:
    me = frozenset({OWNER, EVERYONE})
    assert granted((Ace(ALLOW, 0, READ, EVERYONE), Ace(DENY, 0, READ | WRITE, OWNER)), me) == READ
    assert granted((Ace(DENY, 0, READ, OWNER), Ace(ALLOW, 0, READ | WRITE, EVERYONE)), me) == WRITE
    assert granted((Ace(ALLOW, INHERIT_ONLY, READ, EVERYONE), Ace(ALLOW, 0, WRITE, OTHER)), me) == 0
    assert granted((), me) == 0
    assert granted(None, me) == ALL


@pytest.mark.parametrize("directory", [False, True])
def test_a_derived_descriptor_says_what_the_mode_says(directory: bool) -> None:
    for mode in range(0o1000):
        dacl = derive(mode, directory, OWNER, GROUP).dacl
        shown = mode_of(dacl, OWNER, GROUP)
        if directory:
            assert shown == mode
        else:  # Windows may execute what it may read
            assert shown | 0o111 == mode | 0o111 and shown & ~mode & 0o111 == (mode & 0o444) >> 2 & ~mode


def test_generic_rights_become_those_of_files() -> None:
    assert generic(0x80000000) == 0x120089
    assert generic(0x10000000) == ALL
    assert generic(0x40000001) == 0x120116 | 1


def test_chmod_replaces_what_is_in_effect_and_keeps_what_is_inherited() -> None:
    plain = Descriptor(DACL_PRESENT, None, None, (Ace(ALLOW, 0, ALL, OTHER),), None)
    assert chmod(plain, 0o640, False, OWNER, GROUP) is None
    inheritable = plain._replace(dacl=(Ace(ALLOW, OBJECT_INHERIT | CONTAINER_INHERIT | INHERITED, ALL, OTHER),))
    changed = chmod(inheritable, 0o750, True, OWNER, GROUP)
    assert changed is not None and changed.dacl is not None
    assert mode_of(changed.dacl, OWNER, GROUP) == 0o750
    assert changed.dacl[-1] == Ace(ALLOW, OBJECT_INHERIT | CONTAINER_INHERIT | INHERIT_ONLY, ALL, OTHER)
    assert granted(changed.dacl, frozenset({OTHER})) == 0


INHERITANCE = [
    # flags of the directory's entry, for a directory?, flags of what is inherited
    (0, False, []),
    (0, True, []),
    (OBJECT_INHERIT, False, [INHERITED]),
    (OBJECT_INHERIT, True, [OBJECT_INHERIT | INHERIT_ONLY | INHERITED]),
    (OBJECT_INHERIT | NO_PROPAGATE, True, []),
    (CONTAINER_INHERIT, False, []),
    (CONTAINER_INHERIT, True, [CONTAINER_INHERIT | INHERITED]),
    (CONTAINER_INHERIT | NO_PROPAGATE, True, [INHERITED]),
    (OBJECT_INHERIT | CONTAINER_INHERIT | INHERIT_ONLY, True, [OBJECT_INHERIT | CONTAINER_INHERIT | INHERITED]),
    (OBJECT_INHERIT | CONTAINER_INHERIT | INHERIT_ONLY, False, [INHERITED]),
]


@pytest.mark.parametrize(("flags", "directory", "expected"), INHERITANCE)
def test_inheritance_goes_by_the_table(flags: int, directory: bool, expected: list[int]) -> None:
    for automatic in (0, DACL_AUTO_INHERITED):
        parent = Descriptor(DACL_PRESENT | automatic, None, None, (Ace(ALLOW, flags, READ, OTHER),), None)
        child = inherit(parent, directory, OWNER, GROUP)
        if child is None:
            assert expected == []
            continue
        # Only automatic inheritance leaves its mark.
        assert child.control & DACL_AUTO_INHERITED == automatic
        assert [ace.flags for ace in child.dacl or ()] == [flag & ~(0 if automatic else INHERITED) for flag in expected]


def test_automatic_inheritance_is_kept_only_where_it_was_asked_for() -> None:
    old = Descriptor(DACL_PRESENT, None, None, (), None)
    for asked, kept in ((DACL_AUTO_INHERITED, 0), (DACL_AUTO_INHERITED | DACL_AUTO_INHERIT_REQ, DACL_AUTO_INHERITED)):
        new = Descriptor(DACL_PRESENT | asked, None, None, (), None)
        assert merge(old, new, DACL_PART).control == DACL_PRESENT | kept


def test_creator_owner_becomes_the_owner_and_is_passed_on() -> None:
    control = DACL_PRESENT | DACL_AUTO_INHERITED
    parent = Descriptor(control, None, None, (Ace(ALLOW, 0xB, 0x10000000, CREATOR_OWNER),), None)
    child = inherit(parent, True, OWNER, GROUP)
    assert child is not None
    assert child.dacl == (Ace(ALLOW, INHERITED, ALL, OWNER), Ace(ALLOW, 0xB | INHERITED, 0x10000000, CREATOR_OWNER))


# Over a volume


def set_dacl(rig: VolumeRig, inode: Inode, *aces: Ace, caller: Caller = SUPER) -> None:
    data = encode(Descriptor(DACL_PRESENT, None, None, aces, None))
    rig.call(SetSecurity(Stateless(inode, caller), DACL_PART, data))


def get(rig: VolumeRig, inode: Inode, parts: int = 7) -> Descriptor:
    return decode(rig.call(GetSecurity(Stateless(inode, SUPER), parts)).text)


def test_a_file_without_descriptor_shows_a_derived_one() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", mode=0o640, caller=ALICE)
        shown = get(rig, file)
        assert (shown.owner, shown.group) == (OWNER, GROUP)
        assert shown == derive(0o640, False, OWNER, GROUP)._replace(control=shown.control)
        assert get(rig, file, OWNER_PART) == Descriptor(0, OWNER, None, None, None)
        with pytest.raises(AccessDenied):
            rig.call(GetSecurity(Stateless(file, ALICE), SACL_PART))

    run(scenario)


def test_with_a_descriptor_it_decides_and_the_mode_follows() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", mode=0o600, caller=ALICE)
        bob = sid_bytes("S-1-22-1-1001")
        set_dacl(rig, file, Ace(DENY, 0, WRITE, bob), Ace(ALLOW, 0, READ | WRITE | 4, EVERYONE), caller=ALICE)
        assert rig.call(CheckAccess(BOB, file, READ | WRITE)).granted == READ
        assert rig.call(CheckAccess(ALICE, file, READ | WRITE)).granted == READ | WRITE
        assert rig.stat(file).mode == 0o666
        opened = rig.open_name(b"x", access=READ, caller=BOB)
        with pytest.raises(AccessDenied):
            rig.open_name(b"x", access=WRITE, caller=BOB)
        assert opened.maximal & READ and not opened.maximal & WRITE
        with pytest.raises(AccessDenied):
            set_dacl(rig, file, caller=BOB)
        set_dacl(rig, file, caller=ALICE)  # nobody may anything, but the owner may repair it
        with pytest.raises(AccessDenied):
            rig.open_name(b"x", access=READ, caller=ALICE)
        set_dacl(rig, file, Ace(ALLOW, 0, ALL, OWNER), caller=ALICE)
        rig.set_attributes(file, ALICE, mode=0o604)
        assert rig.call(CheckAccess(BOB, file, READ | WRITE)).granted == READ
        assert get(rig, file).dacl == derive(0o604, False, OWNER, GROUP).dacl

    run(scenario)


def test_callers_are_known_by_the_sids_they_bring() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", mode=0o600)
        set_dacl(rig, file, Ace(ALLOW, 0, READ, OTHER))
        domain = Caller(1500, 1500, (), ("S-1-5-21-1-2-3-1104",))
        assert rig.call(CheckAccess(domain, file, READ | WRITE)).granted == READ
        assert rig.call(CheckAccess(BOB, file, READ | WRITE)).granted == 0

    run(scenario)


def test_what_is_made_in_a_directory_inherits() -> None:
    async def scenario(rig: VolumeRig) -> None:
        directory = rig.mkdir(b"d", mode=0o777)
        set_dacl(rig, directory, Ace(ALLOW, 3, ALL, EVERYONE), Ace(ALLOW, 3 | INHERIT_ONLY, READ, OTHER))
        opened = rig.open_name(b"x", at=directory, caller=ALICE)
        file = opened.attributes.inode
        assert get(rig, file).dacl == (Ace(ALLOW, 0, ALL, EVERYONE), Ace(ALLOW, 0, READ, OTHER))
        assert opened.attributes.mode == 0o777
        inner = rig.mkdir(b"inner", at=directory, caller=ALICE, mode=0o700)
        aces = get(rig, inner).dacl or ()
        assert [ace for ace in aces if ace.flags & INHERIT_ONLY] == [
            Ace(ALLOW, 3 | INHERIT_ONLY, ALL, EVERYONE),
            Ace(ALLOW, 3 | INHERIT_ONLY, READ, OTHER),
        ]
        assert rig.call(CheckAccess(BOB, inner, READ)).granted == 0

    run(scenario)


def test_a_share_has_a_mode_for_where_nothing_is_inherited() -> None:
    async def scenario(rig: VolumeRig) -> None:
        assert rig.open_name(b"x", mode=0o600).attributes.mode == 0o600
        directory = rig.mkdir(b"d", mode=0o777)
        set_dacl(rig, directory, Ace(ALLOW, 3, READ, EVERYONE))
        opened = rig.open_name(b"x", at=directory, mode=0o600)
        assert get(rig, opened.attributes.inode).dacl == (Ace(ALLOW, 0, READ, EVERYONE),)

    run(scenario)


def test_smb_passes_directories_with_a_descriptor_and_nfs_does_not() -> None:
    async def scenario(rig: VolumeRig) -> None:
        directory = rig.mkdir(b"d", mode=0o700)
        rig.make_name(b"x", at=directory, mode=0o666)
        with pytest.raises(AccessDenied):
            rig.open_name(b"d", b"x", access=READ, caller=BOB)  # the mode decides, for everybody
        set_dacl(rig, directory, Ace(ALLOW, 0, WRITE, EVERYONE))
        rig.open_name(b"d", b"x", access=READ, caller=BOB)
        rig.open_name(b"d", b"new", access=READ, caller=BOB)
        with pytest.raises(AccessDenied):
            rig.lookup(b"d", b"x", caller=BOB)

    run(scenario)


def test_a_file_made_with_a_descriptor_has_that_one() -> None:
    async def scenario(rig: VolumeRig) -> None:
        security = encode(Descriptor(DACL_PRESENT, None, None, (Ace(ALLOW, 0, 0x80000000, OTHER),), None))
        opened = rig.open_name(b"x", security=security, caller=ALICE, disposition=Disposition.CREATE)
        assert opened.access == ALL
        assert get(rig, opened.attributes.inode).dacl == (Ace(ALLOW, 0, 0x120089, OTHER),)

    run(scenario)


def test_replacing_a_files_data_takes_the_right_to_write_it() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", caller=ALICE)
        set_dacl(rig, file, Ace(ALLOW, 0, READ, OWNER), caller=ALICE)
        for disposition in (Disposition.SUPERSEDE, Disposition.OVERWRITE, Disposition.OVERWRITE_IF):
            with pytest.raises(AccessDenied):
                rig.open_name(b"x", access=READ, disposition=disposition, caller=ALICE)
        rig.open_name(b"x", access=READ, caller=ALICE)

    run(scenario)


def test_owners_are_taken_not_given() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", mode=0o666, caller=ALICE)
        bob = encode(Descriptor(0, sid_bytes("S-1-22-1-1001"), None, None, None))
        with pytest.raises(NotPermitted):
            rig.call(SetSecurity(Stateless(file, ALICE), OWNER_PART, bob))
        with pytest.raises(AccessDenied):
            rig.call(SetSecurity(Stateless(file, BOB), OWNER_PART, bob))
        rig.call(SetSecurity(Stateless(file, SUPER), OWNER_PART, bob))
        assert rig.stat(file).uid == 1001 and get(rig, file, OWNER_PART).owner == sid_bytes("S-1-22-1-1001")
        foreign = encode(Descriptor(0, OTHER, OTHER, None, None))
        rig.call(SetSecurity(Stateless(file, SUPER), OWNER_PART | GROUP_PART, foreign))
        shown = get(rig, file)
        assert (shown.owner, shown.group) == (OTHER, OTHER)
        rig.set_attributes(file, SUPER, uid=1000)
        assert get(rig, file).owner == OWNER

    run(scenario)


def test_a_descriptor_goes_with_its_file() -> None:
    async def scenario(rig: VolumeRig) -> None:
        directory = rig.mkdir(b"d")
        set_dacl(rig, directory, Ace(ALLOW, 3, ALL, EVERYONE))
        rig.remove(b"d")
        assert rig.stat(ROOT).kind == Kind.DIRECTORY  # and `sofs check` finds nothing left behind

    run(scenario)


def test_an_anonymous_caller_is_no_authenticated_user() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", mode=0o600, caller=ALICE)
        set_dacl(rig, file, Ace(ALLOW, 0, READ, sid_bytes("S-1-5-11")), caller=ALICE)
        assert rig.call(CheckAccess(BOB, file, READ)).granted == READ
        anonymous = Caller(65534, 65534, (), ("S-1-5-7", "S-1-1-0", "S-1-5-2"))
        assert rig.call(CheckAccess(anonymous, file, READ)).granted == 0

    run(scenario)
