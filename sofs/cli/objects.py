"""`sofs disk|pool|volume|share|user|open …`: what a node holds, listed, made and taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sofs.admin import api
from sofs.cli import show
from sofs.cli.target import Target, add_list, on_node
from sofs.errors import InvalidArgument

disk = typer.Typer(help="Disks of all nodes.", no_args_is_help=True)
pool = typer.Typer(help="Pools: disks that hold volumes together.", no_args_is_help=True)
volume = typer.Typer(help="Volumes: file systems in a pool.", no_args_is_help=True)
share = typer.Typer(help="Shares: volumes, as clients see them.", no_args_is_help=True)
user = typer.Typer(help="Users of the SMB shares.", no_args_is_help=True)
opens = typer.Typer(help="Open files.", no_args_is_help=True)
GROUPS = {"disk": disk, "pool": pool, "volume": volume, "share": share, "user": user, "open": opens}

add_list(disk, api.Operations.disks, "All disks, with their state.", show.DISKS, "No disks yet: sofs disk add PATH")
add_list(pool, api.Operations.pools, "All pools, with their capacity.", show.POOLS, "No pools yet: sofs pool create NAME")
add_list(volume, api.Operations.volumes, "All volumes.", show.VOLUMES, "No volumes: sofs volume create NAME")
add_list(share, api.Operations.shares, "All shares.", show.SHARES, "No shares yet: sofs share create NAME")
add_list(user, api.Operations.users, "All users.", show.USERS, "No users yet: sofs user add NAME")
add_list(opens, api.Operations.opens, "Files that clients hold open.", show.OPENS, "No file is open.")


@disk.command("add")
@on_node
def disk_add(
    on: Target,
    path: Annotated[Path, typer.Argument(help="A directory on the disk; it is made if need be.")],
    tier: Annotated[str, typer.Option(help="ssd or hdd.")] = "ssd",
    pool: Annotated[str, typer.Option(help="The pool it joins.")] = "default",
    size_gib: Annotated[float, typer.Option(help="How much of it to use; 0: as much as is free.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Although it carries a label or data.")] = False,
) -> None:
    """Give the node a disk."""
    # The path is the node's; a relative one means this directory when the node runs on this host.
    where = str(path) if on.node else str(path.absolute())
    request = api.NewDisk(where, tier, pool, int(size_gib * (1 << 30)), force)
    added = on.client.ask(api.Operations.add_disk, request)
    on.tell(added, f"disk {added.id} added: {added.path}, tier {added.tier}, {show.size(added.free)} free")


@disk.command("drain")
@on_node
def disk_drain(
    on: Target,
    disk: Annotated[str, typer.Argument(help="Its id.")],
    undo: Annotated[bool, typer.Option("--undo", help="It is to be used again.")] = False,
) -> None:
    """Have a disk emptied: volumes write elsewhere what lies on it, and when it is empty it is retired."""
    found = on.client.ask(api.Operations.drain_disk, api.DrainDisk(disk, not undo))
    on.tell(found, f"disk {found.id} is {found.state}")


@disk.command("remove")
@on_node
def disk_remove(
    on: Target,
    disk: Annotated[str, typer.Argument(help="Its id.")],
    force: Annotated[bool, typer.Option("--force", help="Although its node does not answer: what only this disk has is given up.")] = False,
) -> None:
    """Forget a disk that is retired, failed or missing. What had copies on it is copied elsewhere from the others."""
    on.client.ask(api.Operations.remove_disk, api.RemoveDisk(disk, force))
    on.tell({"removed": disk}, f"disk {disk} removed")


@pool.command("create")
@on_node
def pool_create(on: Target, name: str) -> None:
    """Make a pool, to which disks can then be added."""
    made = on.client.ask(api.Operations.create_pool, name)
    on.tell(made, f"pool {made.name} created; give it disks with: sofs disk add --pool {made.name} PATH")


@volume.command("create")
@on_node
def volume_create(
    on: Target,
    name: str,
    pool: Annotated[str, typer.Option(help="The pool it lies in.")] = "default",
    policy: Annotated[str, typer.Option(help="simple, mirror(2) or mirror(3).")] = "simple",
    force: Annotated[bool, typer.Option("--force", help="Although the pool has too few disks.")] = False,
) -> None:
    """Make a volume."""
    request = api.NewVolume(name, pool, policy, force)
    made = on.client.ask(api.Operations.create_volume, request)
    on.tell(made, f"volume {made.name} created; share it with: sofs share create NAME --volume {made.name}")


@volume.command("show")
@on_node
def volume_show(on: Target, name: str) -> None:
    """One volume, with its counters."""
    found = on.client.ask(api.Operations.volume, name)
    if on.json:
        show.as_json(found)
        return
    show.table([found], show.VOLUMES, "")
    typer.echo(f"identifier {found.id}, {found.log_replicas} log replica(s), configuration {found.version}")
    if found.coordinator:
        typer.echo(f"coordinated by node {found.coordinator}")
        show.table(found.replicas, show.REPLICAS, "")
    for figure, value in sorted(found.figures.items()):
        typer.echo(f"{figure:32} {value}")


@volume.command("move")
@on_node
def volume_move(on: Target, name: str, to: Annotated[str, typer.Argument(metavar="NODE")]) -> None:
    """Have another node coordinate a volume."""
    moved = on.client.ask(api.Operations.move_volume, api.Move(name, to))
    on.tell(moved, f"volume {moved.name} is coordinated by node {moved.coordinator}")


@volume.command("settle")
@on_node
def volume_settle(on: Target, name: str) -> None:
    """Move what lies in a volume's log to its place now, not when nothing has been written for ten minutes."""
    settled = on.client.ask(api.Operations.settle_volume, name)
    on.tell(settled, f"volume {settled.name} is settled: {settled.figures.get('log_kept_bytes', 0)} bytes are left in its log")


@share.command("create")
@on_node
def share_create(
    on: Target,
    name: str,
    volume: Annotated[str, typer.Option(help="The volume it shows.")] = "default",
    path: Annotated[str, typer.Option(help="A directory of the volume; its root if empty.")] = "",
    comment: Annotated[str, typer.Option(help="What clients see beside the name.")] = "",
    protocol: Annotated[list[str] | None, typer.Option(help="smb or nfs; may be given twice.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Nobody may write.")] = False,
    encrypt: Annotated[bool, typer.Option("--encrypt", help="SMB clients must encrypt.")] = False,
    client: Annotated[list[str] | None, typer.Option(help="NFS: an address, a network or *.")] = None,
    privileged_port: Annotated[
        bool, typer.Option("--privileged-port", help="NFS: clients must come from a port below 1024, as only a superuser can.")
    ] = False,
    squash: Annotated[str, typer.Option(help="NFS: who becomes anonymous: root, all or none.")] = "root",
    continuously_available: Annotated[bool, typer.Option("--continuously-available", help="SMB: answer changes only once they are stable.")] = False,
    scaleout: Annotated[
        bool,
        typer.Option("--scaleout", help="SMB, with --continuously-available: clients take it for a Scale-Out File Server's, and cache reads only."),
    ] = False,
    access_based: Annotated[bool, typer.Option("--access-based", help="SMB: listings leave out what their reader may not read.")] = False,
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
        privileged_port=privileged_port,
        squash=squash,
        continuously_available=continuously_available,
        scaleout=scaleout,
        access_based_enumeration=access_based,
    )
    made = on.client.ask(api.Operations.create_share, request)
    on.tell(made, f"share {made.name} created: volume {made.volume}, {' and '.join(made.protocols)}")


@share.command("delete")
@on_node
def share_delete(on: Target, name: str) -> None:
    """Take a share away from clients. The volume and its files stay."""
    on.client.ask(api.Operations.delete_share, name)
    on.tell({"deleted": name}, f"share {name} deleted; its volume keeps all files")


def _password(given: str | None, from_stdin: bool) -> str:
    if from_stdin:
        return typer.get_text_stream("stdin").readline().rstrip("\n")
    return given if given is not None else str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


@user.command("add")
@on_node
def user_add(
    on: Target,
    name: Annotated[str, typer.Argument(metavar="NAME[:PASSWORD]")],
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read it from a line of stdin.")] = False,
    uid: Annotated[int | None, typer.Option(help="The owner of what the user makes; the next free one if absent.")] = None,
    gid: Annotated[int | None, typer.Option(help="The group; the uid's number if absent.")] = None,
    group: Annotated[list[int] | None, typer.Option(help="A further group's number; may be repeated.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change a user who exists.")] = False,
) -> None:
    """Add a user. Without a password in NAME:PASSWORD it is asked for."""
    name, colon, password = name.partition(":")
    if not name:
        raise InvalidArgument("a user needs a name: NAME or NAME:PASSWORD")
    secret = _password(password if colon else None, password_stdin)
    request = api.NewUser(name, secret, uid, gid, group or [], replace)
    added = on.client.ask(api.Operations.add_user, request)
    on.tell(added, f"user {added.name} added, uid {added.uid}, gid {added.gid}")


@user.command("delete")
@on_node
def user_delete(on: Target, name: str) -> None:
    """Take a user away. Files keep their owner's number; sessions that are open go on until they end."""
    on.client.ask(api.Operations.delete_user, name)
    on.tell({"deleted": name}, f"user {name} deleted")


@opens.command("close")
@on_node
def open_close(on: Target, open_id: Annotated[str, typer.Argument(metavar="OPEN", help="As `sofs open list` shows it.")]) -> None:
    """Close a client's open by force, with its locks. What the client has not written yet is lost to it."""
    on.client.ask(api.Operations.close_open, open_id)
    on.tell({"closed": open_id}, f"open {open_id} closed")
