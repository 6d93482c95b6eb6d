"""What the gateways call: a volume's requests, replies and upcalls.

Local and remote volumes look alike: a request is a value that can be forwarded. Both protocols use the same requests, so what one
promises binds the other. Rights are NT access masks (MS-DTYP 2.4.3), whose file bits NFSv4 shares (RFC 8881 6.2.1.3.1).

Names are bytes: UTF-8, with lone surrogates as WTF-8 for those Windows names that have them; one component
each, never empty, `.` or `..`, without `/` and NUL. Offsets and lengths are bytes. Times are `sofs.types.Time`.

A reply (and a `SofsError`) carries its gate: the position in the log on which it rests. A gateway captures the content of
its answer, then hands `Volume.when(gate, level, send)`; nothing is told before. `level` is the protocol's
choice (DESIGN section 6: NFS metadata and everything on a continuously available share at STABLE, other SMB operations at COMMITTED).

In reading order: `values` (what requests and replies are made of), `interface` (`Volume`, tokens, upcalls); then the requests: `names`, `attributes`, `opens`,
`locks`, `clients`, `data`, `watching`, `reparse`, `snapshots`, `quotas`.
"""

from sofs.volume.api.attributes import *
from sofs.volume.api.clients import *
from sofs.volume.api.data import *
from sofs.volume.api.interface import *
from sofs.volume.api.locks import *
from sofs.volume.api.names import *
from sofs.volume.api.opens import *
from sofs.volume.api.quotas import *
from sofs.volume.api.reparse import *
from sofs.volume.api.snapshots import *
from sofs.volume.api.values import *
from sofs.volume.api.watching import *
