"""The lab itself: starts etcd and the nodes, sees them end, does to them what it is told, and takes all of it down with itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from sofs.cluster.running import Ran, ended
from sofs.coordination.etcd import EtcdStore
from sofs.errors import InvalidArgument, SofsError, Unavailable
from sofs.lab import etcd, setup
from sofs.lab.images import Images
from sofs.lab.network import LEGS, Network
from sofs.lab.node import RunningNode
from sofs.lab.plan import Machine, Member, Plan, load, make, save
from sofs.lab.process import Child
from sofs.runtime.system_addresses import SystemAddresses
from sofs.runtime.system_files import SystemFiles
from sofs.supervision import RESTART, record, remove_left_behind

log = structlog.get_logger("lab")

STOP_S = 30.0
FOR_EVER_S = 1e9


class Lab:
    """One lab on its directory. Use `open`."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory = directory
        self.plan = plan
        self._files = SystemFiles()
        self._network = self._make_network() if plan.netns else None
        self._images = Images(directory / "images") if plan.images else None
        self._mounts = self._places() if plan.images else {}
        self._mount()
        self.members = {member.name: self._member(member) for member in plan.members}
        self.nodes = {machine.name: self._node(machine) for machine in plan.nodes}
        self._store: EtcdStore | None = None
        self._recording: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self._dark = False
        """There is no power."""

    @classmethod
    async def open(cls, directory: Path, nodes: int, members: int, netns: bool, images: bool) -> Lab:
        """Everything started, and at the first start made. Raises `ConfigError`, `Unavailable`; then nothing is left running."""
        etcd.binary()
        plan = load(directory)
        fresh = plan is None
        if plan is None:
            plan = make(nodes, members, netns, images, secrets.randbelow, secrets.token_urlsafe(9))
        lab = cls(directory, plan)
        try:
            await lab._start(fresh)
            if fresh:
                save(directory, plan)
        except BaseException:
            await lab.close()
            raise
        return lab

    def _make_network(self) -> Network:
        """All nodes and members, each with a namespace."""
        network = Network({leg: f"10.77.{number}.1" for number, leg in enumerate(LEGS)})
        for member in self.plan.members:
            network.add(member.name, {"cluster": member.address})
        for machine in self.plan.nodes:
            network.add(machine.name, {"lan": machine.address, "cluster": machine.cluster_address})
        return network

    def _places(self) -> dict[str, Path]:
        """What is mounted, and where; what lies below another comes behind it."""
        places = {name: self.directory / name for name in (*(member.name for member in self.plan.members), *(each.name for each in self.plan.nodes))}
        return places | {f"{each.name}-disk": self.directory / each.name / setup.DISKS for each in self.plan.nodes}

    def _mount(self) -> None:
        for name, at in self._mounts.items():
            assert self._images
            self._images.mount(name, at)
            at.chmod(0o700)

    def _prefix(self, name: str) -> list[str]:
        return self._network.prefix(name) if self._network else []

    def _member(self, member: Member) -> Child:
        command = etcd.command(member, self.plan.members, self.directory / member.name, synced=self.plan.images)
        return Child(member.name, [*self._prefix(member.name), *command], self.directory / f"{member.name}.log", environment=etcd.environment())

    def _node(self, machine: Machine) -> RunningNode:
        data = self.directory / machine.name
        data.mkdir(exist_ok=True)
        seen = Path(f"/proc/{os.getpid()}/root{data}") if self._images else data
        return RunningNode(machine, data, seen, self._prefix(machine.name), partial(self._node_ended, machine.name))

    async def _start(self, fresh: bool) -> None:
        self._store = EtcdStore([(member.address, member.client_port) for member in self.plan.members])
        await self._start_members()
        nodes = list(self.nodes.values())
        if fresh:
            await setup.join(self.plan, [(node.machine, node.data, self._prefix(node.machine.name)) for node in nodes])
        await self._start_nodes()
        if fresh:
            await asyncio.to_thread(setup.provide, self.plan, [(node.machine, node.admin, node.data) for node in nodes])

    async def _start_members(self) -> None:
        assert self._store
        for member in self.members.values():
            member.start()
        await etcd.answering(self._store)

    async def _start_nodes(self) -> None:
        await asyncio.gather(*(node.start() for node in self.nodes.values()))

    # Ends

    def _node_ended(self, name: str, status: int) -> None:
        """Runs in the very tick in which the kernel told it."""
        if self._store is None or self._dark:
            return  # whoever could record it has no power either
        with self._network.inside(name) if self._network else contextlib.nullcontext():
            for trouble in remove_left_behind(self.nodes[name].data):
                log.warning("vip.left_behind", node=name, reason=trouble)
        before = self._recording.pop(name, None)
        if before is not None:
            before.cancel()  # of an earlier incarnation: only the last one matters
        ran = ended(self._files, str(self.nodes[name].data))
        if ran is not None:
            self._recording[name] = asyncio.create_task(self._record(self._store, name, ran))
        if status == RESTART and not self._closing:
            # The cluster has shut it out; any other end is for whoever does the experiment to mend.
            self.nodes[name].process.start()

    async def _record(self, store: EtcdStore, name: str, ran: Ran) -> None:
        try:
            await record(store, ran, f"the lab, which reaped {name}", FOR_EVER_S)
        except SofsError as error:
            log.error("node.death_not_recorded", node=name, reason=str(error))

    async def close(self) -> None:
        """Nodes first, each with time to hand over and to close; then etcd."""
        self._closing = True
        nodes = [node.process for node in self.nodes.values()]
        if self._network is not None:
            for name in (*self.nodes, *self.members):
                await self._heal(name)
        await asyncio.gather(*(process.stop(STOP_S) for process in nodes))
        recording = list(self._recording.values())
        if recording:
            await asyncio.wait(recording, timeout=2.0)
        for task in recording:
            task.cancel()
        await asyncio.gather(*recording, return_exceptions=True)
        if self._store is not None:
            store, self._store = self._store, None
            await store.close()
        await asyncio.gather(*(member.stop(STOP_S) for member in self.members.values()))
        for node in self.nodes.values():
            node.readiness.close()
        self._files.close()

    # What it is told

    def describe(self) -> dict[str, Any]:
        """What `sofs lab` prints."""
        plan = self.plan
        return {
            "nodes": [node.describe() for node in self.nodes.values()],
            "etcd": [{"name": member.name, "pid": self.members[member.name].pid, "address": member.client} for member in plan.members],
            "vips": [machine.vip for machine in plan.nodes],
            "share": plan.share,
            "volume": plan.volume,
            "user": plan.user,
            "password": plan.password,
            "pid": os.getpid(),
            "netns": plan.netns,
            "images": plan.images,
        }

    async def carry_out(self, command: list[str]) -> dict[str, Any]:
        """A command of the control socket. Raises `ConfigError`, `InvalidArgument`, `Unavailable`."""
        verb, *arguments = command or [""]
        of_all: dict[str, Callable[[], Awaitable[None]]] = {"status": self._nothing, "power-off": self._power_off, "power-on": self._power_on}
        of_one: dict[str, Callable[..., Awaitable[None]]] = {
            "kill": self._kill,
            "pause": self._pause,
            "resume": self._resume,
            "stop": self._stop,
            "restart": self._restart,
            "cut": self._cut,
            "heal": self._heal,
            "lose-disk": self._lose_disk,
            "return-disk": self._return_disk,
            "etcd-kill": self._etcd_kill,
            "etcd-restart": self._etcd_restart,
        }
        if verb not in of_all and (verb not in of_one or not arguments):
            raise InvalidArgument(f"a lab does: {', '.join(of_one)} NAME; and {', '.join(of_all)}")
        if len(arguments) > (0 if verb in of_all else 2 if verb in ("cut", "heal") else 1):
            raise InvalidArgument(f"{verb} takes no such arguments: {' '.join(arguments)}")
        if self._dark and verb not in of_all:
            raise Unavailable("the lab has no power: `sofs lab power-on`")
        await (of_all | of_one)[verb](*arguments)
        return self.describe()

    async def _nothing(self) -> None:
        pass

    async def _power_off(self) -> None:
        images = self._own_images()
        if self._dark:
            return
        self._dark = True
        if self._network is not None:
            for name in (*self.nodes, *self.members):
                self._network.cut(name, self._legs(name, "")[1])  # nobody hears the last of what runs
        for at in self._mounts.values():
            images.go_down(at)
        children = [*self.members.values(), *(node.process for node in self.nodes.values())]
        await asyncio.gather(*(child.kill() for child in children if child.running))
        for at in reversed(self._mounts.values()):
            images.unmount(at)
        for name in self.nodes if self._network is not None else ():
            self._forget_addresses(name)

    def _forget_addresses(self, name: str) -> None:
        """The kernels of hosts without power have no virtual addresses any more."""
        assert self._network
        with self._network.inside(name):
            for machine in self.plan.nodes:
                SystemAddresses().remove(machine.vip, "lan")

    async def _power_on(self) -> None:
        images = self._own_images()
        if not self._dark:
            return
        images.start_anew()
        self._mount()
        self._dark = False
        if self._network is not None:
            for name in (*self.nodes, *self.members):
                await self._heal(name)
        await self._start_members()
        await self._start_nodes()

    def _own_images(self) -> Images:
        if self._images is None:
            raise InvalidArgument("only a lab with --images can lose power: its file systems are its own")
        return self._images

    def _named(self, name: str) -> RunningNode:
        self.plan.node(name)
        return self.nodes[name]

    async def _kill(self, name: str) -> None:
        await self._named(name).process.kill()

    async def _pause(self, name: str) -> None:
        self._named(name).process.pause()

    async def _resume(self, name: str) -> None:
        self._named(name).process.resume()

    async def _stop(self, name: str) -> None:
        await self._named(name).process.stop(STOP_S)

    async def _restart(self, name: str) -> None:
        node = self._named(name)
        await node.process.stop(STOP_S)
        await node.start()

    async def _cut(self, name: str, leg: str = "") -> None:
        network, legs = self._legs(name, leg)
        network.cut(name, legs)

    async def _heal(self, name: str, leg: str = "") -> None:
        network, legs = self._legs(name, leg)
        network.heal(name, legs)

    def _legs(self, name: str, leg: str) -> tuple[Network, Sequence[str]]:
        if self._network is None:
            raise InvalidArgument("only a lab with --netns has networks that can be cut; `pause` is the nearest to it here")
        if leg and leg not in LEGS:
            raise InvalidArgument(f"a node has the networks {' and '.join(LEGS)}, not {leg}")
        if name in self.members:
            return self._network, ("cluster",)
        self.plan.node(name)
        return self._network, (leg,) if leg else LEGS

    async def _lose_disk(self, name: str) -> None:
        data = self._named(name).data
        if self._images is not None:
            self._images.go_down(data / setup.DISKS)
        else:
            setup.lose_disk(data)

    async def _return_disk(self, name: str) -> None:
        node = self._named(name)
        if self._images is None:
            setup.return_disk(node.data)
            return
        running = node.process.running
        # A process keeps the table of a disk that has failed open: as after a repair, it begins anew.
        await node.process.stop(STOP_S)
        self._images.unmount(node.data / setup.DISKS)
        self._images.mount(f"{name}-disk", node.data / setup.DISKS)
        if running:
            await node.start()

    async def _etcd_kill(self, name: str) -> None:
        self.plan.member(name)
        await self.members[name].kill()

    async def _etcd_restart(self, name: str) -> None:
        self.plan.member(name)
        await self.members[name].stop(STOP_S)
        self.members[name].start()
