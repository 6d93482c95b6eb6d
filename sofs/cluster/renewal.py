"""A node's certificate is replaced long before it ends, by the node itself: the authority lies in the store that it may read.

So is one that is not valid yet, as after the clock of the host was put right that had been ahead when it was made.
"""

from __future__ import annotations

from typing import Protocol

import structlog

from sofs.cluster import NodeId
from sofs.cluster.authority import RENEW_S, begins, expires
from sofs.cluster.founding import authority_of
from sofs.coordination import Store
from sofs.types import UNIX_EPOCH, Time

log = structlog.get_logger("cluster")


class Credentials(Protocol):
    """Where they are kept: `sofs.runtime.system_tls.Tls`."""

    @property
    def certificate(self) -> bytes: ...

    def store(self, authority: bytes, key: bytes, certificate: bytes) -> None: ...


async def renew_if_due(store: Store, credentials: Credentials, cluster: str, node: NodeId, now: Time) -> bool:
    """Whether there are new ones. Raises `ConfigError`, `Unavailable`."""
    seconds = (now - UNIX_EPOCH) / 10_000_000
    left = expires(credentials.certificate) - seconds
    if left > RENEW_S and begins(credentials.certificate) <= seconds:
        return False
    authority = await authority_of(store)
    issued = authority.issue(cluster, node, now)
    credentials.store(authority.certificate, issued.key, issued.certificate)
    log.info("cluster.certificate_renewed", days_left=int(left / 86_400))
    return True
