"""`sofs quickstart`: one node in the foreground, with all it needs made at first start.

The data directory then holds `conf/sofs.toml`, `store` (the embedded coordination store), `disks/ssd0` and `disks/hdd0` (two
tiers, both directories there), and `admin.sock` while the node runs. On stdout comes one line, `ready: …`; everything for people
goes to stderr.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sofs.admin import api
from sofs.cli import show
from sofs.cli.target import QUICKSTART_DATA, Json
from sofs.config import Config, load, render
from sofs.errors import InvalidArgument
from sofs.runtime import durable

if TYPE_CHECKING:
    from sofs.node import Node

POOL = "default"
VOLUME = "default"
DEFAULT_USER = "sofs"
DEFAULT_SHARE = "share"
TIERS = {"ssd0": "ssd", "hdd0": "hdd"}
DISKS_SHARE = 0.9
"""What of the free space the disks may take together."""
WILDCARDS = ("0.0.0.0", "::", "")


@dataclass
class Wanted:
    """What the command line asked for; None where it said nothing."""

    data: Path
    user: str | None
    password: str | None
    share: str | None
    json: bool


def quickstart(
    data: Annotated[Path, typer.Option(help="Where everything is kept.")] = QUICKSTART_DATA,
    smb_port: Annotated[int | None, typer.Option(help="SMB port (4450 at first start); 0 takes any.")] = None,
    nfs_port: Annotated[int | None, typer.Option(help="NFS port (20490 at first start); 0 takes any.")] = None,
    listen: Annotated[str | None, typer.Option(metavar="ADDR", help="Address to serve (127.0.0.1 at first start); 0.0.0.0 for all.")] = None,
    portmap: Annotated[bool | None, typer.Option("--portmap", help="Answer on port 111 too.")] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME:PASSWORD", help="An SMB user to make, or whose password to set.")] = None,
    share: Annotated[str | None, typer.Option(metavar="NAME", help="A share to make if it is not there.")] = None,
    json: Json = False,
) -> None:
    """Run one node in the foreground; the first start makes its disks, volume, share and user."""
    from sofs.service import run  # everything a node has: only when needed

    data = data.absolute()
    path = data / "conf" / "sofs.toml"
    config = _configuration(path)
    if smb_port is not None:
        config.smb.port = smb_port
    if nfs_port is not None:
        config.nfs.port = nfs_port
    if listen is not None:
        config.smb.addresses = config.nfs.addresses = [listen]
    if portmap is not None:
        config.nfs.portmap = portmap
    if not path.exists():
        durable.make_directory(path.parent)
        durable.replace(path, render(config, commented=False).encode(), 0o644)
    config.node.data_dir = str(data)
    name, password = _credentials(user)
    wanted = Wanted(data, name, password, share, json)

    async def ready(node: Node) -> None:
        await _provide(node, wanted)

    run(config, path, ready)


def _credentials(text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    name, colon, password = text.partition(":")
    if not name or not colon or not password:
        raise InvalidArgument("--user takes NAME:PASSWORD, neither of them empty")
    return name, password


def _configuration(path: Path) -> Config:
    """The file's, or at first start the defaults of a node that needs no rights and serves this host only."""
    if path.exists():
        return load(path)
    config = Config()
    config.node.data_dir = ".."
    config.smb.addresses = config.nfs.addresses = ["127.0.0.1"]
    config.smb.port = 4450
    config.nfs.port = 20490
    return config


async def _provide(node: Node, wanted: Wanted) -> None:
    """Make what is missing, open the doors, and say so."""
    operations = node.operations
    ours = {str(wanted.data / "disks" / name): tier for name, tier in TIERS.items()}
    present = {disk.path for disk in await operations.disks()}
    if present <= ours.keys():
        # None at first start; fewer than ours if that was cut off.
        # Both lie on one file system, so each gets its share, and the log and the rest of the host keep some.
        size = int(shutil.disk_usage(wanted.data).free * DISKS_SHARE) // len(TIERS)
        for path, tier in ours.items():
            if path not in present:
                await operations.add_disk(api.NewDisk(path, tier, POOL, size))
    if VOLUME not in {volume.name for volume in await operations.volumes()}:
        await operations.create_volume(api.NewVolume(VOLUME, POOL, "simple"))
    share = await _provide_share(operations, wanted.share, _is_local(node.config.nfs.addresses))
    user, generated = await _provide_user(operations, wanted)
    await node.listen()
    endpoints = [f"{endpoint}/{share}" for endpoint in _reachable(node.endpoints)]
    if wanted.json:
        show.as_json({"ready": endpoints, "user": user, "generated_password": generated, "data": str(wanted.data)})
    else:
        typer.echo("ready: " + " ".join(endpoints))
    typer.echo(_guide(endpoints, wanted.data, user, generated), err=True)


def _is_local(addresses: Sequence[str]) -> bool:
    """Whether only this host can reach them."""
    try:
        return all(ipaddress.ip_address(address).is_loopback for address in addresses)
    except ValueError:
        return False


async def _provide_share(operations: api.Operations, name: str | None, local: bool) -> str:
    """The share of that name, made if need be; without a name the first there is."""
    shares = await operations.shares()
    open_to_all = [share.name for share in shares if share.squash == "none" and "nfs" in share.protocols and "*" in share.clients]
    if open_to_all and not local:
        names = ", ".join(open_to_all)
        typer.echo(f"Careful: over NFS anybody who reaches this address is root on {names} (squash none).", err=True)
    present = [share.name for share in shares]
    if name is None and present:
        return DEFAULT_SHARE if DEFAULT_SHARE in present else present[0]
    name = name or DEFAULT_SHARE
    if name not in present:
        # This host's root owns all that is on its disks already; squashing it would only keep virtual machine
        # managers, which run as root, from their images. Another host's root is a stranger.
        await operations.create_share(api.Share(name=name, volume=VOLUME, squash="none" if local else "root"))
    return name


async def _provide_user(operations: api.Operations, wanted: Wanted) -> tuple[str, str | None]:
    """The user to tell people of, and the password if it was just made up."""
    if wanted.user is not None and wanted.password is not None:
        await operations.add_user(api.NewUser(wanted.user, wanted.password, replace=True))
        return wanted.user, None
    present = [user.name for user in await operations.users()]
    if present:
        return DEFAULT_USER if DEFAULT_USER in present else present[0], None
    password = secrets.token_urlsafe(9)
    await operations.add_user(api.NewUser(DEFAULT_USER, password))
    return DEFAULT_USER, password


def _reachable(endpoints: list[str]) -> list[str]:
    """Endpoints with an address that a client can use instead of "all addresses"."""
    result = []
    for endpoint in endpoints:
        scheme, _, rest = endpoint.partition("://")
        host, _, port = rest.rpartition(":")
        if host.strip("[]") in WILDCARDS:
            host = _own_address()
        result.append(f"{scheme}://{host}:{port}")
    return result


def _own_address() -> str:
    """The address with which this host reaches others; loopback when it has no network."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # TEST-NET-1: chooses a route, sends nothing
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def _guide(endpoints: list[str], data: Path, user: str, generated: str | None) -> str:
    """How to mount, for people."""
    lines = [f"Data: {data}. Stop with Ctrl-C; the same command serves it again."]
    lines.append(
        f"User {user}, password {generated} (made up now, shown only once; `sofs user add {user} --replace` sets another)."
        if generated
        else f"User {user}; `sofs user add {user} --replace` sets another password."
    )
    for endpoint in endpoints:
        scheme, _, rest = endpoint.partition("://")
        place, _, share = rest.partition("/")
        host, _, port = place.rpartition(":")
        host = host.strip("[]")
        if scheme == "smb":
            lines.append(f"SMB:  smbclient -p {port} -U {user} //{host}/{share}")
            lines.append(f"      mount -t cifs //{host}/{share} /mnt -o port={port},username={user}")
            if port == "445":
                lines.append(f"      Windows: net use Z: \\\\{host}\\{share} /user:{user}")
        else:
            lines.append(f"NFS:  mount -t nfs4 {host}:/{share} /mnt -o vers=4.2,port={port}")
    if any(":445/" not in endpoint for endpoint in endpoints if endpoint.startswith("smb")):
        lines.append("Windows needs SMB on port 445 (README, section on ports).")
    return "\n".join(lines)
