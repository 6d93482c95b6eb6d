"""How a volume is, in words for operators."""

from __future__ import annotations

from sofs.errors import Unavailable
from sofs.hosting.messages import Described, ReplicaState
from sofs.hosting.part import Part
from sofs.hosting.site import Site

__all__ = ["describe"]


def describe(site: Site, part: Part | None) -> Described:
    """As its coordinator, this node, sees it. Raises `Unavailable` if it does not serve it."""
    store = None if part is None else part.hosted.store
    if part is None or store is None:
        raise Unavailable("the volume is not served by this node")
    counted = store.log.replica_ids
    remotes = {remote.id: remote for remote in store.log.remotes}
    learning = {remote.id for remote in store.log.remotes.learning}
    states = []
    for replica in part.hosted.record.replicas:
        node = part.node_of(replica.id)
        member = site.view.members.get(node or 0)
        name = member.name if member else site.name if node == site.node else "?"
        remote = remotes.get(replica.id)
        reason = remote.reason if remote is not None else ""
        if replica.id in learning:
            reason = f"it is being brought up to date{': ' + reason if reason else ''}"
        elif replica.id not in counted:
            reason = reason or "it has been left out, and is not back yet"
        states.append(ReplicaState(replica.id, name, replica.disk, replica.id in counted, reason))
    state, reason = part.hosted.state
    return Described(state, reason, store.log.version, states)
