"""Watching directories: who is told what, whichever way the change came."""

import pytest

from sofs.errors import AccessDenied, NotDirectory
from sofs.types import OpenId, VolumeId
from sofs.volume import watching
from sofs.volume.api import (
    Access,
    Changed,
    Changes,
    Link,
    Noticed,
    Punch,
    SetAttributes,
    SetDisposition,
    SetExtended,
    SetSecurity,
    Stateless,
    Upcall,
    Watch,
)
from tests.unit.volume.volume_rig import ALICE, SUPER, VolumeRig, run

NAMES = int(Changed.FILE_NAME | Changed.DIR_NAME)
ALL = int(sum(Changed))
LIST = int(Access.READ_DATA | Access.READ_ATTRIBUTES)
GONE, ADDED, REMOVED, MODIFIED, OLD, NEW = range(6)


class Told:
    """Keeps what watchers are told."""

    def __init__(self, rig: VolumeRig) -> None:
        self.rig = rig
        self.events: list[tuple[OpenId, int, bytes]] = []
        rig.volume.subscribe(self.told)

    def told(self, volume: VolumeId, upcall: Upcall) -> None:
        assert volume == 7
        if isinstance(upcall, Noticed):
            self.events.append((upcall.open, upcall.action, upcall.name))

    async def now(self) -> list[tuple[int, bytes]]:
        """What was told since the last time, once all is committed."""
        await self.rig.store.log.sync()
        events = [(action, name) for _, action, name in self.events]
        self.events.clear()
        return events


def watch(rig: VolumeRig, *path: bytes, what: int = NAMES, tree: bool = False, caller: object = None) -> OpenId:
    opened = rig.open_name(*path, access=LIST, directory=True, caller=caller)
    rig.call(Watch(opened.open, what, tree))
    return opened.open


def test_names_that_come_go_and_move_are_told() -> None:
    async def scene(rig: VolumeRig) -> None:
        told, at = Told(rig), rig.mkdir(b"d")
        watch(rig, b"d")
        file = rig.make_name(b"f", at=at)
        rig.call(Link(SUPER, file, at, b"g"))
        rig.rename(b"g", b"h", at=at, to=at)
        rig.rename(b"h", b"out", at=at)
        rig.rename(b"out", b"in", to=at)
        rig.remove(b"f", at=at)
        rig.close_open(rig.open_name(b"d", b"new"))
        expected = [(ADDED, b"f"), (ADDED, b"g"), (OLD, b"g"), (NEW, b"h"), (REMOVED, b"h"), (ADDED, b"in"), (REMOVED, b"f"), (ADDED, b"new")]
        assert await told.now() == expected

    run(scene)


def test_nothing_is_told_before_the_change_is_committed() -> None:
    async def scene(rig: VolumeRig) -> None:
        told, at = Told(rig), rig.mkdir(b"d")
        watch(rig, b"d")
        rig.make_name(b"f", at=at)
        assert not told.events
        assert await told.now() == [(ADDED, b"f")]

    run(scene)


def test_the_filter_of_the_first_request_decides() -> None:
    async def scene(rig: VolumeRig) -> None:
        told, at = Told(rig), rig.mkdir(b"d")
        number = watch(rig, b"d", what=int(Changed.DIR_NAME))
        rig.call(Watch(number, ALL, True))
        rig.make_name(b"f", at=at)
        rig.mkdir(b"s", at=at)
        assert await told.now() == [(ADDED, b"s")]

    run(scene)


def test_a_watched_tree_tells_paths_after_directories_have_moved() -> None:
    async def scene(rig: VolumeRig) -> None:
        told, a = Told(rig), rig.mkdir(b"a")
        b = rig.mkdir(b"b", at=a)
        c = rig.mkdir(b"c", at=b)
        watch(rig, b"a", tree=True)
        watch(rig, b"a")  # without the tree: told of nothing below
        rig.make_name(b"f", at=c)
        assert await told.now() == [(ADDED, b"b/c/f")]
        rig.rename(b"b", b"B", at=a, to=a)
        rig.remove(b"f", at=c)
        assert await told.now() == [(OLD, b"b"), (OLD, b"b"), (NEW, b"B"), (NEW, b"B"), (REMOVED, b"B/c/f")]
        rig.rename(b"c", b"c", at=b)  # out of the tree
        rig.make_name(b"f", at=c)
        assert await told.now() == [(REMOVED, b"B/c")]

    run(scene)


def test_attributes_data_and_extended_attributes_are_told_to_those_who_asked_for_them() -> None:
    async def scene(rig: VolumeRig) -> None:
        told, at = Told(rig), rig.mkdir(b"d")
        file = rig.make_name(b"f", at=at)
        by_inode = Stateless(file, SUPER)
        changes = {
            Changed.SECURITY: lambda: rig.call(SetAttributes(by_inode, Changes(mode=0o600))),
            Changed.ATTRIBUTES: lambda: rig.call(SetAttributes(by_inode, Changes(flags=2))),
            Changed.LAST_ACCESS: lambda: rig.call(SetAttributes(by_inode, Changes(accessed=5))),
            Changed.CREATION: lambda: rig.call(SetAttributes(by_inode, Changes(created=5))),
            Changed.LAST_WRITE: lambda: rig.call(SetAttributes(by_inode, Changes(modified=5))),
            Changed.EA: lambda: rig.call(SetExtended(by_inode, ((b"user.x", b"1"),))),
            Changed.SIZE: lambda: rig.call(SetAttributes(by_inode, Changes(size=5000))),
        }
        for wanted, change in changes.items():
            number = watch(rig, b"d", what=int(wanted))
            other = watch(rig, b"d", what=ALL & ~int(wanted | Changed.LAST_WRITE))
            change()
            assert await told.now() == [(MODIFIED, b"f")], wanted
            rig.close_open(number)
            rig.close_open(other)

    run(scene)


def test_writes_of_either_protocol_are_told() -> None:
    async def scene(rig: VolumeRig) -> None:
        told, at = Told(rig), rig.mkdir(b"d")
        opened = rig.open_name(b"d", b"f")
        watch(rig, b"d", what=int(Changed.SIZE))
        watch(rig, b"d", what=int(Changed.LAST_WRITE))
        await rig.put(opened.open, 0, b"abc")
        assert await told.now() == [(MODIFIED, b"f")] * 2
        await rig.put(opened.open, 1, b"b")
        assert await told.now() == [(MODIFIED, b"f")]
        await rig.put(Stateless(opened.attributes.inode, SUPER), 2, b"cdef")
        assert await told.now() == [(MODIFIED, b"f")] * 2
        await rig.later(Punch(opened.open, 0, 1))
        assert (MODIFIED, b"f") in await told.now()
        rig.rename(b"f", b"g", at=at, to=at)
        await told.now()
        await rig.put(Stateless(opened.attributes.inode, SUPER), 0, b"x")
        assert await told.now() == [(MODIFIED, b"g")]

    run(scene)


def test_a_file_reached_without_an_open_is_found_by_its_directory() -> None:
    async def scene(rig: VolumeRig) -> None:
        told, at = Told(rig), rig.mkdir(b"d")
        files = [rig.make_name(b"%d" % number, at=at) for number in range(20)]
        watch(rig, b"d", what=int(Changed.LAST_WRITE))
        await rig.put(Stateless(files[13], SUPER), 0, b"x")
        await rig.put(Stateless(files[13], SUPER), 0, b"x")
        assert await told.now() == [(MODIFIED, b"13")] * 2
        rig.rename(b"13", b"thirteen", at=at, to=at)
        await rig.put(Stateless(files[13], SUPER), 0, b"x")
        assert await told.now() == [(MODIFIED, b"thirteen")]

    run(scene)


def test_in_a_directory_too_large_to_be_searched_watchers_are_told_to_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_MOST_SEARCHED", 3)

    async def scene(rig: VolumeRig) -> None:
        told, at = Told(rig), rig.mkdir(b"d")
        files = [rig.make_name(b"%d" % number, at=at) for number in range(40)]
        watch(rig, b"d", what=int(Changed.LAST_WRITE))
        watch(rig, what=int(Changed.LAST_WRITE), tree=True)
        for file in files:
            await rig.put(Stateless(file, SUPER), 0, b"x")
        events = await told.now()
        assert len(events) == 80
        assert sum(action == watching.TOO_MUCH for action, _ in events) >= 70

    run(scene)


def test_streams_are_told_by_their_files_name() -> None:
    async def scene(rig: VolumeRig) -> None:
        told = Told(rig)
        rig.mkdir(b"d")
        rig.close_open(rig.open_name(b"d", b"f"))
        watch(rig, b"d", what=int(Changed.STREAM_NAME | Changed.STREAM_SIZE | Changed.STREAM_WRITE))
        stream = rig.open_name(b"d", b"f", stream=b"s")
        await rig.put(stream.open, 0, b"abc")
        rig.call(SetDisposition(stream.open, True))
        rig.close_open(stream)
        assert await told.now() == [(6, b"f:s"), (8, b"f:s"), (7, b"f:s")]

    run(scene)


def test_a_watched_directory_that_is_deleted_says_so() -> None:
    async def scene(rig: VolumeRig) -> None:
        told = Told(rig)
        for name in (b"marked", b"at its close", b"over NFS"):
            rig.mkdir(name)
            watch(rig, name)
            other = rig.open_name(name, directory=True, delete_on_close=name == b"at its close")
            if name == b"marked":
                rig.call(SetDisposition(other.open, True))
            rig.close_open(other)
            if name == b"over NFS":
                rig.remove(name, directory=True)
            assert await told.now() == [(GONE, b"")], name

    run(scene)


def test_names_below_are_told_only_to_those_who_may_list_them() -> None:
    async def scene(rig: VolumeRig) -> None:
        told = Told(rig)
        top = rig.mkdir(b"top", mode=0o755)
        private, public = rig.mkdir(b"private", at=top, mode=0o700), rig.mkdir(b"public", at=top, mode=0o755)
        watch(rig, b"top", tree=True, caller=ALICE)
        rig.make_name(b"secret", at=private)
        rig.make_name(b"news", at=public)
        assert await told.now() == [(ADDED, b"public/news")]

    run(scene)


def test_who_may_watch() -> None:
    async def scene(rig: VolumeRig) -> None:
        rig.mkdir(b"d")
        blind = rig.open_name(b"d", access=int(Access.READ_ATTRIBUTES), directory=True)
        with pytest.raises(AccessDenied):
            rig.call(Watch(blind.open, NAMES))
        file = rig.open_name(b"f")
        with pytest.raises(NotDirectory):
            rig.call(Watch(file.open, NAMES))

    run(scene)


def test_after_the_last_watchers_close_nothing_is_kept() -> None:
    async def scene(rig: VolumeRig) -> None:
        told, at = Told(rig), rig.mkdir(b"d")
        number = watch(rig, b"d", tree=True)
        rig.make_name(b"f", at=at)
        await told.now()
        rig.close_open(number)
        core = rig.volume.core
        assert not core.watching.any and not core.watching._names and not core.watching._at
        rig.make_name(b"g", at=at)
        assert not await told.now()

    run(scene)


def test_a_descriptor_that_is_set_is_told() -> None:
    async def scene(rig: VolumeRig) -> None:
        told = Told(rig)
        opened = rig.open_name(b"f")
        watch(rig, what=int(Changed.SECURITY))
        owner_only = bytes.fromhex("0100008000000000000000000000000000000000")
        rig.call(SetSecurity(opened.open, 0x4, owner_only[:2] + b"\x04\x80" + owner_only[4:]))
        assert await told.now() == [(MODIFIED, b"f")]

    run(scene)
