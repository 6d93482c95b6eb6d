"""`make crash`: a node is killed again and again under verifying writers of both protocols.

    python -m tests.interop.crash --kills 200 [--seed N] [--data DIR]

Each round: start the node, let two writers per protocol work, kill -9 at a random moment, start again, read every writer's directory
through the *other* protocol and compare with what was acknowledged, and run `sofs check` (with all data every tenth round). The
last line counts what was lost or wrong, and the exit status is 0 only when nothing was.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from sofs.admin.api import CheckRequest
from tests.interop.directories import NfsDirectory, SmbDirectory
from tests.interop.ledger import ConnectionLost, Ledger
from tests.interop.running import RunningNode

WRITERS_EACH = 2
FULL_CHECK_EVERY = 10
SHORTEST_S, LONGEST_S = 0.05, 1.0
PROTOCOLS = {"smb": SmbDirectory, "nfs": NfsDirectory}
OTHER = {"smb": "nfs", "nfs": "smb"}


@dataclass
class Writer:
    """One client and its ledger."""

    protocol: str
    name: str
    ledger: Ledger
    failure: BaseException | None = None

    def run(self, node: RunningNode, started: threading.Barrier) -> None:
        """Change files until the node goes away."""
        try:
            directory = PROTOCOLS[self.protocol](getattr(node, self.protocol), self.name)
            started.wait()
            while True:
                self.ledger.step(directory)
        except ConnectionLost:
            pass
        except BaseException as failure:  # shown by the main thread, which goes on to compare
            self.failure = failure

    def look(self, node: RunningNode, protocol: str) -> dict[str, bytes]:
        directory = PROTOCOLS[protocol](getattr(node, protocol), self.name)
        try:
            return directory.read_all()
        finally:
            directory.close()


@dataclass
class Score:
    kills: int = 0
    lost: int = 0
    wrong: int = 0
    acknowledged: int = 0
    in_flight: int = 0
    happened: int = 0
    messages: list[str] = field(default_factory=list)

    def complain(self, text: str) -> None:
        self.messages.append(text)
        print(text, flush=True)


def round_of(node: RunningNode, writers: list[Writer], chance: random.Random, score: Score, full: bool) -> None:
    """One kill, with all that is looked at before and after. The node is running at the start and at the end."""
    started = threading.Barrier(len(writers) + 1)
    threads = [threading.Thread(target=writer.run, args=(node, started)) for writer in writers]
    for thread in threads:
        thread.start()
    started.wait(60)
    time.sleep(chance.uniform(SHORTEST_S, LONGEST_S))
    node.kill()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive(), "a writer did not notice that the node was gone"
    score.kills += 1
    node.start()
    for writer in writers:
        if writer.failure is not None:
            score.wrong += 1
            score.complain(f"kill {score.kills}: {writer.protocol} {writer.name}: {writer.failure!r}")
            writer.failure = None
        verdict = writer.ledger.verify(writer.look(node, OTHER[writer.protocol]))
        score.lost += len(verdict.lost)
        score.wrong += len(verdict.wrong)
        score.in_flight += verdict.in_flight
        score.happened += verdict.happened
        if verdict.lost or verdict.wrong:
            score.complain(f"kill {score.kills}: {writer.name}: lost {verdict.lost}, wrong {verdict.wrong}")
    steps = list(node.admin.check(CheckRequest(data=full)))
    for problem in steps[-1].problems:
        score.wrong += 1
        score.complain(f"kill {score.kills}: check: {problem}")


def crash(data: Path, kills: int, seed: int) -> Score:
    """All rounds."""
    chance = random.Random(seed)
    score = Score()
    writers = [
        Writer(protocol, f"{protocol}-{number}", Ledger(random.Random(chance.getrandbits(64))))
        for protocol in PROTOCOLS
        for number in range(WRITERS_EACH)
    ]
    node = RunningNode(data)
    with node:
        for number in range(1, kills + 1):
            round_of(node, writers, chance, score, full=number % FULL_CHECK_EVERY == 0 or number == kills)
            if number % 10 == 0:
                print(f"{number} kills, {score.lost} lost, {score.wrong} wrong so far", flush=True)
    score.acknowledged = sum(writer.ledger.acknowledged for writer in writers)
    return score


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--data", type=Path, help="where the node lives; kept when something is wrong")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sofs-crash-") as scratch:
        score = crash(arguments.data or Path(scratch) / "data", arguments.kills, arguments.seed)
    print(f"{score.acknowledged} changes acknowledged; {score.in_flight} under way at a kill, {score.happened} of them took effect")
    print(f"crash: {score.kills} kills, {score.lost} lost, {score.wrong} wrong")
    return 1 if score.lost or score.wrong else 0


if __name__ == "__main__":
    # The environment's bin directory must not come first: see tests/conftest.py.
    sys.exit(main())
