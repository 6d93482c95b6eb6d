"""This node's virtual addresses, put together from its parts: the cluster's records, the gateways, and the host's interfaces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sofs.assembly import Assembly
from sofs.cluster.vips import Facts, Vips
from sofs.doors import Doors
from sofs.runtime.system_addresses import SystemAddresses
from sofs.supervision import HELD


def virtual_addresses(assembly: Assembly, doors: Doors, data: Path) -> Vips | None:
    """None for a single node, whose addresses are its own. To be opened when the doors are."""
    membership, interconnect, host = assembly.membership, assembly.interconnect, assembly.host
    if membership is None or interconnect is None:
        return None

    def facts() -> Facts:
        return Facts(
            members={id: member.state for id, member in membership.members.items()},
            dead={int(id): incarnation for id, incarnation in membership.dead.items()},
            coordinators={id: configuration.coordinator for id, configuration in host.view.configurations.items()},
        )

    def note(held: Sequence[tuple[str, str]]) -> None:
        # Not synced: addresses do not outlive the host either.
        (data / HELD).write_text("".join(f"{address} {interface}\n" for address, interface in held))

    vips = Vips(
        interconnect.node, interconnect.incarnation, assembly.store, assembly.ports.clock, interconnect, SystemAddresses(), doors, facts, note
    )
    membership.on_change(vips.look)
    membership.on_dead(lambda node, incarnation: vips.look())
    host.view.on_change(lambda *_: vips.look())
    return vips
