"""The kernel's own clients of NFS 4.1, NFS 3 and SMB at a cluster's virtual addresses, while its nodes are killed, stopped and drained under them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.failover import faults
from tests.failover.laboratory import Laboratory
from tests.interop.guest_work import DATA, NAMES, UNTIL_TOLD, await_progress, ring
from tests.interop.kernel import LASTING, PRELUDE, linux_gave_up
from tests.kernel_client import Options, run_script

LIMIT_S, PROGRESS_LIMIT_S = 1200, 240
GUEST, LAB = "10.77.0.50", "10.77.0.1"
TAP = "guest0"
FAULTS = 4
WORKS = ("1", "2", "3", "4", "5")

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(LIMIT_S + 120)]

SCRIPT = """
mkdir /a /b /c
mount -t nfs4 %(a)s:/%(share)s /a -o vers=4.1,hard
mount -t nfs %(b)s:/%(share)s /b -o vers=3,proto=tcp,port=2049,mountport=2049,mountproto=tcp,nolock,hard
mount -t cifs //%(c)s/%(share)s /c -o username=%(user)s,password=%(password)s,vers=3.1.1,persistenthandles%(smb)s
traced
chmod 777 /a; mkdir -m 777 /a/under /a/held
for each in 1 2; do echo $each > /a/held/$each; chmod 666 /a/held/$each; done
exec 5<>/a/held/1 6<>/c/held/2
flock -x 5; flock -x 6
locked() {
    flock -n -x /c/held/1 true 2>/dev/null && fail "$1: the lock over NFS is lost"
    flock -n -x /a/held/2 true 2>/dev/null && fail "$1: the lock over SMB is lost"
    echo "$1" >&5 || fail "$1: cannot write under the lock of NFS"
    echo "$1" >&6 || fail "$1: cannot write under the lock of SMB"
}
locked before
SIZE=1m
begin names 1 /a; one=$pid
begin names 2 /b; two=$pid
begin data 3 /a; three=$pid
begin data 4 /b; four=$pid
begin data 5 /c; five=$pid
echo working
"""

AFTER = """
for each in $one $two $three $four $five; do wait $each; done
locked after
exec 5>&- 6>&-
umount /a /b /c
"""


def plug_in() -> None:
    """A socket for the guest at the clients' bridge of the lab, in whose network this process is."""
    lines = f"tuntap add {TAP} mode tap\nlink set {TAP} master lan up\n"
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)


async def faults_of(lab: Laboratory, number: int) -> None:
    match number:
        case 0:
            await faults.kill_coordinator(lab)
        case 1:
            await faults.pause_coordinator(lab)
        case 2:
            await faults.move(lab)
        case 3:  # the next coordinator goes when the first has just come back
            await faults.kill_coordinator(lab)
            await faults.kill_coordinator(lab)


def happen(lab: Laboratory, printed: bytearray, over: Callable[[], bool]) -> None:
    """Each when all work has gone round since the last, and so amid its next round."""
    while b"working" not in printed and not over():
        time.sleep(0.2)
    for number in range(FAULTS):
        await_progress(printed, WORKS, over, time.monotonic() + PROGRESS_LIMIT_S)
        if over():
            return
        asyncio.run(faults_of(lab, number))
    await_progress(printed, WORKS, over, time.monotonic() + PROGRESS_LIMIT_S)


def play(data: Path, answer: Connection) -> None:
    """In a process of its own, since it moves into the lab's network."""
    lab = Laboratory(data, nodes=3)
    printed = bytearray()
    try:
        lab.start()
        lab.enter()
        plug_in()
        with socket.create_server((LAB, 0)) as bell, ThreadPoolExecutor(1) as threads:
            vips = dict(zip("abc", lab.vips, strict=True))
            script = SCRIPT % {**lab.about, **vips, "smb": LASTING} + UNTIL_TOLD % {"host": LAB, "bell": bell.getsockname()[1]} + AFTER
            options = Options(timeout_s=LIMIT_S, tap=TAP, address=f"{GUEST}/24")
            guest = threads.submit(run_script, PRELUDE + NAMES + DATA + script, (), options, printed.extend)
            problem, say = "", "enough"
            try:
                happen(lab, printed, lambda: guest.done() or b" at line " in printed)
            except Exception as error:  # told together with what the guest says
                problem, say = repr(error), "stuck"
            finally:
                ring(bell, guest.done, say)
            outcome = guest.result()
    finally:
        lab.stop()
    answer.send((outcome.status, problem, outcome.output, outcome.trouble))


def test_the_kernels_clients_notice_nothing_of_what_happens_to_nodes(tmp_path: Path) -> None:
    for attempt in range(3):
        status, problem, said, trouble = played(tmp_path / f"{attempt}")
        if status == 0 or not linux_gave_up(said):
            break
    assert status == 0 and not problem, f"status {status} {problem}\n{said}\n{trouble}"
    assert said.count(" rounds") == len(WORKS), said


def played(data: Path) -> tuple[int, str, str, str]:
    """The guest's status, what went wrong with the faults, what the guest says, and its kernel's complaints."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=play, args=(data, theirs))
    process.start()
    theirs.close()
    try:
        answer: tuple[int, str, str, str] = ours.recv()
    except EOFError:
        raise AssertionError((data / "lab.log").read_text()[-3000:]) from None
    finally:
        process.join(60)
        process.kill()
    return answer
