"""`python -m tests.failover --rounds N [--writers 4] [--nodes 4] [--only WORD] [--plain] [--seed S] [--data DIR]`; as root."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.failover import GIVE_UP_S, REPLY_S
from tests.failover.faults import FAULTS
from tests.failover.harness import Harness, report
from tests.failover.laboratory import Laboratory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of each fault")
    parser.add_argument("--writers", type=int, default=4, help="for each protocol")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--only", default="", help="faults whose name has this in it, or one of several such words with commas between them")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--plain", action="store_true", help="without file systems of the lab's own: nothing can lose power")
    parser.add_argument("--data", type=Path, help="where the lab lives; kept")
    arguments = parser.parse_args()
    images = not arguments.plain and shutil.which("mkfs.xfs") is not None
    faults = [fault for fault in FAULTS if any(word in fault.name for word in arguments.only.split(",")) and (images or not fault.power)]
    if not images:
        print("no loss of power: " + ("as asked" if arguments.plain else "it needs mkfs.xfs (apt-get install xfsprogs)"))
    print(f"seed {arguments.seed}; a request is sent again after {REPLY_S:.0f} s, and given up after {GIVE_UP_S:.0f} s", flush=True)
    with contextlib.ExitStack() as scratch:
        data = arguments.data or Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="sofs-failover-"))) / "lab"
        lab = Laboratory(data, arguments.nodes, images=images)
        try:
            lab.start()
            lab.enter()
            harness = Harness(lab, arguments.writers, arguments.seed)
            score = asyncio.run(harness.run(faults, arguments.rounds))
        finally:
            lab.stop()
    report(score, faults)
    return 1 if score.lost or score.wrong or score.errors else 0


if __name__ == "__main__":
    sys.exit(main())
