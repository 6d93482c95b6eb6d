"""How a volume is, in words for operators."""

from __future__ import annotations

from sofs.errors import PeerError, SofsError, Unavailable
from sofs.hosting.asking import ask
from sofs.hosting.messages import Describe, Described, ReplicaState, decode_described
from sofs.hosting.part import Part
from sofs.hosting.site import Site
from sofs.volume.api import Binding, Caller, GetSpace, SpaceReply

ANSWER_S = 2.0


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
    total = free = files = 0
    if part.serving and part.hosted.volume is not None:
        space = part.hosted.volume.call(GetSpace(Caller(0, 0, privileged=True)), None, Binding(site.incarnation, 0))
        if isinstance(space, SpaceReply):
            total, free, files = space.total, space.free, space.inodes
    return Described(state, reason, store.log.version, states, total, free, files, part.hosted.figures())


async def describe_anywhere(site: Site, part: Part) -> Described:
    """As its coordinator sees it; where there is none, or it does not answer, why that is."""
    if part.hosted.store is not None:
        return describe(site, part)
    configuration, reason = part.configuration, part.reason or part.hosted.reason
    if configuration is None or site.interconnect is None:
        return _unknown(part, "failed", reason)
    if configuration.coordinator not in (0, site.node):
        try:
            answer = await ask(site, configuration.coordinator, Describe(part.hosted.record.id), deadline_s=ANSWER_S)
            return decode_described(bytes(answer.body))
        except (SofsError, PeerError) as error:
            member = site.view.members.get(configuration.coordinator)
            name = member.name if member else f"{configuration.coordinator:016x}"
            reason = f"node {name}, which coordinated it last, does not: {error}"
    return _unknown(part, "waiting", reason)


def _unknown(part: Part, state: str, reason: str) -> Described:
    wrong = "; ".join(part.problems.values())
    if wrong and wrong not in reason:
        reason = f"{reason} (here: {wrong})"
    version = part.configuration.version if part.configuration is not None else 0
    return Described(state, reason, version, [], 0, 0, 0, {})
