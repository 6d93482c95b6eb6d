"""Grants of opens that exist: Want, Acknowledge, ReturnGrant. What an Open wishes for is `opening`'s business."""

from sofs.errors import InvalidArgument
from sofs.locks import READ, WRITE, GrantKind
from sofs.types import OpenId
from sofs.volume.api import Access, Acknowledge, AnyToken, Granted, Reply, ReturnGrant, Want
from sofs.volume.batch import Batch
from sofs.volume.closing import end_open
from sofs.volume.core import Core
from sofs.volume.openfile import StateKind
from sofs.volume.opening import delegate, wished


def want(core: Core, request: Want, token: AnyToken | None) -> Granted:
    opened, wish = core.open_of(request.open), request.wish
    reply = Granted(core.gate, 0, 0)
    if wish.kind is GrantKind.DELEGATION:
        given = delegate(core, opened, wish, core.by)
        if given is not None:
            reply.delegation = given.id
            reply.rights = READ | WRITE if given.access & Access.WRITE_DATA else READ
    else:
        if wish.key and wish.key != opened.key:
            raise InvalidArgument("an open's key is settled when it is opened")
        grant = wished(core, opened, wish)
        if grant is not None:
            reply.rights, reply.epoch = grant.rights, grant.epoch
    if core.kept.dirty:
        core.note_down(Batch(), reply, token)
    return reply


def acknowledge(core: Core, request: Acknowledge, token: AnyToken | None) -> Granted:
    left = core.locks.acknowledge(request.inode, request.key, request.rights)
    # The answer says what was acknowledged, even if what is left is being recalled already (smbtorture smb2.lease.breaking3).
    kept = request.rights if request.rights & READ else 0
    reply = Granted(core.gate, kept, 0) if left is None else Granted(core.gate, kept, left.epoch, left.delegation)
    if core.kept.dirty:
        core.note_down(Batch(), reply, token, reserved=True)
    return reply


def return_grant(core: Core, request: ReturnGrant, token: AnyToken | None) -> Reply:
    opened = core.open_of(OpenId(request.delegation))
    if opened.state is not StateKind.DELEGATION:
        raise InvalidArgument(f"{request.delegation} is not a delegation")
    reply = Reply(core.gate)
    end_open(core, opened, reply, token)
    return reply
