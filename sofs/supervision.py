"""What makes a failover quick: that a process has ended is recorded at once, by whoever can prove it.

The other nodes may take over from a node that does not answer only when its promises have run out. The record `dead/<node id>` spares them that
wait, so it must never be wrong: it is written only of what `sofs.cluster.running` has shown to have ended, with the lock of the node's data
directory in hand, which the kernel gives away when the process is gone. The incarnation comes from the same file, not from the record under `nodes/`: that one
needs the store, and its process may have died before it was written.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from sofs.cluster.records import DeadRecord
from sofs.cluster.running import Ran
from sofs.coordination import OutcomeUnknown, Put, Store, keys
from sofs.errors import SofsError, Unavailable
from sofs.runtime.system_addresses import SystemAddresses

log = structlog.get_logger("supervisor")

HELD = "vips"
"""In the data directory: which addresses the kernel has been given, a line `ADDRESS INTERFACE` each."""
RETRY_S = 0.2
RESTART = 75
"""The exit status (EX_TEMPFAIL) of a process that the cluster goes on without, and that is to be started again at once."""


async def record(store: Store, ran: Ran, by: str, patience_s: float) -> None:
    """Puts the record, as soon as the store takes it. Raises `Unavailable` when that took longer than `patience_s`."""
    value = DeadRecord(incarnation=ran.incarnation, by=by).encode()
    try:
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    await store.transact([], [Put(keys.dead(ran.node), value)])
                except (Unavailable, OutcomeUnknown):
                    # Twice the same is no harm.
                    await asyncio.sleep(RETRY_S)
                else:
                    log.info("node.died", node=f"{ran.node:016x}", incarnation=f"{ran.incarnation:016x}", by=by)
                    return
    except TimeoutError:
        raise Unavailable(f"the coordination store did not take the record within {patience_s:.0f} s") from None


def remove_left_behind(data: Path) -> list[str]:
    """Takes from the kernel what a process that has ended was given, before anybody is told of its end. Gives what could not be taken, with reasons."""
    path = data / HELD
    if not path.exists():
        return []
    trouble = []
    addresses = SystemAddresses()
    for line in path.read_text().splitlines():
        address, _, interface = line.partition(" ")
        try:
            addresses.remove(address, interface)
        except SofsError as error:
            trouble.append(str(error))
    path.unlink()
    return trouble
