"""One log on several nodes, and nothing else: the production code of sofs.log, its coordinators and followers, on the simulated machines, wires and store
of `tests.simulation.cluster`, under every fault these have.

In reading order: `machine` (a state machine whose state says everything), `judge` (what must hold), `member` (what one node does: follows, takes
over, serves, takes newcomers in), `faults`, `group` (all of them, their clients, one seed's life), `mutations` (broken variants, each of which must
be found out), `soak`.
"""
