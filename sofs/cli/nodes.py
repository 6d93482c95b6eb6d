"""`sofs node …`: the nodes of a cluster, one by one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from sofs.admin import api
from sofs.cli import show
from sofs.cli.target import Data, Target, add_list, data_directory, on_node

node = typer.Typer(help="The nodes of the cluster.", no_args_is_help=True)

DIED_S = 10.0
"""What recording a death may take; the restart of the node waits for it, and records it itself if this fails."""

COLUMNS: list[show.Column] = [
    ("NODE", lambda member: member.name),
    ("ID", lambda member: member.id),
    ("STATE", lambda member: member.state),
    ("CONNECTED", lambda member: "yes" if member.connected else "no"),
    ("ADDRESSES", lambda member: ", ".join(member.addresses)),
]

add_list(node, api.Operations.members, "All members of the cluster.", COLUMNS, "This node is alone.")


@node.command("drain")
@on_node
def drain(on: Target, name: Annotated[str, typer.Argument(metavar="NODE", help="Its name or id.")]) -> None:
    """Have a node hand over all it has, and take nothing on. Its clients go on at the others. For an upgrade: drain, stop, replace, start, undrain."""
    done = on.client.ask(api.Operations.drain, name)
    on.tell(done, f"node {done.node} has nothing left; stop it when you like, and `sofs node undrain {done.node}` afterwards")


@node.command("undrain")
@on_node
def undrain(on: Target, name: Annotated[str, typer.Argument(metavar="NODE", help="Its name or id.")]) -> None:
    """Take a drained node into service again."""
    done = on.client.ask(api.Operations.undrain, name)
    on.tell(done, f"node {done.node} takes on volumes and addresses again")


@node.command("died")
def died(
    data: Data = None,
    config: Annotated[Path | None, typer.Option(help="The node's configuration file (default: conf/sofs.toml in its data directory).")] = None,
) -> None:
    """For a supervisor: record that the node's process has ended, so that others take over at once. Refuses while it runs."""
    from sofs.config import Config, load

    where = (config or data_directory(data) / "conf" / "sofs.toml").absolute()
    loaded = load(where) if where.exists() else Config()
    directory = (where.parent / loaded.node.data_dir) if config is not None or data is None else data.absolute()
    typer.echo(asyncio.run(_record(loaded, directory.resolve())))


async def _record(config: object, data: Path) -> str:
    from sofs.cluster.running import ended
    from sofs.cluster.store import open_etcd
    from sofs.config import Config
    from sofs.runtime.system_files import SystemFiles
    from sofs.supervision import record, remove_left_behind

    assert isinstance(config, Config)
    ran = ended(SystemFiles(), str(data))
    for trouble in remove_left_behind(data):
        typer.echo(f"sofs: {trouble}", err=True)
    if ran is None or config.coordination.kind != "etcd":
        return "nothing to record"
    store = open_etcd(config)
    try:
        await record(store, ran, "its service manager", DIED_S)
    finally:
        await store.close()
    return f"recorded that incarnation {ran.incarnation:016x} of node {ran.node:016x} has ended"
