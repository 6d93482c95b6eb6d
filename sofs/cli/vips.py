"""`sofs vip …`: virtual addresses, which move between nodes."""

from __future__ import annotations

from typing import Annotated

import typer

from sofs.admin import api
from sofs.cli import show
from sofs.cli.target import Target, add_list, on_node

vip = typer.Typer(help="Virtual addresses: where clients find the cluster, whichever nodes run.", no_args_is_help=True)

COLUMNS: list[show.Column] = [
    ("ADDRESS", lambda vip: vip.address),
    ("HOLDER", lambda vip: vip.holder or "nobody"),
    ("INTERFACE", lambda vip: vip.interface or "by its network"),
    ("TIED TO", lambda vip: f"node {vip.group}" if vip.group else f"volume {vip.volume}" if vip.volume else ""),
]

add_list(vip, api.Operations.vips, "All virtual addresses, and who has them.", COLUMNS, "No virtual addresses yet: sofs vip add ADDRESS")


@vip.command("add")
@on_node
def add(
    on: Target,
    address: str,
    interface: Annotated[str, typer.Option(help="Where to set it (default: the interface with its network).")] = "",
    of: Annotated[str, typer.Option("--of", metavar="NODE", help="The node whose NFS clients come to it, as long as that runs.")] = "",
    volume: Annotated[str, typer.Option(help="The volume whose coordinator it follows.")] = "",
) -> None:
    """Give the cluster an address."""
    added = on.client.ask(api.Operations.add_vip, api.Vip(address, interface, of, volume))
    on.tell(added, f"address {added.address} added; `sofs vip list` shows where it is")


@vip.command("remove")
@on_node
def remove(on: Target, address: str) -> None:
    """Take an address away. Connections to it end."""
    on.client.ask(api.Operations.remove_vip, address)
    on.tell({"removed": address}, f"address {address} removed")
