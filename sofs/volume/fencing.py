"""FenceGateway: a gateway incarnation counts as dead, whether it is or not.

From then on nothing that it asks has any effect, so its clients can go on elsewhere. The fence is one record; what follows from it (its SMB opens end, or
wait for their owners) is done behind it, in slices, and again when the volume is opened, should a crash have come in between.
"""

from collections.abc import Awaitable

from sofs.errors import SofsError
from sofs.types import Lsn
from sofs.volume import keys
from sofs.volume.api import AnyToken, Binding, FencedOff, FenceGateway, LoseOpens, Reply
from sofs.volume.batch import Batch
from sofs.volume.core import Core
from sofs.volume.disconnection import lose
from sofs.volume.openfile import OpenFile

_SLICE = 128
"""Opens that end without a pause."""


def fence_gateway(core: Core, request: FenceGateway, token: AnyToken | None) -> Reply | Awaitable[Reply]:
    gateway, gateways = request.gateway, core.gateways
    if gateway not in gateways.fenced:
        batch = Batch()
        core.tokens.forget_forwarded(batch, gateway)
        try:
            gateways.fence(batch, gateway, core.clock.now())
            core.gate = core.put(batch, reserved=True)
        except SofsError:
            gateways.fenced.pop(gateway, None)
            raise
        gateways.fenced_one(gateway)
        core.tell(FencedOff(gateway))
    return _end_opens(core, gateway, core.keys.gate(keys.bucket(keys.GATEWAY, gateway)))


async def _end_opens(core: Core, gateway: int, gate: Lsn) -> Reply:
    """What the gateway had is gone, or waits for its owner."""
    for each in (*core.pasts(), core):
        theirs = [opened for opened in each.opens.values() if opened.by.gateway == gateway and opened.mandatory]
        for count, opened in enumerate(theirs, 1):
            if opened.id in each.opens and opened.by.gateway == gateway:
                lose(each, opened)
            if count % _SLICE == 0:
                await core.clock.sleep(0)
    core.kept.flush()
    return Reply(max(gate, core.kept.gate))


def lose_opens(core: Core, request: LoseOpens, token: AnyToken | None) -> Awaitable[Reply]:
    gateway = core.by.gateway
    theirs = [(opened, opened.by) for opened in core.opens.values() if opened.by.gateway == gateway and opened.mandatory]
    return _lose(core, theirs, token)


async def _lose(core: Core, theirs: list[tuple[OpenFile, Binding]], token: AnyToken | None) -> Reply:
    for count, (opened, by) in enumerate(theirs, 1):
        if core.opens.get(opened.id) is opened and opened.by == by:  # nobody has come back to it meanwhile
            lose(core, opened)
        if count % _SLICE == 0:
            await core.clock.sleep(0)
    return core.note_down(Batch(), Reply(core.kept.gate), token, reserved=True)
