"""The pools and volumes that this node hosts: opened from their records, made on request, closed in order.

A disk, pool or volume that cannot be opened does not keep the others from being served: it is shown with its state and the reason. Nothing here
knows of gateways or commands.

In reading order: `hosted` (one volume, as this node has it), `pools` (disks and pools), `making` (a new volume), `view` (what the
coordination store said last), `roles` (what to do about a volume, decided), `host` (all of it).
"""

from sofs.hosting.host import Host
from sofs.hosting.hosted import SYSTEM, Hosted

__all__ = ["SYSTEM", "Host", "Hosted"]
