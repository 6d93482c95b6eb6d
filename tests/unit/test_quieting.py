"""Floods of log lines are counted instead of written."""

import structlog

from sofs.quieting import MOST, WINDOW_S, Quieting


def test_beyond_so_many_lines_of_a_kind_they_are_counted() -> None:
    now = 5.0
    quieting = Quieting(lambda: now)

    def written(event: str) -> dict[str, object] | None:
        try:
            return dict(quieting(None, "info", {"event": event}))
        except structlog.DropEvent:
            return None

    assert all(written("logon_failed") == {"event": "logon_failed"} for _ in range(MOST))
    assert [written("logon_failed") for _ in range(7)] == [None] * 7
    assert written("session_ended") == {"event": "session_ended"}, "others are written"
    now += WINDOW_S
    assert written("logon_failed") == {"event": "logon_failed", "left_out": 7}
    assert written("logon_failed") == {"event": "logon_failed"}
    now += 3 * WINDOW_S
    assert written("logon_failed") == {"event": "logon_failed"}


def test_an_event_that_is_no_text_is_no_matter() -> None:
    quieting = Quieting(lambda: 0.0)
    assert quieting(None, "info", {}) == {}
