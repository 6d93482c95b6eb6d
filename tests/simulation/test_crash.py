"""Five hundred crashes in simulation. More, and a replay of one: `python -m tests.simulation.crash`."""

import pytest

from tests.simulation import crash

SCENARIOS = 100
PIECES = 10


@pytest.mark.parametrize("piece", range(PIECES))
@pytest.mark.parametrize("layer", sorted(crash.SCENARIOS))
def test_no_crash_breaks_a_promise(layer: str, piece: int) -> None:
    for seed in range(1 + piece, 1 + SCENARIOS, PIECES):
        try:
            crash.run(layer, seed)
        except Exception as error:
            raise AssertionError(crash.replay(layer, seed)) from error
