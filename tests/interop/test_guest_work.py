"""Work in the background of a guest's script: who follows it hears at once that it has failed. In a shell of this host, since the shell is tried."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.interop.guest_work import DATA, NAMES
from tests.interop.kernel import PRELUDE, gave_up_a_write


def said_by(script: str) -> str:
    """What a script says whose commands of the guest are the functions given; its kernel's log has one line."""
    log = 'dmesg() { echo "CIFS: VFS: \\\\\\\\10.0.0.1 Error -32 sending data on socket to server"; }\n'
    return subprocess.run(["bash", "-c", PRELUDE + log + NAMES + DATA + script], capture_output=True, text=True, timeout=20).stdout


def test_work_that_returns_a_failure_says_so() -> None:
    said = said_by('fio() { echo "fio: Software caused connection abort" >&2; return 1; }\nbegin data 3 /nowhere; wait $pid\necho "went on"\n')
    assert " at line " in said and "went on" not in said, said
    assert gave_up_a_write(said), said


def test_work_whose_step_fails_says_so(tmp_path: Path) -> None:
    said = said_by(f'mkdir() {{ true; }}\nbegin names 1 {tmp_path}; wait $pid\necho "went on"\n')
    assert " at line " in said and "went on" not in said, said


def test_an_aborted_connection_alone_is_not_a_write_given_up() -> None:
    assert not gave_up_a_write("fio: Software caused connection abort")
    assert not gave_up_a_write("CIFS: VFS: \\\\10.0.0.1 Error -32 sending data on socket to server")
