"""What a lab makes at its first start, as an operator would: configuration files, `sofs cluster init` and `join`, then disks, a volume, a share and a user
by the admin interface.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sofs.admin import api
from sofs.admin.client import AdminClient
from sofs.config import Config, render
from sofs.errors import ConfigError, InvalidArgument, SofsError, Unavailable
from sofs.lab.plan import Machine, Plan
from sofs.runtime import durable

DISKS, DISK = "disks", "ssd0"
DISKS_SHARE = 0.5
"""What all disks together may take of the free space."""
JOIN_S = 60.0
KNOWN_S = 60.0
"""Until a node knows what disks the others have."""


def program(name: str) -> str:
    """A command of this installation. Raises `ConfigError`."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ConfigError(f"`{name}` was not found beside {sys.executable} nor in PATH; install sofs there")
    return found


def config_path(data: Path) -> Path:
    return data / "conf" / "sofs.toml"


def write_config(plan: Plan, machine: Machine, data: Path) -> None:
    config = Config()
    config.node.name = machine.name
    config.node.data_dir = ".."
    config.log.format = "json"
    config.coordination.kind = "etcd"
    config.coordination.endpoints = [member.client for member in plan.members]
    config.admin.address = machine.address
    config.admin.port = machine.admin_port
    config.smb.addresses = config.nfs.addresses = [machine.address]
    config.smb.port = machine.smb_port
    config.nfs.port = machine.nfs_port
    path = config_path(data)
    durable.make_directory(path.parent)
    durable.replace(path, render(config, commented=False).encode())


Joining = tuple[Machine, Path, Sequence[str]]
"""A node with its data directory, and what puts a command where it runs."""


async def join(plan: Plan, nodes: Sequence[Joining]) -> None:
    """Makes a cluster of the nodes, none of which runs yet: the first begins it, the others join it."""
    for machine, data, _ in nodes:
        write_config(plan, machine, data)

    def place(machine: Machine, data: Path) -> list[str]:
        return ["--data", str(data), "--address", f"{machine.cluster_address}:{machine.cluster_port}"]

    machine, data, prefix = nodes[0]
    await _run(prefix, "cluster", "init", *place(machine, data))
    answer = await _run(prefix, "cluster", "token", "--data", str(data), "--reusable", "--json")
    token = str(msgspec.json.decode(answer)["token"])
    for machine, data, prefix in nodes[1:]:
        await _run(prefix, "cluster", "join", token, *place(machine, data))


async def _run(prefix: Sequence[str], *arguments: str) -> bytes:
    """A `sofs` command, as the node's operator would. Raises `Unavailable` with what it said."""
    process = await asyncio.create_subprocess_exec(
        *prefix, program("sofs"), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(JOIN_S):
            answer, trouble = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Unavailable(f"`sofs {' '.join(arguments)}` took longer than {JOIN_S:.0f} s") from None
    if process.returncode:
        raise Unavailable(f"`sofs {' '.join(arguments)}`: {trouble.decode(errors='replace').strip()}")
    return answer


def provide(plan: Plan, nodes: Sequence[tuple[Machine, AdminClient, Path]]) -> None:
    """Disks on every node, then a volume over all of them with a share and a user. Every node runs."""
    for _, admin, data in nodes:
        (data / DISKS).mkdir(exist_ok=True)
        free = shutil.disk_usage(data / DISKS).free
        size = int(free * DISKS_SHARE) // (1 if plan.images else len(nodes))
        path = str(data / DISKS / DISK)
        if path not in {disk.path for disk in admin.ask(api.Operations.disks)}:
            admin.ask(api.Operations.add_disk, api.NewDisk(path, "ssd", plan.pool, size))
    first = nodes[0][1]
    _make_volume(plan, first)
    # Only this host reaches a lab, and its root owns all that is in it already.
    first.ask(api.Operations.create_share, api.Share(name=plan.share, volume=plan.volume, squash="none", continuously_available=True))
    for machine, _, _ in nodes if len(nodes) > 1 else ():
        first.ask(api.Operations.add_vip, api.Vip(machine.vip, group=machine.name))
    first.ask(api.Operations.add_user, api.NewUser(plan.user, plan.password))


def _make_volume(plan: Plan, admin: AdminClient) -> None:
    """As soon as the node knows of the others' disks."""
    until = time.monotonic() + KNOWN_S
    while True:
        try:
            admin.ask(api.Operations.create_volume, api.NewVolume(plan.volume, plan.pool, plan.policy))
            return
        except SofsError as error:
            if time.monotonic() > until:
                raise Unavailable(f"the volume cannot be made: {error}") from None
            time.sleep(0.2)


def identity(data: Path) -> int:
    """The node's id; 0 before it has one."""
    try:
        return int(msgspec.json.decode((data / "node.json").read_bytes())["id"])
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return 0


def lose_disk(data: Path) -> None:
    """The disk's directory is gone, as after the loss of its file system: what was open is refused at the next look."""
    disk, gone = data / DISKS / DISK, data / "lost" / DISK
    if not disk.exists():
        raise InvalidArgument(f"{disk} is gone already; `sofs lab return-disk` brings it back")
    gone.parent.mkdir(exist_ok=True)
    disk.rename(gone)


def return_disk(data: Path) -> None:
    disk, gone = data / DISKS / DISK, data / "lost" / DISK
    if not gone.exists():
        raise InvalidArgument(f"{disk} was not lost")
    gone.rename(disk)
