"""`sofs lab`: a whole cluster on this machine, and what can be done to it while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import uvloop

from sofs.cli import show
from sofs.config import LogConfig
from sofs.errors import Unavailable

DEFAULT = Path("sofs-lab")

lab = typer.Typer(help="A cluster on this machine, for trying out and for tests.", invoke_without_command=True, add_completion=False)

Data = Annotated[Path, typer.Option("--data", envvar="SOFS_LAB", metavar="DIR", help="The lab's directory.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A node's, as the lab calls it (n1, n2, ...), or an etcd member's (e1, ...).")]
OwnData = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="The lab's directory.")]


@lab.callback()
def run(
    context: typer.Context,
    nodes: Annotated[int, typer.Option(help="How many nodes, at the first start.")] = 3,
    data: Data = DEFAULT,
    etcd: Annotated[int, typer.Option(help="How many members of etcd, at the first start: 1 or 3.")] = 1,
    netns: Annotated[bool, typer.Option("--netns", help="At the first start: each in a network namespace of its own; needs root.")] = False,
    images: Annotated[
        bool, typer.Option("--images", help="At the first start: on file systems of their own, which can lose power and disks; needs root.")
    ] = False,
) -> None:
    """Starts etcd and the nodes, prints one line of JSON when all serve, and goes on until it is stopped."""
    if context.invoked_subcommand is not None:
        context.obj = data
        return
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # it complains of every child that is started
    from sofs.lab import lab as laboratory
    from sofs.service import set_up_logging

    set_up_logging(LogConfig())
    data = data.absolute()
    data.mkdir(parents=True, exist_ok=True)
    with _alone(data), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(laboratory, data, nodes, etcd, netns, images))


@contextlib.contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Raises `Unavailable` while another lab runs on the directory."""
    descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Unavailable(f"another lab runs on {data}; stop it, or take another --data") from None
    finally:
        os.close(descriptor)


async def _serve(laboratory: Any, data: Path, nodes: int, members: int, netns: bool, images: bool) -> None:
    from sofs.lab import control

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    opening = asyncio.create_task(laboratory.Lab.open(data, nodes, members, netns, images))
    await asyncio.wait((opening, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        opening.cancel()
        await asyncio.wait((opening,))
        return
    running = opening.result()
    try:
        server = await control.serve(data, running.carry_out)
        typer.echo(msgspec.json.encode(running.describe()))  # and flushes: whoever started this waits for it
        await stopped
        server.close()
    finally:
        await running.close()


def _tell(context: typer.Context, data: Path | None, *command: str) -> None:
    from sofs.lab import control

    show.as_json(control.ask((data or context.obj or DEFAULT).absolute(), *command))


def _on(verb: str, about: str) -> None:
    """A command that does something to one node or member."""

    @lab.command(verb, help=about)
    def command(context: typer.Context, name: Name, data: OwnData = None) -> None:
        _tell(context, data, verb, name)


def _on_network(verb: str, about: str) -> None:
    """The same to its networks."""

    @lab.command(verb, help=about)
    def command(
        context: typer.Context,
        name: Name,
        network: Annotated[str, typer.Argument(metavar="[lan|cluster]", help="One of its networks only.")] = "",
        data: OwnData = None,
    ) -> None:
        _tell(context, data, verb, name, *([network] if network else []))


@lab.command("status")
def status(context: typer.Context, data: OwnData = None) -> None:
    """What the lab printed when it started, as it is now."""
    _tell(context, data, "status")


@lab.command("power-off")
def power_off(context: typer.Context, data: OwnData = None) -> None:
    """All nodes and members of etcd lose power at once, and what was not synced; needs a lab with --images."""
    _tell(context, data, "power-off")


@lab.command("power-on")
def power_on(context: typer.Context, data: OwnData = None) -> None:
    """They have it again, and start."""
    _tell(context, data, "power-on")


_on("kill", "Kill a node's process (SIGKILL). It stays down until `restart`.")
_on("pause", "Stop a node's process in its tracks (SIGSTOP), until `resume`.")
_on("resume", "Let a paused node go on.")
_on("stop", "Stop a node cleanly (SIGTERM). It stays down until `restart`.")
_on("restart", "Start a node again; one that runs is stopped cleanly first.")
_on_network("cut", "Cut a node (or an etcd member) off its networks; needs a lab with --netns.")
_on_network("heal", "Join what was cut.")
_on("lose-disk", "Take a node's disk away: with --images every access to it fails from then on, else its directory is gone.")
_on("return-disk", "Bring it back.")
_on("etcd-kill", "Kill a member of etcd. It stays down until `etcd-restart`.")
_on("etcd-restart", "Start a member of etcd again.")
