"""LMDB on a disk whose file system has shut down, as XFS and ext4 do when their disk fails: an error, and not the process's end."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sofs.runtime.system_files import SystemFiles

SCRIPT = """
import asyncio, os, sys, time
from pathlib import Path
from sofs.errors import SofsError
from sofs.lab.images import Images
from sofs.runtime.system_files import SystemFiles

scratch = Path(sys.argv[1])
images, disk = Images(scratch / "images"), scratch / "disk"
images.mount("disk", disk)

async def main():
    files = SystemFiles(1)
    records = files.records(str(disk / "records"), 1 << 26)
    await records.commit([(b"%06d" % number, bytes(100)) for number in range(2000)])
    records.refresh()
    os.sync()
    images.go_down(disk)
    try:
        await records.commit([(b"x", b"y")])
    except SofsError as error:
        print(type(error).__name__)
    assert records.get(b"000007") == bytes(100)
    records.refresh()
    records.close()
    print("closed")

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mkfs.xfs") is None, reason="needs root and xfsprogs: it mounts a file system of its own")
def test_a_process_outlives_the_disk_of_its_records(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=120)
    if "cannot be" in done.stderr or "no mount namespace" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert (done.returncode, done.stdout.split()) == (0, ["DiskFailed", "closed"]), done.stderr


def test_nothing_that_is_mapped_for_writing_lies_on_the_disk(tmp_path: Path) -> None:
    async def main() -> None:
        files = SystemFiles(1)
        for _ in range(2):
            records = files.records(str(tmp_path / "records"), 1 << 24)
            await records.commit([(b"a", b"b")])
            records.refresh()
            assert records.get(b"a") == b"b" and os.listdir(tmp_path / "records") == ["data.mdb"]
            records.close()
        # What a release before this one has left there is in nobody's way.
        (tmp_path / "records" / "lock.mdb").write_bytes(bytes(8192))
        files.records(str(tmp_path / "records"), 1 << 24).close()
        assert os.listdir(tmp_path / "records") == ["data.mdb"]

    asyncio.run(main())
