"""What an operator asks of the node, answered: `sofs.admin.api.Operations` over the records, the host and the doors.

Changes go to the coordination store first; what the node serves follows from there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from importlib.metadata import version

import msgspec

from gateways.exports import Client, NfsOptions, Share, SmbOptions, Squash, check_name
from gateways.identity import User
from sofs.admin import api, metrics
from sofs.assembly import Assembly
from sofs.cluster.vips import Vips
from sofs.coordination import keys
from sofs.doors import Doors
from sofs.errors import Exists, InvalidArgument, NotDirectory, NotFound, Unavailable
from sofs.hosting import Host, Hosted
from sofs.hosting.describing import describe_anywhere
from sofs.hosting.part import Part
from sofs.operations.asking import ask, at_path
from sofs.operations.check import check_volumes
from sofs.operations.cluster import ClusterOperations
from sofs.operations.disks import Disks
from sofs.operations.nodes import Addresses, Nodes
from sofs.operations.quotas import Quotas
from sofs.operations.snapshots import Snapshots
from sofs.records import Registry
from sofs.runtime.ports import Clock
from sofs.types import ROOT, Kind, OpenId
from sofs.volume.api import Access, Binding, Close, ListOpens, OpenInfo, OpenList, Reply, ShareMode

FIRST_UID = 1000


class NodeOperations:
    """One node's."""

    def __init__(self, registry: Registry, host: Host, doors: Doors, clock: Clock, assembly: Assembly) -> None:
        self._registry = registry
        self._host = host
        self._doors = doors
        self._clock = clock
        self._started = clock.monotonic()
        self._by = Binding(doors.incarnation, 0)
        clustered = ClusterOperations(assembly, self.volumes)
        self.cluster = clustered.cluster
        self.members = clustered.members
        disks = Disks(assembly)
        self.disks = disks.all
        self.add_disk = disks.add
        self.drain_disk = disks.drain
        self.remove_disk = disks.remove
        nodes = Nodes(assembly)
        self.drain = nodes.drain
        self.undrain = nodes.undrain
        addresses = Addresses(assembly, lambda: self.vips_here)
        self.vips_here: Vips | None = None
        self.vips = addresses.all
        self.add_vip = addresses.add
        self.remove_vip = addresses.remove
        preserved = Snapshots(host, clock, self._by)
        self.snapshots = preserved.all
        self.create_snapshot = preserved.create
        self.delete_snapshot = preserved.delete
        self.restore_snapshot = preserved.restore
        limited = Quotas(host, registry, self._by)
        self.quotas = limited.all
        self.set_quota = limited.set
        self.show_quota = limited.show
        self.delete_quota = limited.delete

    # Looking

    async def status(self) -> api.Status:
        return api.Status(
            node=self._host.name,
            version=version("sofs"),
            pid=os.getpid(),
            uptime_s=self._clock.monotonic() - self._started,
            endpoints=self._doors.endpoints,
            connections=self._doors.connections,
            opens=len(await self.opens()),
            disks=await self.disks(),
            pools=await self.pools(),
            volumes=await self.volumes(),
            shares=self._named_shares(self._doors.shares.all()),  # as they are offered, also while the coordination store is down
        )

    async def metrics(self) -> bytes:
        counters = {name: dict(pool.counters) for name, pool in self._host.pools.items()}
        return metrics.render(await self.status(), self._doors.traffic(), counters)

    # Pools

    async def pools(self) -> list[api.Pool]:
        result = []
        for pool in self._host.pools.values():
            disks = pool.disks()
            total, free = pool.usage()
            tiers = {tier: tuple(pool.usage(tier)) for tier in sorted({disk.tier for disk in disks})}
            result.append(api.Pool(pool.name, len(disks), total, free, msgspec.convert(tiers, dict[str, tuple[int, int]])))
        return result

    async def create_pool(self, name: str) -> api.Pool:
        pool = await self._host.create_pool(name)
        return api.Pool(pool.name, 0, 0, 0)

    # Volumes

    async def volumes(self) -> list[api.Volume]:
        parts = [part for part in self._host.parts.values() if not part.hosted.is_system]
        return list(await asyncio.gather(*[self._volume(part) for part in parts]))

    async def volume(self, name: str) -> api.Volume:
        return await self._volume(self._host.parts[self._host.named(name).record.id])

    async def create_volume(self, request: api.NewVolume) -> api.Volume:
        hosted = await self._host.create_volume(request.name, request.pool, request.policy, request.force)
        await self._host.ensure_system()
        self._doors.shares.volumes_changed()
        return await self._volume(self._host.parts[hosted.record.id])

    async def move_volume(self, request: api.Move) -> api.Volume:
        await self._host.move(request.volume, request.node)
        return await self.volume(request.volume)

    async def settle_volume(self, name: str) -> api.Volume:
        hosted = self._host.named(name)
        if hosted.data is None:
            raise Unavailable(f"volume {name} is not coordinated by this node; `sofs volume show {name}` says by which")
        await hosted.data.cleaner.settle()
        return await self.volume(name)

    async def _volume(self, part: Part) -> api.Volume:
        record, where = part.hosted.record, part.hosted.where.coordinator
        found = await describe_anywhere(self._host.site, part)
        member = self._host.view.members.get(where.node)
        return api.Volume(
            id=f"{record.id:016x}",
            name=record.name,
            pool=record.pool,
            policy=record.policy,
            log_replicas=sum(replica.in_sync for replica in found.replicas) or len(record.replicas),
            state=found.state,
            reason=found.reason,
            coordinator=member.name if member else f"{where.node:016x}" if where.node else "",
            version=found.version,
            replicas=[api.Replica(each.node, f"{each.disk:016x}", each.in_sync, each.reason) for each in found.replicas],
            total=found.total,
            free=found.free,
            files=found.files,
            figures=found.figures,
        )

    # Shares

    async def shares(self) -> list[api.Share]:
        return self._named_shares(await self._registry.shares())

    def _named_shares(self, shares: Iterable[Share]) -> list[api.Share]:
        names = {hosted.record.id: hosted.record.name for hosted in self._host.volumes.values()}
        return [_shown(share, names.get(share.volume, f"{share.volume:016x}")) for share in shares]

    async def create_share(self, request: api.Share) -> api.Share:
        hosted = self._host.named(request.volume)
        if unknown := set(request.protocols) - {"smb", "nfs"}:
            raise InvalidArgument(f"protocols are smb and nfs, not {', '.join(sorted(unknown))}")
        if request.squash not in set(Squash):
            raise InvalidArgument(f"squash is one of {', '.join(Squash)}, not {request.squash}")
        check_name(request.name)
        root = ROOT
        if request.path.strip("/"):
            found = await at_path(hosted, request.path, self._by)
            if found.kind is not Kind.DIRECTORY:
                raise NotDirectory(f"{request.path} in volume {request.volume} is not a directory")
            root = found.inode
        share = Share(
            name=request.name,
            number=await self._registry.next_number("share"),
            volume=hosted.reached.id,
            root=root,
            path="/" + request.path.strip("/"),
            comment=request.comment,
            read_only=request.read_only,
            smb=SmbOptions(
                enabled="smb" in request.protocols,
                encrypt=request.encrypt,
                continuously_available=request.continuously_available,
                scaleout=request.scaleout,
                access_based_enumeration=request.access_based_enumeration,
            ),
            nfs=NfsOptions(
                enabled="nfs" in request.protocols,
                clients=tuple(Client(network, squash=Squash(request.squash)) for network in request.clients),
                require_privileged_port=request.privileged_port,
            ),
        )
        await self._registry.put(keys.share(share.name), share.encode(), what=f"share {share.name}")
        self._doors.offer(await self._registry.shares())
        return _shown(share, request.volume)

    async def delete_share(self, name: str) -> None:
        await self._registry.delete(keys.share(name), f"share {name}")
        self._doors.offer(await self._registry.shares())

    # Users

    async def users(self) -> list[api.User]:
        return [_user(user) for user in await self._registry.users()]

    async def add_user(self, request: api.NewUser) -> api.User:
        if not request.password:
            raise InvalidArgument(f"user {request.name} needs a password")
        present = {user.name.lower(): user for user in await self._registry.users()}
        old = present.get(request.name.lower())
        if old is not None and not request.replace:
            raise Exists(f"user {request.name} exists already; --replace changes the password")
        uid = request.uid if request.uid is not None else old.uid if old else _free_uid(present)
        gid = request.gid if request.gid is not None else old.gid if old else uid
        groups = tuple(request.groups) or (old.groups if old else ())
        user = User.new(request.name, request.password, uid, gid, groups)
        key = keys.user(user.name)
        await self._registry.put(key, user.encode(), what=f"user {user.name}", replace=request.replace)
        self._doors.know(await self._registry.users())
        return _user(user)

    async def delete_user(self, name: str) -> None:
        await self._registry.delete(keys.user(name), f"user {name}")
        self._doors.know(await self._registry.users())

    # Opens

    async def opens(self) -> list[api.Opened]:
        clients = self._doors.clients()
        nfs = self._doors.nfs_clients()
        result = []
        for hosted in self._host.volumes.values():
            if hosted.volume is None or hosted.state[0] == "failed":
                continue
            listed = await ask(hosted.volume, ListOpens(), OpenList, self._by)
            for info in listed.opens:
                protocol, client = nfs.get(info.client) or clients.get(info.session, ("", ""))
                if not client or info.client in nfs:  # a host, on which many users may be
                    client = f"uid {info.uid}" + (f" at {client}" if client else "")
                result.append(_opened(hosted, info, protocol, client))
        return result

    async def close_open(self, name: str) -> None:
        volume, _, number = name.partition("-")
        try:
            hosted = self._host.volumes[int(volume, 16)]
            open_id = OpenId(int(number, 16))
        except (ValueError, KeyError):
            raise NotFound(f"there is no open {name}; `sofs open list` shows them") from None
        await ask(hosted.reached, Close(open_id), Reply, self._by)

    # Checking

    async def check(self, request: api.CheckRequest) -> AsyncIterator[api.Progress]:
        wanted = [self._host.named(request.volume)] if request.volume else list(self._host.volumes.values())
        async for step in check_volumes(self._host, wanted, request.data):
            yield step


def _shown(share: Share, volume: str) -> api.Share:
    return api.Share(
        name=share.name,
        volume=volume,
        path=share.path.strip("/"),
        comment=share.comment,
        protocols=[name for name, options in (("smb", share.smb), ("nfs", share.nfs)) if options.enabled],
        read_only=share.read_only,
        encrypt=share.smb.encrypt,
        clients=[client.network for client in share.nfs.clients],
        privileged_port=share.nfs.require_privileged_port,
        squash=str(share.nfs.clients[0].squash) if share.nfs.clients else "root",
        continuously_available=share.smb.continuously_available,
        scaleout=share.smb.scaleout,
        access_based_enumeration=share.smb.access_based_enumeration,
    )


def _user(user: User) -> api.User:
    return api.User(user.name, user.uid, user.gid, list(user.groups))


def _free_uid(present: dict[str, User]) -> int:
    return max([FIRST_UID - 1, *(user.uid for user in present.values())]) + 1


def _opened(hosted: Hosted, info: OpenInfo, protocol: str, client: str) -> api.Opened:
    rights = [name for flag, name in _RIGHTS if info.access & flag]
    shared = [mode.name.lower() for mode in (ShareMode.READ, ShareMode.WRITE, ShareMode.DELETE) if info.share & mode and mode.name]
    return api.Opened(
        id=f"{hosted.record.id:016x}-{info.open:x}",
        volume=hosted.record.name,
        path=info.name.decode(errors="replace") or "/",
        client=client,
        protocol=protocol,
        access=" ".join(rights) or "attributes",
        share=" ".join(shared) or "nothing",
    )


_RIGHTS = (
    (Access.READ_DATA, "read"),
    (Access.WRITE_DATA, "write"),
    (Access.APPEND_DATA, "append"),
    (Access.EXECUTE, "execute"),
    (Access.DELETE, "delete"),
)
