"""A new volume: where its log goes, and its first records."""

from __future__ import annotations

from sofs.errors import InvalidArgument
from sofs.pool.members import DiskStatus
from sofs.pool.policy import Policy
from sofs.pool.states import WRITABLE

__all__ = ["log_disks"]


def log_disks(disks: list[DiskStatus], policy: Policy, force: bool) -> list[DiskStatus]:
    """Where a new volume's log goes: as many disks as the policy tolerates failures, plus one; ssd before hdd, roomy before full.

    Raises `InvalidArgument` when there are too few, unless forced (then the volume is degraded).
    """
    wanted = policy.tolerates + 1
    usable = [disk for disk in disks if disk.state in WRITABLE]
    usable.sort(key=lambda disk: (disk.tier != "ssd", -disk.usage.free))
    chosen: list[DiskStatus] = []
    for disk in usable:
        taken = {other.host for other in chosen}
        if len(chosen) < wanted and not (policy.domain == "host" and disk.host in taken):
            chosen.append(disk)
    if not chosen or (len(chosen) < wanted and not force):
        raise InvalidArgument(
            f"{policy.text} needs a log on {wanted} {policy.domain}s, and {len(chosen)} can be written: "
            "add disks, choose a weaker policy, or --force a degraded volume"
        )
    return chosen
