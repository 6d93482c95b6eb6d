"""Reparse points: files that become links and special files and plain ones again, and opaque ones."""

import pytest

from sofs.errors import NotEmpty, NotPermitted, NotSupported, NotSymlink, ReparsePoint
from sofs.types import ROOT, Kind
from sofs.volume.api import DIRECTORY_LINK, REPARSE_POINT, DeleteReparse, Disposition, GetReparse, Link, ReadLink, SetReparse
from tests.unit.volume.volume_rig import ALICE, SUPER, VolumeRig, run


def test_an_empty_file_becomes_a_link_that_nfs_reads_and_a_file_again() -> None:
    async def scene(rig: VolumeRig) -> None:
        opened = rig.open_name(b"l", follow=False)
        rig.call(SetReparse(opened.open, Kind.SYMLINK, b"a/b"))
        found = rig.lookup(b"l")
        assert (found.kind, found.size, found.links) == (Kind.SYMLINK, 3, 1)
        assert rig.call(ReadLink(SUPER, found.inode)).text == b"a/b"
        assert rig.entries()[0].kind is Kind.SYMLINK
        assert rig.call(GetReparse(opened.open)).text == b"a/b"
        rig.call(SetReparse(opened.open, Kind.SYMLINK, b"elsewhere"))
        assert rig.call(ReadLink(SUPER, found.inode)).text == b"elsewhere"
        rig.call(DeleteReparse(opened.open))
        assert (rig.lookup(b"l").kind, rig.lookup(b"l").size) == (Kind.FILE, 0)
        await rig.put(opened.open, 0, b"data again")
        assert await rig.content(opened.open) == b"data again"

    run(scene)


def test_an_empty_directory_becomes_a_link_to_one_and_a_directory_again() -> None:
    async def scene(rig: VolumeRig) -> None:
        above = rig.mkdir(b"above")
        opened = rig.open_name(b"above", b"d", directory=True)
        assert rig.stat(above).links == 3
        rig.call(SetReparse(opened.open, Kind.SYMLINK, b"x"))
        found = rig.lookup(b"above", b"d")
        assert found.kind is Kind.SYMLINK and found.flags & DIRECTORY_LINK
        assert rig.stat(above).links == 2
        assert rig.open_name(b"above", b"d", directory=True, follow=False, disposition=Disposition.OPEN).attributes.inode == found.inode
        rig.call(DeleteReparse(opened.open))
        assert rig.lookup(b"above", b"d").kind is Kind.DIRECTORY
        assert (rig.stat(above).links, rig.lookup(b"above", b"d").links) == (3, 2)
        rig.make_name(b"f", at=rig.lookup(b"above", b"d").inode)
        with pytest.raises(NotEmpty):
            rig.call(SetReparse(opened.open, Kind.SYMLINK, b"x"))

    run(scene)


def test_special_files_are_made_by_those_who_may() -> None:
    async def scene(rig: VolumeRig) -> None:
        mine = rig.open_name(b"p", caller=ALICE)
        rig.call(SetReparse(mine.open, Kind.FIFO))
        assert rig.lookup(b"p").kind is Kind.FIFO
        device = rig.open_name(b"d", caller=ALICE)
        with pytest.raises(NotPermitted):
            rig.call(SetReparse(device.open, Kind.BLOCK_DEVICE, device=(8, 1)))
        by_root = rig.open_name(b"r")
        rig.call(SetReparse(by_root.open, Kind.BLOCK_DEVICE, device=(8, 1)))
        assert rig.lookup(b"r").device == (8, 1)

    run(scene)


def test_an_opaque_reparse_point_keeps_its_data_and_is_opened_as_one_only() -> None:
    async def scene(rig: VolumeRig) -> None:
        opened = rig.open_name(b"f")
        await rig.put(opened.open, 0, b"content")
        rig.call(SetReparse(opened.open, Kind.FILE, b"x" * 9000, 0x80000020))
        found = rig.lookup(b"f")
        assert found.flags & REPARSE_POINT and found.device[0] == 0x80000020 and found.kind is Kind.FILE
        with pytest.raises(ReparsePoint):
            rig.open_name(b"f")
        again = rig.open_name(b"f", follow=False)
        point = rig.call(GetReparse(again.open))
        assert (point.tag, point.text) == (0x80000020, b"x" * 9000)
        await rig.put(opened.open, 0, b"C")
        assert await rig.content(opened.open) == b"Content"
        rig.call(DeleteReparse(again.open))
        rig.close_open(rig.open_name(b"f"))
        with pytest.raises(NotSymlink):
            rig.call(GetReparse(opened.open))

    run(scene)


def test_what_cannot_become_a_link() -> None:
    async def scene(rig: VolumeRig) -> None:
        full = rig.open_name(b"full")
        await rig.put(full.open, 0, b"x")
        with pytest.raises(NotSupported):
            rig.call(SetReparse(full.open, Kind.SYMLINK, b"x"))
        two = rig.open_name(b"two")
        rig.call(Link(SUPER, two.attributes.inode, ROOT, b"names"))
        with pytest.raises(NotSupported):
            rig.call(SetReparse(two.open, Kind.SYMLINK, b"x"))
        with pytest.raises(NotSymlink):
            rig.call(DeleteReparse(two.open))

    run(scene)
