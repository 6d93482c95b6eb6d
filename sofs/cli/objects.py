"""`sofs disk|pool|volume|share|user|open …`: what a node holds, listed, made and taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from sofs.admin import api
from sofs.cli import show
from sofs.cli.target import Data, Json, Node, TokenFile, connect
from sofs.errors import InvalidArgument

disk = typer.Typer(help="Disks of the node.", no_args_is_help=True)
pool = typer.Typer(help="Pools: disks that hold volumes together.", no_args_is_help=True)
volume = typer.Typer(help="Volumes: file systems in a pool.", no_args_is_help=True)
share = typer.Typer(help="Shares: volumes, as clients see them.", no_args_is_help=True)
user = typer.Typer(help="Users of the SMB shares.", no_args_is_help=True)
opens = typer.Typer(help="Open files.", no_args_is_help=True)
GROUPS = {"disk": disk, "pool": pool, "volume": volume, "share": share, "user": user, "open": opens}


def _told(value: Any, json: bool, sentence: str) -> None:
    if json:
        show.as_json(value)
    else:
        typer.echo(sentence)


@disk.command("add")
def disk_add(
    path: Annotated[Path, typer.Argument(help="A directory on the disk; it is made if need be.")],
    tier: Annotated[str, typer.Option(help="ssd or hdd.")] = "ssd",
    pool: Annotated[str, typer.Option(help="The pool it joins.")] = "default",
    size_gib: Annotated[float, typer.Option(help="How much of it to use; 0: as much as is free.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Although it carries a label or data.")] = False,
    data: Data = None,
    node: Node = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Give the node a disk."""
    # The path is the node's; a relative one means this directory when the node runs on this host.
    where = str(path) if node else str(path.absolute())
    request = api.NewDisk(where, tier, pool, int(size_gib * (1 << 30)), force)
    added = connect(data, node, token_file).post("/disks", request, api.Disk)
    _told(
        added, json, f"disk {added.id} added: {added.path}, tier {added.tier}, {show.size(added.free)} free"
    )


@disk.command("list")
def disk_list(data: Data = None, node: Node = None, token_file: TokenFile = None, json: Json = False) -> None:
    """All disks, with their state."""
    disks = connect(data, node, token_file).get("/disks", list[api.Disk])
    show.as_json(disks) if json else show.table(disks, show.DISKS, "No disks yet: sofs disk add PATH")


@pool.command("create")
def pool_create(
    name: str, data: Data = None, node: Node = None, token_file: TokenFile = None, json: Json = False
) -> None:
    """Make a pool, to which disks can then be added."""
    made = connect(data, node, token_file).post("/pools", api.NewPool(name), api.Pool)
    _told(made, json, f"pool {made.name} created; give it disks with: sofs disk add --pool {made.name} PATH")


@pool.command("list")
def pool_list(data: Data = None, node: Node = None, token_file: TokenFile = None, json: Json = False) -> None:
    """All pools, with their capacity."""
    pools = connect(data, node, token_file).get("/pools", list[api.Pool])
    show.as_json(pools) if json else show.table(pools, show.POOLS, "No pools yet: sofs pool create NAME")


@volume.command("create")
def volume_create(
    name: str,
    pool: Annotated[str, typer.Option(help="The pool it lies in.")] = "default",
    policy: Annotated[str, typer.Option(help="simple, mirror(2) or mirror(3).")] = "simple",
    force: Annotated[bool, typer.Option("--force", help="Although the pool has too few disks.")] = False,
    data: Data = None,
    node: Node = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Make a volume."""
    request = api.NewVolume(name, pool, policy, force)
    made = connect(data, node, token_file).post("/volumes", request, api.Volume)
    _told(
        made, json, f"volume {made.name} created; share it with: sofs share create NAME --volume {made.name}"
    )


@volume.command("list")
def volume_list(
    data: Data = None, node: Node = None, token_file: TokenFile = None, json: Json = False
) -> None:
    """All volumes."""
    volumes = connect(data, node, token_file).get("/volumes", list[api.Volume])
    show.as_json(volumes) if json else show.table(
        volumes, show.VOLUMES, "No volumes: sofs volume create NAME"
    )


@volume.command("show")
def volume_show(
    name: str, data: Data = None, node: Node = None, token_file: TokenFile = None, json: Json = False
) -> None:
    """One volume, with its counters."""
    found = connect(data, node, token_file).get(f"/volumes/{quote(name, safe='')}", api.Volume)
    if json:
        show.as_json(found)
        return
    show.table([found], show.VOLUMES, "")
    typer.echo(f"identifier {found.id}, {found.log_replicas} log replica(s)")
    for figure, value in sorted(found.figures.items()):
        typer.echo(f"{figure:32} {value}")


@share.command("create")
def share_create(
    name: str,
    volume: Annotated[str, typer.Option(help="The volume it shows.")] = "default",
    path: Annotated[str, typer.Option(help="A directory of the volume; its root if empty.")] = "",
    comment: Annotated[str, typer.Option(help="What clients see beside the name.")] = "",
    protocol: Annotated[list[str] | None, typer.Option(help="smb or nfs; may be given twice.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Nobody may write.")] = False,
    encrypt: Annotated[bool, typer.Option("--encrypt", help="SMB clients must encrypt.")] = False,
    client: Annotated[list[str] | None, typer.Option(help="NFS: an address, a network or *.")] = None,
    squash: Annotated[str, typer.Option(help="NFS: who becomes anonymous: root, all or none.")] = "root",
    continuously_available: Annotated[
        bool, typer.Option("--continuously-available", help="SMB: answer changes only once they are stable.")
    ] = False,
    data: Data = None,
    node: Node = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Show a volume to clients."""
    request = api.Share(
        name=name,
        volume=volume,
        path=path,
        comment=comment,
        protocols=protocol or ["smb", "nfs"],
        read_only=read_only,
        encrypt=encrypt,
        clients=client or ["*"],
        squash=squash,
        continuously_available=continuously_available,
    )
    made = connect(data, node, token_file).post("/shares", request, api.Share)
    _told(made, json, f"share {made.name} created: volume {made.volume}, {' and '.join(made.protocols)}")


@share.command("list")
def share_list(
    data: Data = None, node: Node = None, token_file: TokenFile = None, json: Json = False
) -> None:
    """All shares."""
    shares = connect(data, node, token_file).get("/shares", list[api.Share])
    show.as_json(shares) if json else show.table(shares, show.SHARES, "No shares yet: sofs share create NAME")


@share.command("delete")
def share_delete(
    name: str, data: Data = None, node: Node = None, token_file: TokenFile = None, json: Json = False
) -> None:
    """Take a share away from clients. The volume and its files stay."""
    connect(data, node, token_file).delete("shares", name)
    _told({"deleted": name}, json, f"share {name} deleted; its volume keeps all files")


def _password(given: str | None, from_stdin: bool) -> str:
    if from_stdin:
        return typer.get_text_stream("stdin").readline().rstrip("\n")
    return (
        given
        if given is not None
        else str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    )


@user.command("add")
def user_add(
    name: Annotated[str, typer.Argument(metavar="NAME[:PASSWORD]")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read it from a line of stdin.")
    ] = False,
    uid: Annotated[
        int | None, typer.Option(help="The owner of what the user makes; the next free one if absent.")
    ] = None,
    gid: Annotated[int | None, typer.Option(help="The group; the uid's number if absent.")] = None,
    group: Annotated[
        list[int] | None, typer.Option(help="A further group's number; may be repeated.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change a user who exists.")] = False,
    data: Data = None,
    node: Node = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Add a user. Without a password in NAME:PASSWORD it is asked for."""
    name, colon, password = name.partition(":")
    if not name:
        raise InvalidArgument("a user needs a name: NAME or NAME:PASSWORD")
    secret = _password(password if colon else None, password_stdin)
    request = api.NewUser(name, secret, uid, gid, group or [], replace)
    added = connect(data, node, token_file).post("/users", request, api.User)
    _told(added, json, f"user {added.name} added, uid {added.uid}, gid {added.gid}")


@user.command("list")
def user_list(data: Data = None, node: Node = None, token_file: TokenFile = None, json: Json = False) -> None:
    """All users."""
    users = connect(data, node, token_file).get("/users", list[api.User])
    show.as_json(users) if json else show.table(users, show.USERS, "No users yet: sofs user add NAME")


@user.command("delete")
def user_delete(
    name: str, data: Data = None, node: Node = None, token_file: TokenFile = None, json: Json = False
) -> None:
    """Take a user away. Files keep their owner's number; sessions that are open go on until they end."""
    connect(data, node, token_file).delete("users", name)
    _told({"deleted": name}, json, f"user {name} deleted")


@opens.command("list")
def open_list(data: Data = None, node: Node = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Files that clients hold open."""
    found = connect(data, node, token_file).get("/opens", list[api.Opened])
    show.as_json(found) if json else show.table(found, show.OPENS, "No file is open.")


@opens.command("close")
def open_close(
    open_id: Annotated[str, typer.Argument(metavar="OPEN", help="As `sofs open list` shows it.")],
    data: Data = None,
    node: Node = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Close a client's open by force, with its locks. What the client has not written yet is lost to it."""
    connect(data, node, token_file).delete("opens", open_id)
    _told({"closed": open_id}, json, f"open {open_id} closed")
