"""How outcomes are read, compared with the peer's and judged."""

from tests.conformance import results as outcomes
from tests.conformance.results import compare, recovered, tally, unexpected
from tests.conformance.smbtorture import collapse, read

PRINTED = """\
time: 2026-11-20 15:00:00
test: smb2.a.one
success: smb2.a.one
test: smb2.a.two
failure: smb2.a.two [
(file.c:1) Incorrect status
]
test: smb2.a.three
skip: smb2.a.three
"""


def test_a_run_that_was_cut_short_tells_where_it_stood() -> None:
    assert read(PRINTED) == ({"smb2.a.one": "success", "smb2.a.two": "failure", "smb2.a.three": "skip"}, None)
    assert read(PRINTED + "test: smb2.a.four\n").flying == "smb2.a.four"
    assert collapse("smb2.read.eof.eof") == "smb2.read.eof"


def test_a_failure_that_is_no_known_miss_is_told_and_a_miss_that_passes_too() -> None:
    ours = {"g": {"a": "success", "b": "failure", "c": "timeout", "d": "skip"}}
    known = {"g": {"a": "it used to fail", "b": "a reason"}}
    assert unexpected(ours, known) == {"g": {"c": "timeout"}}
    assert recovered(ours, known) == ["a"]
    assert (tally(ours).passed, tally(ours).failed, tally(ours).skipped, tally(ours).total) == (1, 2, 1, 4)


def test_what_only_one_of_two_has_passed_is_told_apart() -> None:
    ours = {"g": {"a": "success", "b": "failure", "c": "success", "d": "failure"}}
    peer = {"g": {"a": "success", "b": "success", "d": "skip"}, "not run": {"z": "success"}}
    made = compare(ours, peer)
    assert (made.both, made.neither) == (1, 1)
    assert made.lacking == [("b", "failure", "success")] and made.ahead == [("c", "success", "absent")]


def test_every_known_miss_has_a_reason() -> None:
    for path in (outcomes.HERE / "misses").glob("*.toml"):
        for group, tests in outcomes.misses(path.stem).items():
            assert tests and all(reason.strip() for reason in tests.values()), (path.name, group)
