"""Inode numbers: none is ever given out twice, whatever failed in between."""

import pytest

from sofs.errors import NameTooLong
from sofs.types import ROOT
from sofs.volume.api import Access, Disposition, Open
from tests.unit.volume.volume_rig import SUPER, VolumeRig, run


def test_no_number_is_given_again_after_many_requests_failed_and_the_volume_was_reopened() -> None:
    async def scenario(rig: VolumeRig) -> None:
        used = {rig.make_name(b"first")}
        refused = Open(SUPER, ROOT, (b"never",), int(Access.ALL), 7, Disposition.CREATE, stream=b"x" * 1000)
        for _ in range(2200):
            with pytest.raises(NameTooLong):
                rig.call(refused)
        used.add(rig.make_name(b"second"))
        await rig.reopen()
        for number in range(300):
            inode = rig.make_name(b"file %d" % number)
            assert inode not in used
            used.add(inode)

    run(scenario)
