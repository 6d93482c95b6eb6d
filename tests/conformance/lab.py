"""`sofs lab` with nodes as the suites want them: `lab.py LEASE_S SOFSD ARGUMENTS` runs `sofs lab ARGUMENTS`, whose nodes give NFS leases of that
time, and whose processes are of the program SOFSD (empty: as ever)."""

from __future__ import annotations

import sys
from pathlib import Path

from sofs.cli import main
from sofs.config import load
from sofs.lab import setup
from sofs.lab.plan import Machine, Plan

_write_config, _program = setup.write_config, setup.program


def write_config(plan: Plan, machine: Machine, data: Path) -> None:
    _write_config(plan, machine, data)
    path = setup.config_path(data)
    text = path.read_text()
    path.write_text(text.replace(f"\nlease_s = {load(path).nfs.lease_s}\n", f"\nlease_s = {LEASE_S}\n"))
    assert load(path).nfs.lease_s == LEASE_S


def program(name: str) -> str:
    return SOFSD if name == "sofsd" and SOFSD else _program(name)


if __name__ == "__main__":
    LEASE_S, SOFSD = float(sys.argv[1]), sys.argv[2]
    setup.write_config, setup.program = write_config, program
    sys.path.pop(0)  # this directory: what is imported later is not meant to be found here
    sys.argv[:3] = ["sofs", "lab"]
    main()
