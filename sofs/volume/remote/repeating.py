"""Which requests may be carried out twice without harm, and which leave something that has to be undone when their client takes them back.

All others are forwarded with a token (`CallToken`), so that asking again finds what was answered the first time. Here stands what needs none: what
only reads, and what says how something is to be from now on without undoing what somebody else may have done in between.
"""

from sofs.volume import api
from sofs.volume.api import Reply, Request

REPEATABLE: frozenset[type[Request]] = frozenset(
    {
        # These read. Watch is among them because it is in no record: a second one for an open changes nothing.
        api.Lookup, api.ReadDirectory, api.ScanDirectory, api.ReadLink, api.GetAttributes, api.CheckAccess, api.GetSecurity, api.GetExtended,
        api.ListStreams, api.Flush, api.Ranges, api.GetSpace, api.TestLock, api.ListClient, api.ListClients, api.ListRecords, api.ListSlots,
        api.ListOpens, api.ListSnapshots, api.GetQuota, api.ListQuotas, api.GetReparse, api.Watch,
        # What has ended does not begin again, under the same number.
        api.EndClient, api.EndUnclaimed, api.ForgetSession, api.FenceGateway, api.EndGrace,
    }
)  # fmt: skip


ENDING: frozenset[type[Request]] = frozenset({api.Close, api.Disconnect, api.EndClient, api.ForgetSession, api.LoseOpens})
"""Never given up, however long nobody serves the volume: what is not ended now nobody would ever end, and it keeps others out."""


def opposite(request: Request, reply: Reply) -> Request | None:
    """What undoes a request that its client has taken back and that was carried out all the same; None where what is done is done."""
    if isinstance(request, api.Lock):
        return api.Unlock(request.open, request.offset, request.length, request.owner, request.number, request.element, undoes=True)
    if isinstance(request, api.Open) and isinstance(reply, api.Opened) and reply.sequence == 1:
        # An open that was there before (sequence 0), or has grown, is not this request's alone.
        return api.Close(reply.open)
    if isinstance(request, api.Reconnect) and isinstance(reply, api.Opened):
        return api.Disconnect(reply.open)
    return None
