"""The kernel's cifs with leases, over several channels, and under a share that stays available while the node is killed again and again."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sofs.runtime.interfaces import host_interfaces
from tests.interop.kernel import LASTING, PRELUDE, linux_gave_up, run_in_vm
from tests.interop.running import PASSWORD, SOFS, USER, RunningNode
from tests.interop.test_libnfs import run
from tests.kernel_client import Options, Outcome, run_script

pytestmark = pytest.mark.vm

MOUNTED = """
OPTIONS=port=%(port)d,vers=3.1.1,username=%(user)s,password=%(password)s,actimeo=0  # names and sizes are not cached for a second; data is, by leases
mkdir /a /b
mount -t cifs //$HOST/%(share)s /a -o $OPTIONS%(a)s
mount -t cifs //$HOST/%(share)s /b -o $OPTIONS,nosharesock%(b)s
"""

ONE_CHANNEL = """
written_back() { [ "$(wc -c < /b/d/x)" = 65536 ]; }
"""

# Linux acknowledges a break to read caching when it has sent what it held back, without waiting for the answers (cifs_oplock_break
# waits only when it may not cache reads either). On one channel the order is kept; on two the acknowledgement may come first.
SEVERAL_CHANNELS = """
written_back() { for try in $(seq 50); do [ "$(wc -c < /b/d/x)" = 65536 ] && return; sleep 0.1; done; return 1; }
"""

COUNT = """
count() { awk -v what=$1: '$1 == what { n += $2 } END { print n }' /proc/fs/cifs/Stats; }
"""

SHARED = (
    COUNT
    + """
# What one client has written and not sent yet, another one reads: its lease is broken, and it writes back first.
mkdir /a/d
sync
writes=$(count Writes); breaks=$(count OplockBreaks)
coproc WRITER { xfs_io -f /a/d/x; }               # any close(2) would write it back
echo "pwrite -S 0 0 64k" >&"${WRITER[1]}"; until [ "$(stat -c %s /a/d/x)" = 65536 ]; do sleep 0.1; done
[ "$(count Writes)" = "$writes" ] || fail "it was written before it had to be"
written_back || fail "$(wc -c < /b/d/x) bytes"
head -c 65536 /dev/zero | cmp - /b/d/x
[ "$(count Writes)" -gt "$writes" ] || fail "it was not written"
[ "$(count OplockBreaks)" -gt "$breaks" ] || fail "no lease was broken"
echo quit >&"${WRITER[1]}"; wait "$WRITER_PID"
echo "held back" > /a/d/x
# Both read and cache now; a write by one is seen by the other.
[ "$(cat /a/d/x)" = "held back" ]
echo changed > /b/d/x
[ "$(cat /a/d/x)" = changed ] || fail "stale: $(cat /a/d/x)"
# A handle that is only cached keeps nobody from removing the file.
cat /a/d/x > /dev/null
rm /b/d/x; [ ! -e /a/d/x ]
for round in 1 2 3; do
    echo $round > /a/d/turns; [ "$(cat /b/d/turns)" = $round ]
    echo b$round > /b/d/turns; [ "$(cat /a/d/turns)" = b$round ]
done
for mount in a b; do (
    fio --name=$mount --directory=/$mount/d --size=8m --bsrange=512-128k --bs_unaligned=1 --rw=randrw --verify=crc32c --verify_fatal=1 \\
        --do_verify=1 --ioengine=psync --end_fsync=1 --output-format=terse > /tmp/fio.$mount || { cat /tmp/fio.$mount; exit 1; }
) & done
wait -n && wait -n || fail fio
cmp /a/d/a.0.0 /b/d/a.0.0; cmp /a/d/b.0.0 /b/d/b.0.0
exec 5<>/a/d/turns; flock -x 5
flock -n -x /b/d/turns true && fail "two have one lock"
flock -u 5; flock -n -x /b/d/turns true || fail "the lock was given back"
exec 5>&-
rm -r /a/d
"""
)


def test_two_clients_cache_one_file_and_see_each_others_changes(node: RunningNode) -> None:
    names = {"port": node.smb.port, "user": USER, "password": PASSWORD, "share": node.smb.share, "a": "", "b": ""}
    run_in_vm(node, MOUNTED % names + ONE_CHANNEL + SHARED + "umount /a /b\n", timeout_s=150)


CHANNELS = """
grep -q 'Extra Channels: 1' /proc/fs/cifs/DebugData || { cat /proc/fs/cifs/DebugData; dmesg | tail; fail "one channel only"; }
"""


def test_a_mount_uses_several_channels(tmp_path: Path) -> None:
    own = [each for each in host_interfaces() if ":" not in each.address and not each.address.startswith("127.")]
    if not own:
        pytest.skip("this host has no address beside its loopback's")
    with RunningNode(tmp_path / "data", options=("--listen", "0.0.0.0")) as node:
        names = {"port": node.smb.port, "user": USER, "password": PASSWORD, "share": node.smb.share}
        names |= {"a": ",multichannel,max_channels=2", "b": ",multichannel,max_channels=2,seal"}
        run_in_vm(node, MOUNTED % names + CHANNELS + SEVERAL_CHANNELS + SHARED + CHANNELS + "umount /a /b\n", timeout_s=150)


UNDER_KILLS = (
    COUNT
    + """
mkdir /a/under /b/held
for each in 1 2; do echo $each > /a/held/$each; done
exec 5<>/a/held/1 6<>/b/held/2
flock -x 5; flock -x 6
locked() {
    flock -n -x /b/held/1 true && fail "$1: the lock of the first client is lost"
    flock -n -x /a/held/2 true && fail "$1: the lock of the second client is lost"
    echo "$1" >&5 || fail "$1: cannot write under the lock"
    echo "$1" >&6 || fail "$1: cannot write under the lock"
}
locked before
grep -q 'CONTINUOUS AVAILABILITY' /proc/fs/cifs/DebugData || fail "not a continuously available share"
sync                                              # what was written under the locks is not to be counted
writes=$(count Writes)
coproc WRITER { xfs_io -f /a/held/cached; }      # any close(2) would write it back
echo "pwrite -S 0 0 64k" >&"${WRITER[1]}"; until [ "$(stat -c %%s /a/held/cached)" = 65536 ]; do sleep 0.1; done
[ "$(count Writes)" = "$writes" ] || fail "the first client does not hold writes back"
data() {
    local n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        fio --name=data$1 --directory=$2/under --size=8m --bsrange=512-64k --bs_unaligned=1 --rw=randrw --fsync=32 --verify=crc32c \\
            --verify_fatal=1 --do_verify=1 --ioengine=psync --output-format=terse > /tmp/fio$1 2>&1 || spoilt /tmp/fio$1
        cp $2/under/data$1.0.0 /tmp/copy$1; echo 3 > /proc/sys/vm/drop_caches; cmp $2/under/data$1.0.0 /tmp/copy$1
        # What was closed while the node was away, Linux does not close later: it stays for its time.
        for try in $(seq 40); do rm $2/under/data$1.0.0 2>/dev/null && break; sleep 1; done
        [ ! -e $2/under/data$1.0.0 ]
    done
    echo "data $1: $n rounds"
}
appends() {
    local n=0
    exec 7>>/a/under/log
    while [ ! -e /tmp/stop ]; do n=$((n + 1)); echo $n >&7; done
    exec 7>&-
    [ "$(wc -l < /b/under/log)" = $n ] && [ "$(tail -n 1 /b/under/log)" = $n ] || fail "appended $n, there are $(wc -l < /b/under/log)"
    echo "appends: $n rounds"
}
begin data 1 /a; one=$pid
begin data 2 /b; two=$pid
begin appends; three=$pid
echo working
sleep %(seconds)d
touch /tmp/stop
for each in $one $two $three; do wait $each; done
locked after
head -c 65536 /dev/zero | cmp - /b/held/cached
echo quit >&"${WRITER[1]}"; wait "$WRITER_PID"
exec 5>&- 6>&-
umount /a /b
"""
)


def test_persistent_handles_and_their_locks_outlive_the_node_that_is_killed(tmp_path: Path) -> None:
    for attempt in range(3):
        outcome, tail = under_kills(tmp_path / f"{attempt}")
        if outcome.status == 0 or not linux_gave_up(outcome.output):
            break
    assert outcome.status == 0, f"status {outcome.status}\n{outcome.output}\n{outcome.trouble}\n{tail}"
    assert outcome.output.count("rounds") == 3, outcome.output


def under_kills(path: Path) -> tuple[Outcome, str]:
    """What the guest says of four kills under its work, and the end of the node's log."""
    path.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = RunningNode(path / "data", smb_port=port)
    node.start()
    run(SOFS, "share", "create", "safe", "--continuously-available", "--data", str(node.data))
    names = {"port": port, "user": USER, "password": PASSWORD, "share": "safe", "a": LASTING, "b": LASTING + ",cache=none"}
    printed = bytearray()
    script = PRELUDE + MOUNTED % names + UNDER_KILLS % {"seconds": 45}
    try:
        with ThreadPoolExecutor(1) as threads:
            guest = threads.submit(run_script, script, (), Options(timeout_s=300), printed.extend)
            while b"working" not in printed and not guest.done():
                time.sleep(0.2)
            for _ in range(4):
                if not guest.done():
                    time.sleep(4)
                    node.kill()
                    node.start()
            return guest.result(), node.tail()
    finally:
        status = node.stop()
        assert status == 0, node.tail()
