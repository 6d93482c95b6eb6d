"""What operators ask of a node, carried out: `sofs.admin.api.Operations`.

`node` puts all of it together: pools, volumes, shares, users and opens. `disks`, `snapshots`, `quotas`, `cluster`, `nodes` and `check` are its larger parts;
`asking` is how a node makes requests of its own volumes. How the questions arrive is `sofs/admin`'s business.
"""

from sofs.operations.node import NodeOperations

__all__ = ["NodeOperations"]
