"""What of the suites is quick enough for every test run: nothing may fail that is not a known miss, and the node must live through it.

`make conformance` runs them whole.
"""

import re
from pathlib import Path

import pytest

from tests.conformance import forwarded
from tests.conformance.__main__ import Runner, conform
from tests.conformance.pike import Pike
from tests.conformance.pynfs import Pynfs
from tests.conformance.smbtorture import Smbtorture

SLICES = {
    "smbtorture": re.compile(
        r"smb2\.(scan|getinfo|lock|read|create|fileid|acls|notify|dir|compound|compound_find|streams|ioctl|rename|credits|rw|deny|delete-on-close-perms"
        r"|sharemode|connect|setinfo|charset|check-sharemode|openattr|winattr|sdread|tcon|mkdir|set-sparse-ioctl|zero-data-ioctl"
        r"|durable-open|durable-v2-open|session)"
    ),
    "pike": re.compile(
        r"acl|appinstanceid|changenotify|compound|echo|encryption|invalid_\w+|ioctl|lease|lock|multichannel|negotiate|oplock"
        r"|query\w*|readwrite|reparse|session|set|tree"
    ),
    "pynfs41": re.compile(r"st_(exchange_id|create_session|sequence|destroy_\w+|open|lookup|putfh|rename|compound|current_stateid)"),
}
SLOW = frozenset({"smb2.notify.mask"})
"""Waits 80 s altogether."""
RUNNERS: tuple[Runner, ...] = (Smbtorture(without=SLOW), Pike(), Pynfs("4.1"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("runner", RUNNERS, ids=lambda runner: runner.name)
def test_nothing_fails_but_the_known_misses(runner: Runner, tmp_path: Path) -> None:
    if runner.name.startswith("pynfs") and (reason := runner.missing()) is not None:
        pytest.skip(reason)
    assert runner.missing() is None
    assert conform(runner, SLICES[runner.name], tmp_path) == {}


@pytest.mark.timeout(600)
def test_nor_does_anything_more_where_another_node_coordinates_the_volume(tmp_path: Path) -> None:
    elsewhere = re.compile(r"smb2\.(getinfo|lock|read|create|streams|rename|sharemode|setinfo|rw|durable-v2-open)")
    assert conform(Smbtorture(), elsewhere, tmp_path, serving=forwarded.serving) == {}
