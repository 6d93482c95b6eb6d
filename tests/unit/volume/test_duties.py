"""Background duties that end by a bug."""

import asyncio

from structlog.testing import capture_logs

from tests.unit.volume.rig import Rig
from tests.unit.volume.test_data import run


def test_a_duty_that_a_bug_has_ended_is_told_of_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        async def bug(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a bug")

        rig.data.cleaner.give_back = bug  # type: ignore[assignment, method-assign]
        rig.store.checkpoints.run = bug  # type: ignore[method-assign]
        with capture_logs() as events:
            rig.data.start()
            rig.store.start()
            await asyncio.sleep(1)
        assert sorted(event["duty"] for event in events if event["event"] == "duty_ended") == ["checkpoints", "cleaning"]

    run(scenario)
