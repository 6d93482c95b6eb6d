"""Virtual addresses: where clients find the cluster, whichever node is there.

    vips/<address>           what an operator wants of it (`records.VipRecord`)
    vips/<address>/holder    which incarnation of which node has it now (`records.HolderRecord`), under that node's lease
    keepers/<node id>        who takes addresses on (`records.KeeperRecord`), under the same lease

`records` says what these hold, and `known` what this node has heard of them. `placing` decides where each address belongs, from values to values;
`Vips` in `manager` acts on it: it claims what nobody holds by compare-and-set, and lets go of what belongs elsewhere. `keeping` keeps the lease, `lasting`
counts how long what is held may be kept, and `here` is what is set on this host. `callers` knows whose connections an address leaves behind when it moves.

What an address promises is that at most one node has it. A holder has the kernel keep it only as long as its lease surely lasts, so that a process
which is stopped, or whose host is cut off, loses it by itself before anybody else may claim it. A holder that is known to be dead is not waited for: its
supervisor takes the addresses away before it records the death (`DATA/vips` says which they are).

The lease is 3 s and kept twice a second, so a silent node's addresses are elsewhere 2.5 to 4 s after it was heard of last (etcd looks for leases that
have ended twice a second). The kernel knows whole seconds only and may be a quarter late, so what it is told is always a little less than what is left;
when a lease is kept late, an address can be missing for a moment, which connections outlast. Whether the store lives is known after 0.75 s without an
answer.

**While the store is down** no lease can be kept, yet clients must notice nothing. No other node can claim anything either then; but a node cannot tell a
store that is down from one that it alone has lost. So it asks all other members, and each of them that cannot reach the store either promises to claim
none of its addresses for a while: with everybody's promise, the holder keeps them for that long. One that does not answer may have the store on its
side, and the addresses lapse. Members that are known to be dead are not asked, unless the interconnect has heard of a newer process there. (One that
came back where only it reaches the store, and not this node, would be missed: an address would be at two places for a while, which costs connections,
never data.)

Addresses in 127.0.0.0/8 are every host's own: nothing is configured for them, the holder only listens there. So a lab without rights has virtual
addresses, too.
"""

from sofs.cluster.vips.here import Addresses, Doorkeeper
from sofs.cluster.vips.known import Facts
from sofs.cluster.vips.manager import Vips
from sofs.cluster.vips.placing import Vip, place
from sofs.cluster.vips.records import HolderRecord, VipRecord

__all__ = ["Addresses", "Doorkeeper", "Facts", "HolderRecord", "Vip", "VipRecord", "Vips", "place"]
