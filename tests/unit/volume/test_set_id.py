"""Set-id bits: a program runs as another user or group only as long as nobody else has had a say in it."""

import pytest

from sofs.types import Inode
from sofs.volume.api import Access, Allocate, Caller, Changes, Clone, Copy, Punch, SetAttributes, SetSecurity, Stateless
from sofs.volume.security import DACL_PART, GROUP_PART, OWNER_PART, Descriptor, encode, sid_bytes
from tests.unit.volume.volume_rig import ALICE, BOB, SUPER, VolumeRig, run

PROGRAM = bytes(8192)


async def program(rig: VolumeRig, caller: Caller, mode: int) -> Inode:
    """A file of `caller` with this mode, which others may write."""
    file = rig.make_name(b"program", mode=0o777, caller=caller)
    await rig.put(Stateless(file, SUPER), 0, PROGRAM)
    rig.set_attributes(file, SUPER, mode=mode)
    return file


def test_a_file_made_in_anothers_group_does_not_run_as_that_group() -> None:
    async def scenario(rig: VolumeRig) -> None:
        team = rig.mkdir(b"team", mode=0o777)
        rig.set_attributes(team, SUPER, gid=2000)
        rig.set_attributes(team, SUPER, mode=0o2777)
        file = rig.make_name(b"f", at=team, mode=0o6755, caller=ALICE)
        assert (rig.stat(file).gid, rig.stat(file).mode) == (2000, 0o4755)
        member = Caller(1005, 1005, (2000,))
        file = rig.make_name(b"g", at=team, mode=0o2755, caller=member)
        assert (rig.stat(file).gid, rig.stat(file).mode) == (2000, 0o2755)

    run(scenario)


@pytest.mark.parametrize("part", [OWNER_PART, GROUP_PART])
def test_an_owner_who_gives_a_file_another_owner_or_group_takes_the_bits_away(part: int) -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = await program(rig, ALICE, 0o6777)
        caller = BOB if part == OWNER_PART else ALICE
        everyone = encode(Descriptor(0x8004, None, None, None, None))
        rig.call(SetSecurity(Stateless(file, SUPER), DACL_PART, everyone))
        rig.set_attributes(file, SUPER, mode=0o6777)
        before = rig.stat(file)
        assert before.mode & 0o6000 == 0o6000
        rig.call(SetSecurity(Stateless(file, SUPER), DACL_PART, everyone))
        owner, group = sid_bytes("S-1-22-1-1001"), sid_bytes("S-1-22-2-0")
        given = encode(Descriptor(0, owner if part == OWNER_PART else None, group if part == GROUP_PART else None, None, None))
        rig.call(SetSecurity(Stateless(file, caller), part, given))
        found = rig.stat(file)
        assert (found.uid, found.gid) == ((1001, before.gid) if part == OWNER_PART else (before.uid, 0))
        assert not found.mode & 0o6000

    run(scenario)


@pytest.mark.parametrize("what", ["write", "truncate", "extend", "punch", "allocate", "clone", "copy"])
def test_whoever_changes_a_program_takes_the_bits_away(what: str) -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = await program(rig, SUPER, 0o6777)
        mine = rig.make_name(b"mine", caller=BOB)
        await rig.put(Stateless(mine, BOB), 0, PROGRAM)
        target, source = Stateless(file, BOB), Stateless(mine, BOB)
        if what == "write":
            await rig.put(target, 0, b"x")
        else:
            await rig.later(
                {
                    "truncate": SetAttributes(target, Changes(size=1)),
                    "extend": SetAttributes(target, Changes(size=100_000)),
                    "punch": Punch(target, 0, 4096),
                    "allocate": Allocate(target, 0, 16384),
                    "clone": Clone(source, 0, target, 0, 4096),
                    "copy": Copy(source, 0, target, 0, 4096),
                }[what]
            )
        assert rig.stat(file).mode == 0o777

    run(scenario)


def test_whoever_has_a_program_open_already_takes_the_bits_away_too() -> None:
    """Its owner looked at it, set the bits, and only then it was written through an open of before."""

    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"program", mode=0o777, caller=SUPER)
        opened = rig.open_name(b"program", access=int(Access.WRITE_DATA), caller=BOB)
        own = rig.open_name(b"program", access=int(Access.WRITE_DATA), caller=SUPER)
        for _ in range(2):
            rig.set_attributes(file, SUPER, mode=0o4755)
            await rig.put(own.open, 0, b"mine")
            assert rig.stat(file).mode == 0o4755
            await rig.put(opened.open, 0, b"another's")
            assert rig.stat(file).mode == 0o755

    run(scenario)
