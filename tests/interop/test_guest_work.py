"""Work in the background of a guest's script: who follows it hears at once that it has failed. In a shell of this host, since the shell is tried."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.interop.guest_work import DATA, NAMES
from tests.interop.kernel import PRELUDE, linux_gave_up


def said_by(script: str) -> str:
    """What a script says whose commands of the guest are the functions given; its kernel's log has one line."""
    log = 'dmesg() { echo "CIFS: VFS: \\\\\\\\10.0.0.1 Error -32 sending data on socket to server"; }\n'
    return subprocess.run(["bash", "-c", PRELUDE + log + NAMES + DATA + script], capture_output=True, text=True, timeout=20).stdout


def test_work_that_returns_a_failure_says_so() -> None:
    said = said_by('fio() { echo "fio: Software caused connection abort" >&2; return 1; }\nbegin data 3 /nowhere; wait $pid\necho "went on"\n')
    assert " at line " in said and "went on" not in said, said
    assert linux_gave_up(said), said


def test_work_whose_step_fails_says_so(tmp_path: Path) -> None:
    said = said_by(f'mkdir() {{ true; }}\nbegin names 1 {tmp_path}; wait $pid\necho "went on"\n')
    assert " at line " in said and "went on" not in said, said


def test_only_what_linux_gave_up_by_itself_counts_as_that() -> None:
    assert not linux_gave_up("fio: Software caused connection abort")
    assert not linux_gave_up("CIFS: VFS: \\\\10.0.0.1 Error -32 sending data on socket to server")
    opened = "fio: pid=398, err=11/file:filesetup.c:805, func=open(/c/under/data5), error=Resource temporarily unavailable\n"
    assert linux_gave_up(opened + "answers that mean EAGAIN: 0\n")
    assert linux_gave_up("cp: cannot open '/c/under/data5' for reading: Resource temporarily unavailable\nanswers that mean EAGAIN: 0\n")
    assert linux_gave_up("fio: pid=0, err=11/file:filesetup.c:174, func=open, error=Resource temporarily unavailable\nanswers that mean EAGAIN: 0\n")
    assert not linux_gave_up(opened + "answers that mean EAGAIN: 1\n"), "the server said so"
    assert not linux_gave_up(opened), "who knows"
    assert not linux_gave_up(opened.replace("/c/", "/a/") + "answers that mean EAGAIN: 0\n"), "NFS has no such outcome"
