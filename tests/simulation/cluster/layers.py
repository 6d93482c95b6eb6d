"""What `make soak` runs: by name, the shapes of clusters that seeds choose from."""

from collections.abc import Callable

from tests.simulation.cluster.scenario import Outcome, Shape, run_seed

__all__ = ["LAYERS"]


def _layer(shape: Shape) -> Callable[[int, bool], Outcome]:
    return lambda seed, loud: run_seed(seed, shape, loud)


LAYERS: dict[str, Callable[[int, bool], Outcome]] = {
    "node": _layer(Shape(faults=("kill", "kill-all", "kill-at-step", "pause", "power-loss-of-all"))),
}
"""Each runs one seed, and raises what it found wrong."""
