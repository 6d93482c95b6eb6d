"""Names over a real volume: making, finding, listing, linking, renaming, removing."""

import pytest

from sofs.errors import (
    AccessDenied,
    Exists,
    InvalidArgument,
    InvalidName,
    IsDirectory,
    NameTooLong,
    NotDirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    PathNotFound,
    SharingViolation,
    Stale,
    SymlinkInPath,
)
from sofs.types import ROOT, Kind
from sofs.volume import keys
from sofs.volume.api import Changes, Disposition, GetSpace, Link, Lookup, Make, ReadLink, Remove, Rename, Stateless, Token
from tests.unit.volume.volume_rig import ALICE, BOB, SUPER, VolumeRig, run


def test_what_is_made_is_found_and_listed() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"a", mode=0o640)
        directory = rig.mkdir(b"d")
        inner = rig.make_name(b"inner", at=directory)
        assert rig.lookup(b"a").inode == file
        assert rig.lookup(b"d", b"inner").inode == inner
        assert rig.lookup(b"D", b"INNER", fold=True).inode == inner
        assert rig.names() == {b"a", b"d"}
        assert rig.stat(ROOT).links == 3 and rig.stat(ROOT).size == 2
        assert rig.stat(directory).parent == ROOT and rig.stat(inner).parent == directory
        found = rig.stat(file)
        assert (found.kind, found.mode, found.links, found.uid, found.size) == (Kind.FILE, 0o640, 1, 0, 0)
        with pytest.raises(NotFound):
            rig.lookup(b"A")
        with pytest.raises(PathNotFound):
            rig.lookup(b"nowhere", b"x")
        with pytest.raises(PathNotFound):
            rig.lookup(b"a", b"x")
        with pytest.raises(NotDirectory):
            rig.lookup(b"x", at=file)

    run(scenario)


def test_it_is_all_there_after_a_restart() -> None:
    async def scenario(rig: VolumeRig) -> None:
        directory = rig.mkdir(b"d")
        for number in range(300):
            rig.make_name(b"file %d" % number, at=directory)
        before = {(entry.cookie, entry.name, entry.inode) for entry in rig.entries(directory)}
        highest = rig.make_name(b"last")
        await rig.reopen()
        assert {(entry.cookie, entry.name, entry.inode) for entry in rig.entries(directory)} == before
        assert rig.make_name(b"after") > highest

    run(scenario)


def test_names_that_cannot_be_are_refused() -> None:
    async def scenario(rig: VolumeRig) -> None:
        for name in (b"", b".", b"..", b"a/b", b"a\0"):
            with pytest.raises(InvalidName):
                rig.make_name(name)
        with pytest.raises(NameTooLong):
            rig.make_name(b"x" * 256)
        rig.make_name(b"x" * 255)
        rig.make_name("ü".encode() * 255)
        rig.make_name(b"\xff\xfe not UTF-8")
        assert rig.lookup(b"\xff\xfe NOT utf-8", fold=True).kind == Kind.FILE

    run(scenario)


def test_names_that_differ_in_case_are_one_to_windows_and_two_to_nfs() -> None:
    async def scenario(rig: VolumeRig) -> None:
        lower, upper = rig.make_name(b"name"), rig.make_name(b"NAME")
        assert rig.lookup(b"name").inode == lower and rig.lookup(b"NAME").inode == upper
        assert rig.lookup(b"NAME", fold=True).inode == upper  # the exact one first
        assert rig.lookup(b"Name", fold=True).inode == lower  # else the oldest
        with pytest.raises(Exists):
            rig.open_name(b"nAmE", disposition=Disposition.CREATE)
        rig.remove(b"name")
        assert rig.lookup(b"Name", fold=True).inode == upper
        third = rig.make_name(b"namE")  # takes the vacant number
        assert rig.lookup(b"Name", fold=True).inode == third
        rig.remove(b"NAME")
        rig.remove(b"namE")
        assert rig.names() == set()

    run(scenario)


def test_a_listing_resumes_anywhere_while_entries_come_and_go() -> None:
    async def scenario(rig: VolumeRig) -> None:
        kept = {b"kept %d" % number for number in range(200)}
        for name in kept:
            rig.make_name(name)
        for number in range(200):
            rig.make_name(b"gone %d" % number)
        seen: list[bytes] = []
        cookie = number = 0
        while page := rig.entries(cookie=cookie, limit=7):
            seen += [entry.name for entry in page]
            cookie = page[-1].cookie
            for _ in range(7):
                if number < 200:
                    rig.remove(b"gone %d" % number)
                    rig.make_name(b"new %d" % number)
                    number += 1
        assert len(seen) == len(set(seen))
        assert kept <= set(seen)

    run(scenario)


def test_listings_give_attributes_and_say_when_they_end() -> None:
    async def scenario(rig: VolumeRig) -> None:
        made = {rig.make_name(b"%d" % number) for number in range(10)}
        listed = rig.entries(attributes=True)
        assert {entry.attributes.inode for entry in listed if entry.attributes} == made
        assert [entry.cookie for entry in listed] == sorted(entry.cookie for entry in listed)
        assert all(2 < entry.cookie < 1 << 63 for entry in listed)

    run(scenario)


def test_hard_links_count_and_the_last_name_takes_the_file_along() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"a")
        directory = rig.mkdir(b"d")
        await rig.put(Stateless(file, SUPER), 0, b"data")
        rig.call(Link(SUPER, file, directory, b"b"))
        assert rig.stat(file).links == 2
        with pytest.raises(Exists):
            rig.call(Link(SUPER, file, directory, b"b"))
        with pytest.raises(IsDirectory):
            rig.call(Link(SUPER, directory, ROOT, b"again"))
        rig.remove(b"a")
        assert rig.stat(file).links == 1
        assert await rig.content(Stateless(file, SUPER)) == b"data"
        rig.remove(b"b", at=directory)
        with pytest.raises(Stale):
            rig.stat(file)

    run(scenario)


def test_symbolic_links_are_handed_to_the_client() -> None:
    async def scenario(rig: VolumeRig) -> None:
        link = rig.make_name(b"link", Kind.SYMLINK, target=b"some/where")
        assert rig.call(ReadLink(SUPER, link)).text == b"some/where"
        assert rig.stat(link).size == 10
        with pytest.raises(SymlinkInPath) as caught:
            rig.lookup(b"link", b"\xc3\xbcber", b"x")
        assert (caught.value.target, caught.value.unparsed, caught.value.relative) == (b"some/where", 14, True)
        assert rig.lookup(b"link").kind == Kind.SYMLINK
        with pytest.raises(SymlinkInPath):
            rig.open_name(b"link")
        rig.open_name(b"link", follow=False)

    run(scenario)


def test_special_files_keep_their_numbers_and_devices_are_the_superusers() -> None:
    async def scenario(rig: VolumeRig) -> None:
        device = rig.make_name(b"null", Kind.CHARACTER_DEVICE, device=(1, 3))
        assert rig.stat(device).device == (1, 3)
        rig.make_name(b"pipe", Kind.FIFO, caller=ALICE)
        with pytest.raises(NotPermitted):
            rig.make_name(b"mine", Kind.BLOCK_DEVICE, caller=ALICE, device=(8, 0))

    run(scenario)


def test_an_exclusive_make_is_known_by_its_verifier() -> None:
    async def scenario(rig: VolumeRig) -> None:
        first = rig.make_name(b"x", exclusive=77)
        assert rig.make_name(b"x", exclusive=77) == first
        with pytest.raises(Exists):
            rig.make_name(b"x", exclusive=78)
        with pytest.raises(Exists):
            rig.make_name(b"x")

    run(scenario)


def test_an_unguarded_make_empties_the_file_that_is_there() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", mode=0o600)
        await rig.put(Stateless(file, SUPER), 0, b"data" * 1000)
        found = await rig.later(Make(SUPER, ROOT, b"x", Kind.FILE, Changes(mode=0o644, size=0), guarded=False))
        assert found.attributes.inode == file and found.attributes.size == 0 and found.attributes.mode == 0o600

    run(scenario)


def test_directories_go_only_when_empty_and_take_their_link_along() -> None:
    async def scenario(rig: VolumeRig) -> None:
        directory = rig.mkdir(b"d")
        rig.make_name(b"x", at=directory)
        with pytest.raises(NotEmpty):
            rig.remove(b"d", directory=True)
        with pytest.raises(IsDirectory):
            rig.remove(b"d", directory=False)
        with pytest.raises(NotDirectory):
            rig.remove(b"x", at=directory, directory=True)
        rig.remove(b"x", at=directory)
        rig.remove(b"d", directory=True)
        assert rig.stat(ROOT).links == 2
        with pytest.raises(Stale):
            rig.make_name(b"y", at=directory)

    run(scenario)


def test_a_rename_replaces_what_it_may() -> None:
    async def scenario(rig: VolumeRig) -> None:
        a, b = rig.make_name(b"a"), rig.make_name(b"b")
        with pytest.raises(Exists):
            rig.rename(b"a", b"b", replace=False)
        rig.rename(b"a", b"b")
        assert rig.names() == {b"b"} and rig.lookup(b"b").inode == a
        with pytest.raises(Stale):
            rig.stat(b)
        full, empty, other = rig.mkdir(b"full"), rig.mkdir(b"empty"), rig.mkdir(b"other")
        rig.make_name(b"x", at=full)
        with pytest.raises(NotEmpty):
            rig.rename(b"other", b"full")
        with pytest.raises(IsDirectory):
            rig.rename(b"b", b"empty")
        with pytest.raises(NotDirectory):
            rig.rename(b"other", b"b")
        rig.rename(b"other", b"empty")
        assert rig.lookup(b"empty").inode == other
        with pytest.raises(Stale):
            rig.stat(empty)
        assert rig.stat(ROOT).links == 4 and rig.stat(ROOT).size == 3

    run(scenario)


def test_a_directory_moves_with_its_link_and_never_below_itself() -> None:
    async def scenario(rig: VolumeRig) -> None:
        a = rig.mkdir(b"a")
        b = rig.mkdir(b"b", at=a)
        c = rig.mkdir(b"c", at=b)
        for to in (a, b, c):
            with pytest.raises(InvalidArgument):
                rig.rename(b"a", b"x", to=to)
        rig.rename(b"c", b"c", at=b, to=ROOT)
        assert (rig.stat(ROOT).links, rig.stat(b).links, rig.stat(c).parent) == (4, 2, ROOT)
        rig.rename(b"a", b"a", to=c)
        assert (rig.stat(ROOT).links, rig.stat(c).links) == (3, 3)

    run(scenario)


def test_a_rename_to_another_case_keeps_the_file_and_its_place() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"name")
        [before] = rig.entries()
        rig.rename(b"name", b"NAME")
        [after] = rig.entries()
        assert (after.name, after.inode, after.cookie) == (b"NAME", file, before.cookie)
        other = rig.make_name(b"name")
        rig.rename(b"NAME", b"name")  # both stand; the one replaces the other
        assert rig.lookup(b"name").inode == file and rig.names() == {b"name"}
        with pytest.raises(Stale):
            rig.stat(other)

    run(scenario)


def test_renaming_one_name_of_a_file_over_another_does_nothing() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"a")
        rig.call(Link(SUPER, file, ROOT, b"b"))
        rig.rename(b"a", b"b")
        assert rig.names() == {b"a", b"b"} and rig.stat(file).links == 2

    run(scenario)


def test_directories_say_how_they_were_before_and_are_after() -> None:
    async def scenario(rig: VolumeRig) -> None:
        before = rig.stat(ROOT)
        await rig.clock.sleep(1)
        found = rig.call(Make(SUPER, ROOT, b"x", Kind.FILE, Changes()))
        assert found.before == (0, before.modified, before.changed, before.change)
        assert found.directory == rig.stat(ROOT)
        assert found.directory.change == before.change + 1 and found.directory.modified > before.modified
        removed = rig.remove(b"x")
        assert removed.before[3] == found.directory.change and removed.directory == rig.stat(ROOT)

    run(scenario)


def test_a_retry_with_the_same_token_gets_the_first_reply_and_does_nothing() -> None:
    async def scenario(rig: VolumeRig) -> None:
        token = Token(b"client 1, xid 7")
        request = Make(SUPER, ROOT, b"x", Kind.DIRECTORY, Changes(mode=0o700))
        first = rig.call(request, token)
        assert rig.call(request, token) == first
        with pytest.raises(Exists):
            rig.call(request, Token(b"client 1, xid 8"))
        await rig.reopen()
        again = rig.call(request, token)
        assert again.attributes == first.attributes
        assert rig.volume.core.repeated == {"token": 1}, "as operators are told, since the volume was opened"
        await rig.clock.sleep(1300)
        await rig.volume.run_once()
        with pytest.raises(Exists):
            rig.call(request, token)

    run(scenario)


@pytest.mark.parametrize("seconds", [-3600, 3600, 86_400 * 365])
@pytest.mark.parametrize("where", ["here", "at the next node"])
def test_a_token_outlives_a_clock_that_is_set(seconds: int, where: str) -> None:
    """A host's clock is corrected, or another host takes the volume over, whose clock is another one."""

    async def scenario(rig: VolumeRig) -> None:
        request = Make(SUPER, ROOT, b"x", Kind.DIRECTORY, Changes())
        tokens = Token(b"client 1, xid 7"), Token(b"client 1, xid 8")
        rig.call(request, tokens[0])
        rig.clock.jump(seconds)
        if where == "at the next node":
            await rig.reopen()
        await rig.volume.run_once()
        rig.call(request, tokens[0])
        remove = Remove(SUPER, ROOT, b"x", True)
        rig.call(remove, tokens[1])
        rig.clock.jump(-seconds)
        if where == "at the next node":
            await rig.reopen()
        await rig.clock.sleep(590)
        await rig.volume.run_once()
        rig.call(remove, tokens[1])
        rig.call(request, tokens[0])
        await rig.clock.sleep(1300)
        await rig.volume.run_once()
        assert not list(rig.volume.core.keys.walk(keys.TOKEN)), "expired ones go all the same"

    run(scenario)


def test_nfs_removes_the_name_of_an_open_file_and_the_file_lives_on() -> None:
    async def scenario(rig: VolumeRig) -> None:
        opened = rig.open_name(b"x", share=7)
        await rig.put(opened.open, 0, b"still here")
        rig.remove(b"x")
        with pytest.raises(NotFound):
            rig.lookup(b"x")
        assert await rig.content(opened.open) == b"still here"
        assert rig.stat(opened.open, by_open=True).links == 0
        inode = opened.attributes.inode
        rig.close_open(opened)
        with pytest.raises(Stale):
            rig.stat(inode)

    run(scenario)


def test_an_open_that_does_not_share_deletion_keeps_nfs_from_removing_and_renaming() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.open_name(b"x", share=3)
        rig.make_name(b"y")
        for attempt in (lambda: rig.remove(b"x"), lambda: rig.rename(b"x", b"z"), lambda: rig.rename(b"y", b"x")):
            with pytest.raises(SharingViolation):
                attempt()

    run(scenario)


def test_rights_on_directories_decide_what_may_be_done_with_names() -> None:
    async def scenario(rig: VolumeRig) -> None:
        private = rig.mkdir(b"private", mode=0o700, caller=ALICE)
        rig.make_name(b"x", at=private, caller=ALICE)
        for attempt in (
            lambda: rig.lookup(b"private", b"x", caller=BOB),
            lambda: rig.make_name(b"y", at=private, caller=BOB),
            lambda: rig.remove(b"x", at=private, caller=BOB),
            lambda: rig.rename(b"x", b"y", at=private, to=private, caller=BOB),
        ):
            with pytest.raises(AccessDenied):
                attempt()
        shared = rig.mkdir(b"shared", mode=0o1777)
        rig.make_name(b"hers", at=shared, caller=ALICE)
        with pytest.raises(AccessDenied):
            rig.remove(b"hers", at=shared, caller=BOB)
        with pytest.raises(AccessDenied):
            rig.rename(b"hers", b"his", at=shared, to=shared, caller=BOB)
        rig.make_name(b"his", at=shared, caller=BOB)
        with pytest.raises(AccessDenied):
            rig.rename(b"his", b"hers", at=shared, to=shared, caller=BOB)
        rig.remove(b"hers", at=shared, caller=ALICE)

    run(scenario)


def test_the_setgid_bit_of_a_directory_gives_its_group() -> None:
    async def scenario(rig: VolumeRig) -> None:
        team = rig.mkdir(b"team", mode=0o2777)
        await rig.later(_chown(team, 2000))
        file = rig.make_name(b"f", at=team, caller=ALICE)
        inner = rig.mkdir(b"d", at=team, caller=ALICE)
        assert rig.stat(file).gid == 2000 and not rig.stat(file).mode & 0o2000
        assert rig.stat(inner).gid == 2000 and rig.stat(inner).mode & 0o2000

    def _chown(inode: int, gid: int) -> object:
        from sofs.volume.api import SetAttributes

        return SetAttributes(Stateless(inode, SUPER), Changes(gid=gid, mode=0o2777))  # type: ignore[arg-type]

    run(scenario)


def test_errors_carry_their_gate() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.make_name(b"x")
        removed = rig.remove(b"x")
        with pytest.raises(NotFound) as caught:
            rig.call(Lookup(SUPER, ROOT, (b"x",)))
        assert caught.value.gate >= removed.gate > 0

    run(scenario)


def test_space_tells_of_inodes_in_use() -> None:
    async def scenario(rig: VolumeRig) -> None:
        before = rig.call(GetSpace(SUPER)).inodes
        rig.make_name(b"x")
        assert rig.call(GetSpace(SUPER)).inodes == before + 1
        rig.remove(b"x")
        space = rig.call(GetSpace(SUPER))
        assert space.inodes == before and 0 < space.free <= space.total

    run(scenario)


def test_a_large_removed_file_is_collected_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sofs.volume.ranges.SLICE", 64)

    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"big")
        for offset in range(0, 2 << 20, 1 << 20):
            await rig.put(Stateless(file, SUPER), offset, b"x" * (1 << 20))
        assert not rig.data.small(file)
        rig.remove(b"big")
        with pytest.raises(Stale):
            rig.stat(file, caller=SUPER)
        await rig.reopen()
        reaped = await rig.volume.reaper.run_once()
        assert reaped.files == 1

    run(scenario)


def test_nothing_is_renamed_out_of_or_into_what_is_no_directory() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"f")
        for at, to in ((file, ROOT), (ROOT, file)):
            with pytest.raises(NotDirectory):
                rig.call(Rename(SUPER, to, b"to", True, at, b"f"))  # type: ignore[arg-type]

    run(scenario)
