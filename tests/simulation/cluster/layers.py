"""What `make soak` runs: by name, the shapes of clusters that seeds choose from."""

from collections.abc import Callable

from tests.simulation.cluster.scenario import Outcome, Shape, run_seed

__all__ = ["LAYERS"]

ACROSS = ("mirror(2) across host",)


def _layer(shape: Shape) -> Callable[[int, bool], Outcome]:
    return lambda seed, loud: run_seed(seed, shape, loud)


LAYERS: dict[str, Callable[[int, bool], Outcome]] = {
    "calm": _layer(Shape(nodes=(2, 3), policies=ACROSS, disks=1, faults=())),
    "hosts": _layer(Shape(nodes=(3, 5), policies=ACROSS, disks=1, volumes=2)),
    "members": _layer(
        Shape(nodes=(3, 4), policies=ACROSS, disks=1, faults=("drain", "evict", "join", "kill", "leave", "move", "stop"), duration=60.0)
    ),
    "partitions": _layer(
        Shape(
            nodes=(2, 4),
            policies=ACROSS,
            disks=1,
            faults=("cut-off", "cut-pair", "flapping", "kill", "lose-connections", "one-way", "pause", "slow-wire"),
        )
    ),
    "forgetful": _layer(Shape(nodes=(2, 4), policies=ACROSS, disks=1, faults=("forgetful", "lose-connections", "move"))),
    "late": _layer(Shape(nodes=(2, 4), policies=ACROSS, disks=1, faults=("deposed", "kill", "late-watch", "lose-connections", "move"))),
    "forwarding": _layer(Shape(nodes=(2, 3), policies=ACROSS, disks=1, faults=("flapping", "lose-connections", "move", "slow-wire"))),
    "store": _layer(Shape(nodes=(2, 3), policies=ACROSS, disks=1, faults=("kill", "move", "pause", "store-outage", "store-trouble"))),
    "kill": _layer(Shape(nodes=(2, 3), policies=ACROSS, disks=1, faults=("kill",))),
    "power": _layer(
        Shape(nodes=(2, 4), policies=ACROSS, disks=1, faults=("blackout", "disk-slow", "kill", "power-loss", "power-loss-of-all"), duration=40.0)
    ),
    "node": _layer(Shape(faults=("kill", "kill-all", "kill-at-step", "pause", "power-loss-of-all"))),
}
"""Each runs one seed, and raises what it found wrong."""
