"""Samba's smbclient as a function."""

from __future__ import annotations

import subprocess

from tests.interop.running import PASSWORD, USER, RunningNode


def smbclient(
    node: RunningNode,
    *commands: str,
    options: tuple[str, ...] = (),
    user: str = USER,
    password: str = PASSWORD,
    share: str | None = None,
    check: bool = True,
    timeout: float = 240,
) -> str:
    """Run the commands in one session; what it printed. With `check`, any error of it fails the test."""
    outcome = subprocess.run(
        [
            *("smbclient", f"//{node.smb.host}/{share or node.smb.share}", "-p", str(node.smb.port)),
            *("-U", f"{user}%{password}", "-m", "SMB3_11", *options, "-c", "; ".join(commands)),
        ],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    printed = outcome.stdout + outcome.stderr
    if check:
        assert outcome.returncode == 0 and "NT_STATUS_" not in printed, f"{commands}: {printed}\n{node.tail()}"
    return printed
