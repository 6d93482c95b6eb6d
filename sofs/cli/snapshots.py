"""`sofs snapshot …`: what a volume held at a moment, kept, shown, given up and brought back."""

from __future__ import annotations

from typing import Annotated

import typer

from sofs.admin import api
from sofs.cli import show
from sofs.cli.target import Target, on_node

snapshot = typer.Typer(help="Snapshots: volumes as they were.", no_args_is_help=True)

SNAPSHOTS: list[show.Column] = [
    ("SNAPSHOT", lambda s: s.name),
    ("VOLUME", lambda s: s.volume),
    ("TAKEN", lambda s: s.taken),
    ("HOLDS", lambda s: show.size(s.held)),
]


@snapshot.command("create")
@on_node
def snapshot_create(on: Target, volume: str, name: Annotated[str, typer.Argument(help="By default the time.")] = "") -> None:
    """Keep a volume as it is now. Takes no time and no space; what is changed afterwards does."""
    made = on.client.ask(api.Operations.create_snapshot, api.SnapshotName(volume, name))
    on.tell(made, f"snapshot {made.name} of volume {volume} taken; clients find it in .snapshot (NFS) and as a previous version (SMB)")


@snapshot.command("list")
@on_node
def snapshot_list(on: Target, volume: str) -> None:
    """A volume's snapshots, oldest first; HOLDS is what deleting that one alone would free."""
    snapshots = on.client.ask(api.Operations.snapshots, volume)
    on.list(snapshots, SNAPSHOTS, f"No snapshots: sofs snapshot create {volume}")


@snapshot.command("delete")
@on_node
def snapshot_delete(on: Target, volume: str, name: str) -> None:
    """Give a snapshot up. What only it held comes free in the background."""
    on.client.ask(api.Operations.delete_snapshot, api.SnapshotName(volume, name))
    on.tell({"deleted": name}, f"snapshot {name} of volume {volume} deleted")


@snapshot.command("restore")
@on_node
def snapshot_restore(
    on: Target, volume: str, name: str, force: Annotated[bool, typer.Option("--force", help="Although files are open; their opens end.")] = False
) -> None:
    """Make a volume what it was. The state before is kept as a snapshot."""
    before = on.client.ask(api.Operations.restore_snapshot, api.SnapshotName(volume, name, force))
    on.tell(before, f"volume {volume} is what it was at snapshot {name}; the state before is kept as snapshot {before.name}")
