"""Work that goes on in the guest while servers fail, and how a test follows it: bash functions, and what counts the rounds they print."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

# NAMES and DATA are to be begun by `begin` of PRELUDE: what fails in them is heard of at once.

NAMES = """
# Each step's effect is checked, and each fails if a repeated request is carried out twice.
names() {
    local n=0 d=$2/under/d$1
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        mkdir $d; [ -d $d ]
        echo $n > $d/f; [ "$(cat $d/f)" = $n ]
        (set -C; echo once > $d/x) || { echo "not made"; return 1; }
        ln $d/f $d/g; mv $d/f $d/h; [ ! -e $d/f ]
        ln -s $n $d/s; [ "$(readlink $d/s)" = $n ]
        exec 4<>$d/h; flock -x 4; echo more >> $d/h; flock -u 4; exec 4>&-
        rm $d/g $d/h $d/s $d/x; rmdir $d; [ ! -e $d ]
        echo "done $1"
    done
    echo "names $1: $n rounds"
}
"""

DATA = """
data() {
    local n=0 f=$2/under/data$1
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        fio --name=data --filename=$f --size=${SIZE:-8m} --bsrange=512-64k --bs_unaligned=1 --rw=randrw --fsync=32 \\
            --verify=crc32c --verify_fatal=1 --do_verify=1 --ioengine=psync --output-format=terse > /tmp/fio$1 2>&1 || spoilt /tmp/fio$1
        cp $f /tmp/copy$1 2>/tmp/cp$1 || spoilt /tmp/cp$1
        echo 3 > /proc/sys/vm/drop_caches
        cmp $f /tmp/copy$1 >/tmp/cmp$1 2>&1 || spoilt /tmp/cmp$1
        # Over SMB, what was closed while a node was away Linux does not close later: it stays for its time.
        for try in $(seq 40); do rm $f 2>/dev/null && break; sleep 1; done
        [ ! -e $f ]
        echo "done $1"
    done
    echo "data $1: $n rounds"
}
"""


def rounds(printed: bytearray, works: Sequence[str]) -> list[int]:
    """How many rounds of each work have been done."""
    return [printed.count(f"done {work}\n".encode()) for work in works]


def await_progress(printed: bytearray, works: Sequence[str], over: Callable[[], bool], until: float) -> None:
    """Every work has gone round once more: all of them have recovered from the last fault, and are at it."""
    before = rounds(printed, works)
    while not over() and any(now <= then for now, then in zip(rounds(printed, works), before, strict=True)):
        assert time.monotonic() < until, f"no progress: {before} rounds, then {rounds(printed, works)} of {works}"
        time.sleep(0.1)


UNTIL_TOLD = """
waiting() {  # what this kernel and its processes wait for
    set +eE; trap - ERR
    cat /proc/fs/cifs/DebugData /proc/fs/cifs/open_files
    mount -t debugfs debugfs /sys/kernel/debug; head -n 100 /sys/kernel/debug/sunrpc/rpc_clnt/*/tasks /sys/kernel/debug/sunrpc/rpc_xprt/*/info
    cat /proc/self/mountstats /proc/net/tcp
    for each in /proc/[0-9]*; do
        words=$(tr '\\0' ' ' < $each/cmdline); [ "$words" ] || continue  # the kernel's own are in the log when they wait
        echo "$each: $words: $(grep State $each/status)"; cat $each/stack
    done
    echo w > /proc/sysrq-trigger; dmesg | tail -n 300
}
read -r said < /dev/tcp/%(host)s/%(bell)d  # until enough has happened
if [ "$said" != enough ]; then echo "told: $said"; waiting; exit 1; fi
touch /tmp/stop
"""


def ring(bell: socket.socket, over: Callable[[], bool], say: str = "enough") -> None:
    """Answers the guest, which waits for that. Told anything else than the default, it says what its kernel waits for, and ends."""
    bell.settimeout(0.5)
    while not over():
        try:
            guest, _ = bell.accept()
        except TimeoutError:
            continue
        with guest:
            guest.sendall(f"{say}\n".encode())
        return
