"""What clients do, and what they must find: one kind each.

Each is made for one volume, prepares what it needs there (`begin`), works until it is told to stop (`work`), and says at the end, when all faults are
over, whether what there is follows from what it was told (`verify`). What it is told meanwhile it checks at once.
"""

from tests.simulation.cluster.workloads.appends import Appends
from tests.simulation.cluster.workloads.base import Workload
from tests.simulation.cluster.workloads.locks import Locks
from tests.simulation.cluster.workloads.names import Names
from tests.simulation.cluster.workloads.ring import Ring
from tests.simulation.cluster.workloads.slots import Slots
from tests.simulation.cluster.workloads.trees import Trees

__all__ = ["WORKLOADS", "Workload"]

WORKLOADS: dict[str, type[Workload]] = {"appends": Appends, "locks": Locks, "names": Names, "ring": Ring, "slots": Slots, "trees": Trees}
