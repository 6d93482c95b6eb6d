"""The pools and volumes that this node hosts: opened from their records, made on request, closed in order.

A disk, pool or volume that cannot be opened does not keep the others from being served: it is shown with its state and the reason. Nothing here
knows of gateways or commands.

In a cluster every node knows of every volume, and plays a part in those that have a replica of their log on one of its disks: one node coordinates, the
others follow. Which part it is to play follows from the records of the coordination store, which may be away at any time: then everything goes on as it is.

In reading order: `hosted` (one volume, as this node has it), `view` (what the store said last), `site` (what the volumes of a node share), `pools` (disks and
pools), `roles` (what to do about a volume: the decision), `candidates` (whose memory is good enough), `opening` and `part` (its execution), `making` (a
new volume), `moving` (planned moves), `recruiting` and `redundancy` (as many copies as the policy asks for), `messages`, `asking` and `services` (what nodes
ask of each other), `describing` (in words for operators), `recovering` (what the logs know when the store is lost), `host` (all of it).
"""

from sofs.hosting.host import Host
from sofs.hosting.hosted import SYSTEM, Hosted

__all__ = ["SYSTEM", "Host", "Hosted"]
