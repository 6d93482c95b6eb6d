"""What only the kernel's NFS client does: the directory above all exports, mounts below an export, special files, exclusive creates."""

from __future__ import annotations

import pytest

from tests.interop.kernel import run_in_vm
from tests.interop.running import SOFS, RunningNode
from tests.interop.test_libnfs import run

pytestmark = pytest.mark.vm

SCRIPT = """
OPTIONS=vers=3,proto=tcp,port=%(port)d,mountport=%(port)d,mountproto=tcp,nolock
mount -t nfs $HOST:/ /mnt -o $OPTIONS
[ "$(ls /mnt)" = "$(printf 'second\\nshare')" ] || fail "the exports: $(ls /mnt)"
touch /mnt/new 2>/dev/null && fail "the list of exports can be written"
mkdir /mnt/second/deep /mnt/second/deep/er
echo across > /mnt/second/deep/er/file
[ "$(cat /mnt/second/deep/er/file)" = across ]
[ "$(stat -c %%d /mnt/second)" != "$(stat -c %%d /mnt/share)" ] || fail "two exports, one file system"
mv /mnt/second/deep/er/file /mnt/share/moved     # copied: not a rename
[ "$(cat /mnt/share/moved)" = across ]
umount -R /mnt

mount -t nfs $HOST:/second/deep /mnt -o $OPTIONS
[ "$(ls /mnt)" = er ] || fail "not the subdirectory"
cd /mnt
mkfifo fifo; ln -s target link; ln link hard 2>/dev/null || true
[ -p fifo ] && [ "$(readlink link)" = target ]
set -C                                           # O_EXCL
echo 1 > once; (echo 2 > once) 2>/dev/null && fail "made twice"; [ "$(cat once)" = 1 ]
chmod 640 once; [ "$(stat -c %%a once)" = 640 ]
touch -d '2001-02-03 04:05:06.123456700' once; [ "$(stat -c %%y once | cut -c1-27)" = "2001-02-03 04:05:06.1234567" ]
truncate -s 1T huge; [ "$(stat -c %%s huge)" = 1099511627776 ]
mkdir many; for i in $(seq 300); do : > many/$i; done; [ "$(ls many | wc -l)" = 300 ]
rm -r many huge
df /mnt | grep -q "$HOST" || fail df
cd /
umount /mnt
"""


def test_the_root_over_the_exports_and_a_subdirectory_are_mounted(node: RunningNode) -> None:
    run(SOFS, "share", "create", "second", "--data", str(node.data))
    run_in_vm(node, SCRIPT % {"port": node.nfs.port})
