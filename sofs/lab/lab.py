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

from sofs.admin.client import AdminClient
from sofs.cluster.running import Ran, ended
from sofs.coordination.etcd import EtcdStore
from sofs.errors import InvalidArgument, SofsError, Unavailable
from sofs.lab import etcd, setup
from sofs.lab.network import LEGS, Network
from sofs.lab.plan import Machine, Member, Plan, load, make, save
from sofs.lab.process import Child
from sofs.lab.readiness import Readiness
from sofs.runtime.system_files import SystemFiles
from sofs.supervision import RESTART, record
from sofs.vips import remove_left_behind

log = structlog.get_logger("lab")

READY_S = 90.0
"""For a node, after a kill under load, too."""
STOP_S = 30.0
FOR_EVER_S = 1e9


class RunningNode:
    """A node of the lab: its process, and what to do when that ends."""

    def __init__(self, machine: Machine, data: Path, prefix: Sequence[str], on_end: Callable[[int], None]) -> None:
        self.machine = machine
        self.data = data
        self.readiness = Readiness(data, "ready")
        self._on_end = on_end
        self.process = Child(
            machine.name,
            [*prefix, setup.program("sofsd"), "--config", str(setup.config_path(data))],
            data.parent / f"{machine.name}.log",
            environment={"NOTIFY_SOCKET": self.readiness.address},
            on_end=self._ended,
        )

    def _ended(self, status: int) -> None:
        self.readiness.forget()
        log.info("node.ended", node=self.machine.name, status=status)
        self._on_end(status)

    async def start(self) -> None:
        """Until clients can connect. Raises `Unavailable` with the end of its log."""
        self.process.start()
        await self.wait_ready()

    async def wait_ready(self) -> None:
        ready = asyncio.create_task(self.readiness.wait())
        over = asyncio.create_task(self.process.ended())
        try:
            done, _ = await asyncio.wait((ready, over), timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            over.cancel()
        if ready not in done:
            how = f"ended with status {over.result()}" if over in done else f"did not become ready within {READY_S:.0f} s"
            raise Unavailable(f"node {self.machine.name} {how}; the end of its log:\n{self.process.tail()}")

    @property
    def admin(self) -> AdminClient:
        return AdminClient(data=self.data)

    def describe(self) -> dict[str, Any]:
        ran = setup.identity(self.data)
        machine = self.machine
        return {
            "name": machine.name,
            "id": f"{ran:016x}",
            "pid": self.process.pid,
            "state": "paused" if self.process.paused else "ready" if self.readiness.ready else "running" if self.process.pid else "down",
            "smb": f"{machine.address}:{machine.smb_port}",
            "nfs": f"{machine.address}:{machine.nfs_port}",
            "admin": f"{machine.address}:{machine.admin_port}",
            "data": str(self.data),
        }


class Lab:
    """One lab on its directory. Use `open`."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory = directory
        self.plan = plan
        self._files = SystemFiles()
        self._network = self._make_network() if plan.netns else None
        self.members = {member.name: self._member(member) for member in plan.members}
        self.nodes = {machine.name: self._node(machine) for machine in plan.nodes}
        self._store: EtcdStore | None = None
        self._recording: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    @classmethod
    async def open(cls, directory: Path, nodes: int, members: int, netns: bool) -> Lab:
        """Everything started, and at the first start made. Raises `ConfigError`, `Unavailable`; then nothing is left running."""
        etcd.binary()
        plan = load(directory)
        fresh = plan is None
        if plan is None:
            plan = make(nodes, members, netns, secrets.randbelow, secrets.token_urlsafe(9))
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

    def _prefix(self, name: str) -> list[str]:
        return self._network.prefix(name) if self._network else []

    def _member(self, member: Member) -> Child:
        command = etcd.command(member, self.plan.members, self.directory / member.name)
        return Child(
            member.name,
            [*self._prefix(member.name), *command],
            self.directory / f"{member.name}.log",
            environment=etcd.environment(),
        )

    def _node(self, machine: Machine) -> RunningNode:
        data = self.directory / machine.name
        data.mkdir(exist_ok=True)
        return RunningNode(machine, data, self._prefix(machine.name), partial(self._node_ended, machine.name))

    async def _start(self, fresh: bool) -> None:
        for member in self.members.values():
            member.start()
        endpoints = [(member.address, member.client_port) for member in self.plan.members]
        self._store = EtcdStore(endpoints)
        await etcd.answering(self._store)
        nodes = list(self.nodes.values())
        if fresh:
            await setup.join(self.plan, [(node.machine, node.data, self._prefix(node.machine.name)) for node in nodes])
        await asyncio.gather(*(node.start() for node in nodes))
        if fresh:
            await asyncio.to_thread(setup.provide, self.plan, [(node.machine, node.admin, node.data) for node in nodes])

    # Ends

    def _node_ended(self, name: str, status: int) -> None:
        """Runs in the very tick in which the kernel told it."""
        if self._store is None:
            return
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
            "etcd": [
                {"name": member.name, "pid": self.members[member.name].pid, "address": member.client} for member in plan.members
            ],
            "vips": [machine.vip for machine in plan.nodes],
            "share": plan.share,
            "volume": plan.volume,
            "user": plan.user,
            "password": plan.password,
            "pid": os.getpid(),
            "netns": plan.netns,
        }

    async def carry_out(self, command: list[str]) -> dict[str, Any]:
        """A command of the control socket. Raises `ConfigError`, `InvalidArgument`, `Unavailable`."""
        verb, *arguments = command or [""]
        actions: dict[str, Callable[..., Awaitable[None]]] = {
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
        if verb == "status":
            return self.describe()
        if verb not in actions or not arguments:
            raise InvalidArgument(f"a lab does: {', '.join(actions)} NAME; and status")
        if len(arguments) > (2 if verb in ("cut", "heal") else 1):
            raise InvalidArgument(f"{verb} takes no such arguments: {' '.join(arguments)}")
        await actions[verb](*arguments)
        return self.describe()

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
        setup.lose_disk(self._named(name).data)

    async def _return_disk(self, name: str) -> None:
        setup.return_disk(self._named(name).data)

    async def _etcd_kill(self, name: str) -> None:
        self.plan.member(name)
        await self.members[name].kill()

    async def _etcd_restart(self, name: str) -> None:
        self.plan.member(name)
        await self.members[name].stop(STOP_S)
        self.members[name].start()
