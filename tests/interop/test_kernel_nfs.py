"""What only the kernel's NFS client does: the directory above all exports, mounts below an export, special files, exclusive creates, and patience
with a server that dies and comes back."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.kernel import PRELUDE, run_in_vm
from tests.interop.running import SHARE, SOFS, RunningNode
from tests.interop.test_libnfs import run
from tests.kernel_client import Options, run_script

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


UNDER_KILLS = """
mount -t nfs $HOST:/%(share)s /mnt -o vers=3,proto=tcp,port=%(port)d,mountport=%(port)d,mountproto=tcp,nolock,hard,timeo=50
mkdir /mnt/under; cd /mnt/under
# Each step's effect is checked, and each fails if a repeated request is carried out twice.
names() {
    local n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        mkdir d$1; [ -d d$1 ]
        echo $n > d$1/f; [ "$(cat d$1/f)" = $n ]
        ln d$1/f d$1/g; mv d$1/f d$1/h; [ ! -e d$1/f ]
        ln -s $n d$1/s; [ "$(readlink d$1/s)" = $n ]
        rm d$1/g d$1/h d$1/s; rmdir d$1; [ ! -e d$1 ]
    done
    echo "names $1: $n rounds"
}
data() {
    local n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        fio --name=data --directory=/mnt/under --size=8m --bsrange=512-64k --bs_unaligned=1 --rw=randrw --fsync=32 \\
            --verify=crc32c --verify_fatal=1 --do_verify=1 --ioengine=psync --output-format=terse > /tmp/fio || { cat /tmp/fio; return 1; }
        cp /mnt/under/data.0.0 /tmp/copy; echo 3 > /proc/sys/vm/drop_caches; cmp /mnt/under/data.0.0 /tmp/copy
        rm /mnt/under/data.0.0
    done
    echo "data: $n rounds"
}
names 1 & one=$!
names 2 & two=$!
data & three=$!
echo working
sleep %(seconds)d
touch /tmp/stop
wait $one && wait $two && wait $three
cd /
umount /mnt
"""


def test_the_kernels_client_does_not_notice_that_the_node_is_killed(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = RunningNode(tmp_path / "data", nfs_port=port)
    printed = bytearray()
    script = PRELUDE + UNDER_KILLS % {"share": SHARE, "port": port, "seconds": 40}
    node.start()
    try:
        with ThreadPoolExecutor(1) as threads:
            guest = threads.submit(run_script, script, (), Options(timeout_s=270), printed.extend)
            while b"working" not in printed and not guest.done():
                time.sleep(0.2)
            for _ in range(6):
                if not guest.done():
                    time.sleep(3.5)
                    node.kill()
                    node.start()
            outcome = guest.result()
        assert outcome.status == 0, f"status {outcome.status}\n{outcome.output}\n{outcome.trouble}\n{node.tail()}"
        assert outcome.output.count("rounds") == 3, outcome.output
    finally:
        status = node.stop()
        assert status == 0, node.tail()
