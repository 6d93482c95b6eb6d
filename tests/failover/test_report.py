"""What the harness counts and reports."""

from __future__ import annotations

from tests.failover.faults import FAULTS
from tests.failover.harness import Score, replays, report


def test_counts_of_processes_that_were_started_anew_begin_at_nothing() -> None:
    before = {("n1", 10, "nfs"): 5, ("n2", 11, "nfs"): 7, ("n3", 12, "volume default"): 9}
    after = {("n1", 10, "nfs"): 8, ("n2", 40, "nfs"): 2, ("n3", 12, "volume default"): 1}
    assert replays(before, after) == 3 + 2 + 1
    assert replays(after, after) == 0


def test_the_report_has_a_line_for_each_fault_that_was_played_and_ends_with_the_sum() -> None:
    score = Score(rounds=2, lost=0, wrong=0, errors=1, acknowledged=70, resent=4)
    name = FAULTS[0].name
    score.pauses[name], score.played[name], score.caught[name], score.replays[name], score.took[name] = [0.1, 0.9], 2, 1, 3, 22.0
    lines: list[str] = []
    report(score, FAULTS, lines.append)
    assert len(lines) == 4
    assert lines[1].removeprefix(name).split() == ["2", "1", "3", "0.90", "0.90", "0.90", "1", "s", "11.0", "s"]
    assert lines[-1] == "failover: 2 rounds, 0 lost, 0 wrong, 1 errors, pause p50 0.90 s p99 0.90 s"
