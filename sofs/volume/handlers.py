"""Which handler carries out which request: one table.

A handler is a function of the volume's core, the request and its token. It answers at once, or with an awaitable when data has to be
fetched or a client has to give something back first.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from sofs.volume import (
    api,
    attributes,
    clients,
    closing,
    descriptors,
    disconnection,
    extended,
    fencing,
    granting,
    io,
    locking,
    lookup,
    make,
    opens,
    removal,
    rename,
    reparse,
    streams,
    watching,
)
from sofs.volume.api import Reply, Request
from sofs.volume.core import Core
from sofs.volume.quotas import requests as quota_requests
from sofs.volume.snapshots import requests as snapshot_requests

Handler = Callable[[Core, Any, Any], Reply | Awaitable[Reply]]
"""The third argument is the request's token, of either kind: a handler only passes it on to `Core.commit`. Through whom it came says `Core.by`."""


HANDLERS: dict[type[Request], Handler] = {
    api.Lookup: lookup.lookup,
    api.ReadDirectory: lookup.read_directory,
    api.ScanDirectory: lookup.scan_directory,
    api.ReadLink: lookup.read_link,
    api.Make: make.make,
    api.Link: make.link,
    api.Remove: removal.remove,
    api.Rename: rename.rename,
    api.Open: opens.open_file,
    api.Close: closing.close,
    api.SetDisposition: closing.set_disposition,
    api.ListOpens: closing.list_opens,
    api.GetAttributes: attributes.get_attributes,
    api.SetAttributes: attributes.set_attributes,
    api.CheckAccess: attributes.check_access,
    api.GetSecurity: descriptors.get_security,
    api.SetSecurity: descriptors.set_security,
    api.GetExtended: extended.get_extended,
    api.SetExtended: extended.set_extended,
    api.ListStreams: streams.list_streams,
    api.Flush: io.flush,
    api.Allocate: io.allocate,
    api.Punch: io.punch,
    api.Ranges: io.ranges,
    api.Clone: io.clone,
    api.Copy: io.copy,
    api.GetSpace: io.get_space,
    api.Lock: locking.lock,
    api.Unlock: locking.unlock,
    api.Downgrade: locking.downgrade,
    api.Disconnect: disconnection.disconnect,
    api.Reconnect: disconnection.reconnect,
    api.Retain: disconnection.retain,
    api.EndClient: clients.end_client,
    api.EndUnclaimed: clients.end_unclaimed,
    api.ListClient: clients.list_client,
    api.ListClients: clients.list_clients,
    api.BeginGrace: clients.begin_grace,
    api.TestLock: locking.test_lock,
    api.FreeState: locking.free_state,
    api.Want: granting.want,
    api.Acknowledge: granting.acknowledge,
    api.ReturnGrant: granting.return_grant,
    api.KeepRecords: clients.keep_records,
    api.ListRecords: clients.list_records,
    api.ListSlots: clients.list_slots,
    api.ForgetSession: clients.forget_session,
    api.EndGrace: clients.end_grace,
    api.FenceGateway: fencing.fence_gateway,
    api.LoseOpens: fencing.lose_opens,
    api.Watch: watching.watch,
    api.GetReparse: reparse.get_reparse,
    api.SetReparse: reparse.set_reparse,
    api.DeleteReparse: reparse.delete_reparse,
    api.MakeSnapshot: snapshot_requests.make_snapshot,
    api.ListSnapshots: snapshot_requests.list_snapshots,
    api.DeleteSnapshot: snapshot_requests.delete_snapshot,
    api.RestoreSnapshot: snapshot_requests.restore_snapshot,
    api.SetQuota: quota_requests.set_quota,
    api.GetQuota: quota_requests.get_quota,
    api.ListQuotas: quota_requests.list_quotas,
}
