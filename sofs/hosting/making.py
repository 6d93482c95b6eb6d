"""A new volume: where its log goes, and its first records."""

from __future__ import annotations

from pathlib import Path

from sofs.coordination import Delete, Put, keys
from sofs.errors import Exists, InvalidArgument, NotFound, SofsError
from sofs.hosting.hosted import SYSTEM, Hosted
from sofs.hosting.opening import store_settings
from sofs.hosting.part import Part
from sofs.hosting.site import Site
from sofs.pool.members import DiskStatus
from sofs.pool.policy import Policy, parse_policy
from sofs.pool.states import WRITABLE
from sofs.records import ConfigurationRecord, ReplicaRecord, VolumeRecord
from sofs.volume.rebuild import remove_replica
from sofs.volume.recovery import make_store


def log_disks(disks: list[DiskStatus], policy: Policy, force: bool) -> list[DiskStatus]:
    """Where a new volume's log goes: as many disks as the policy tolerates failures, plus one; this node's before others', hosts without one
    before those with, ssd before hdd, roomy before full.

    Raises `InvalidArgument` when there are too few, unless forced (then the volume is degraded).
    """
    wanted = policy.tolerates + 1
    usable = [disk for disk in disks if disk.state in WRITABLE]
    usable.sort(key=lambda disk: (not disk.own, disk.tier != "ssd", -disk.usage.free))
    chosen: list[DiskStatus] = []
    while len(chosen) < wanted:
        taken = {disk.host for disk in chosen}
        left = [disk for disk in usable if disk not in chosen]
        elsewhere = [disk for disk in left if disk.host not in taken]
        options = elsewhere if elsewhere or policy.domain == "host" else left
        if not options:
            break
        chosen.append(options[0])
    if not chosen or (len(chosen) < wanted and not force):
        raise InvalidArgument(
            f"{policy.text} needs a log on {wanted} {policy.domain}s, and {len(chosen)} can be written: "
            "add disks, choose a weaker policy, or --force a degraded volume"
        )
    return chosen


async def make_volume_here(site: Site, name: str, pool_name: str, policy_text: str, force: bool) -> Part:
    """Makes, records and opens a volume, with the replicas of its log that belong on this node; it is in `site.making` until the caller has it.

    Raises `Exists`, `NotFound` (the pool), `InvalidArgument` (the policy).
    """
    if any(record.name == name for record in site.view.volumes.values()):
        raise Exists(f"volume {name} exists already")
    if not name or "/" in name:
        raise InvalidArgument(f"{name!r} cannot be a volume's name: it needs a character and no /")
    pool = site.disks.all.get(pool_name)
    if pool is None:
        raise NotFound(f"there is no pool {pool_name}; make it with: sofs disk add --pool {pool_name} PATH")
    policy = parse_policy(policy_text)
    if not force:
        pool.validate(policy)
    disks = [disk for disk in log_disks(pool.disks(), policy, force) if disk.own]
    if not disks:
        raise InvalidArgument(f"this node has no disk of pool {pool_name} that can be written; make the volume at a node that has")
    replicas = tuple(ReplicaRecord(id=site.random.number(63), disk=disk.id) for disk in disks)
    record = VolumeRecord(id=site.random.number(63), name=name, pool=pool_name, policy=policy.text, log_id=site.random.number(63), replicas=replicas)
    site.making.add(record.id)
    try:
        return await _make(site, record)
    except BaseException:
        site.making.discard(record.id)
        raise


async def _make(site: Site, record: VolumeRecord) -> Part:
    places = site.disks.places(record)
    await make_store(site.files, places, record.log_id, store_settings(site, places, record.name == SYSTEM))
    for place in places:
        # The names of the directories above are ours to make durable.
        logs = Path(place.path).parent
        site.files.sync_directory(str(logs))
        site.files.sync_directory(str(logs.parent))
    # The record comes last: a volume whose making was cut short is none, and leaves only unused directories.
    first = ConfigurationRecord(
        version=1, replicas=tuple(replica.id for replica in record.replicas), coordinator=site.node, incarnation=site.incarnation
    )
    await site.registry.change_configuration(record.id, first)
    part = Part(site, Hosted.of(record))
    await part.open_fresh(first)
    try:
        await site.registry.put(
            keys.volume_name(record.name), b"%016x" % record.id, Put(keys.volume(record.id), record.encode()), what=f"volume {record.name}"
        )
    except SofsError:
        await part.close()
        for place in places:
            remove_replica(site.files, place)
        await site.registry.store.transact([], [Delete(keys.configuration(record.id))])
        raise
    site.view.volumes[record.id] = record
    return part
