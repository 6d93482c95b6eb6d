"""Which replica is to take a volume over, as far as memory goes: what those on other nodes say of themselves, and for how long they are waited for.

One with unbroken memory has everything that was acknowledged, and asks nobody.
"""

from __future__ import annotations

import asyncio

from sofs.cluster import NodeId
from sofs.errors import SofsError
from sofs.hosting.asking import node_of
from sofs.hosting.hosted import Hosted
from sofs.hosting.roles import Candidate, may_lead
from sofs.hosting.site import Site
from sofs.records import ConfigurationRecord
from sofs.volume.standby import Standby

PATIENCE_S = 15.0
"""For so long a replica with broken memory waits for others to say what they have. Whatever was stable, it has itself."""


def fitness(standby: Standby) -> tuple[bool, bool, int, int, int]:
    """How well a replica of this node is fit to lead: unbroken memory first, then the longest log."""
    follower = standby.follower
    return follower.settled, follower.whole or standby.clean, follower.end.version, follower.end.lsn, standby.id


class Candidates:
    """Those of one volume on other nodes."""

    def __init__(self, site: Site, hosted: Hosted) -> None:
        self._site = site
        self._hosted = hosted
        self._since: float | None = None
        """When somebody was waited for first."""

    def forget(self) -> None:
        """There is nothing to wait for now."""
        self._since = None

    async def waits_for(self, configuration: ConfigurationRecord, lead: Standby) -> str:
        """For whom a replica with broken memory waits before it takes over; nothing if for nobody any more."""
        now = self._site.clock.monotonic()
        self._since = self._since or now
        others, silent = await self.ask(configuration)
        if now - self._since >= PATIENCE_S:
            silent = []
        status = lead.follower.status
        best = Candidate(lead.id, False, status.end.version, status.end.lsn)
        if may_lead(best, others, len(silent)):
            return ""
        if silent:
            return f"this copy may lack what was written last, and {', '.join(silent)} may have it: waiting for them"
        return "another node has a better copy of its log, and is to serve it"

    async def ask(self, configuration: ConfigurationRecord) -> tuple[list[Candidate], list[str]]:
        """What the replicas on other nodes say of themselves, and the names of nodes that say nothing."""
        site = self._site
        assert site.logs is not None
        found: list[Candidate] = []
        silent: list[str] = []
        places = [(id, node_of(site, self._hosted, id)) for id in configuration.replicas]
        asked = [(id, node) for id, node in places if node not in (None, site.node)]
        calls = [site.logs.status(NodeId(node or 0), id) for id, node in asked]
        for (id, node), status in zip(asked, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if isinstance(status, SofsError):
                member = site.view.members.get(node or 0)
                silent.append(f"node {member.name}" if member else f"node {node:016x}")
            elif isinstance(status, BaseException):
                raise status
            else:
                found.append(Candidate(id, status.whole, status.end.version, status.end.lsn))
        return found, silent
