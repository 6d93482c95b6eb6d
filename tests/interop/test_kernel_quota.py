"""Quotas and clones of whole files, as the kernel's cifs and nfs clients meet them: what `dd`, `df`, `mv` and `cp --reflink` say."""

from __future__ import annotations

import pytest

from tests.interop.kernel import mount_nfs, mount_smb, run_in_vm
from tests.interop.running import RunningNode
from tests.interop.smb import smbclient
from tests.interop.test_commands import ask

pytestmark = pytest.mark.vm

CLONE = """
dd if=/dev/urandom of=/mnt/%(dir)s/image bs=1M count=24 2>/dev/null; sync
cp --reflink=always /mnt/%(dir)s/image /mnt/%(dir)s/copy
cmp /mnt/%(dir)s/image /mnt/%(dir)s/copy
printf changed | dd of=/mnt/%(dir)s/copy bs=1 seek=7000000 conv=notrunc 2>/dev/null; sync
cmp -s /mnt/%(dir)s/image /mnt/%(dir)s/copy && fail "the copy is the same file"
[ "$(cmp -l /mnt/%(dir)s/image /mnt/%(dir)s/copy | wc -l)" -le 7 ] || fail "more than what was changed"
rm /mnt/%(dir)s/image /mnt/%(dir)s/copy
"""
LIMITED = """
[ "$(df --output=size -B1M /mnt/limited | tail -1 | tr -d ' ')" = 32 ] || fail "df: $(df -B1M /mnt/limited)"
dd if=/dev/zero of=/mnt/limited/big bs=1M count=60 conv=fsync 2>/tmp/said && fail "beyond the quota"
cat /tmp/said
grep -Eq "quota exceeded|No space left" /tmp/said || fail "$(cat /tmp/said)"
rm /mnt/limited/big
mkdir /mnt/full; echo x > /mnt/full/file
mv /mnt/full /mnt/limited/; [ "$(cat /mnt/limited/full/file)" = x ] && [ ! -e /mnt/full ] || fail "mv copies"
rm -r /mnt/limited/full
"""


@pytest.fixture
def limited(node: RunningNode) -> RunningNode:
    smbclient(node, "mkdir limited")
    ask(node, "quota", "set", "default", "--directory", "limited", "--hard", "32M")
    return node


def test_the_kernels_clients_are_held_to_quotas_and_clone_files(limited: RunningNode) -> None:
    nfs4 = f"mount -t nfs4 $HOST:/{limited.nfs.share} /mnt -o vers=4.2,port={limited.nfs.port}\n"
    script = ""
    for number, (mount, clones) in enumerate(((nfs4, True), (mount_smb(limited), True), (mount_nfs(limited), False))):
        script += mount + f"mkdir /mnt/d{number}; chmod 777 /mnt/limited\n"
        script += (CLONE % {"dir": f"d{number}"} if clones else "") + LIMITED + "umount /mnt; echo mounted\n"
    assert run_in_vm(limited, script).count("mounted") == 3
    assert ask(limited, "check")["problems"] == []
