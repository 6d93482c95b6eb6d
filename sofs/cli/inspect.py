"""`sofs status` and `sofs check`: how a node is, and whether its volumes are sound."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sofs.admin import api
from sofs.admin.client import Unreachable
from sofs.cli import show
from sofs.cli.target import Target, data_directory, on_node
from sofs.errors import Unavailable


@on_node
def status(on: Target) -> None:
    """How the node is: endpoints, disks, pools, volumes, shares."""
    found = on.client.ask(api.Operations.status)
    if on.json:
        show.as_json(found)
        return
    uptime = datetime.timedelta(seconds=int(found.uptime_s))
    typer.echo(f"{found.node}: sofs {found.version}, process {found.pid}, up {uptime}")
    typer.echo(f"serving {' '.join(found.endpoints)}: {found.connections} connections, {found.opens} opens")
    for rows, columns, empty in (
        (found.disks, show.DISKS, "No disks."),
        (found.pools, show.POOLS, "No pools."),
        (found.volumes, show.VOLUMES, "No volumes."),
        (found.shares, show.SHARES, "No shares."),
    ):
        typer.echo("")
        show.table(rows, columns, empty)


@on_node
def check(
    on: Target,
    volume: Annotated[str, typer.Argument(help="A volume; all of them if absent.")] = "",
    metadata_only: Annotated[bool, typer.Option("--metadata-only", help="Do not read the files' data.")] = False,
) -> None:
    """Verify every count, reference and checksum; of the running node, or of a stopped one's data directory."""
    request = api.CheckRequest(volume, not metadata_only)
    try:
        last = _follow(on.client.check(request), on.json)
    except Unreachable:
        directory = data_directory(on.data)
        if on.node is not None or not (directory / "store").exists():
            raise
        from sofs.config import LogConfig
        from sofs.node import check_offline  # everything a node has: only when needed
        from sofs.service import set_up_logging

        set_up_logging(LogConfig(level="warning"))
        last = _follow(check_offline(directory, request), on.json)
    if on.json:
        show.as_json({"problems": last.problems, "facts": last.facts})
    else:
        for problem in last.problems:
            typer.echo(problem)
        facts = ", ".join(f"{value} {name}" for name, value in last.facts.items())
        typer.echo(f"check: {len(last.problems)} problems; {facts}" if facts else f"check: {len(last.problems)} problems")
    if last.problems:
        raise typer.Exit(1)


def _follow(steps: Iterable[api.Progress], quiet: bool) -> api.Progress:
    """Draw the bar while the steps come in; returns the last one."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    last: api.Progress | None = None
    with bar:
        task = bar.add_task("checking", total=None)
        for last in steps:
            bar.update(task, total=last.total or None, completed=last.done, description=last.what or "checking")
    if last is None or not last.finished:
        raise Unavailable("the check ended before it was finished; the node's log tells why")
    return last
