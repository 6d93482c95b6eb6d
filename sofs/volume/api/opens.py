"""Requests about opens: what SMB calls an open and NFSv4 open state, and how long it outlives its connection."""

import msgspec

from sofs.types import Inode, OpenId
from sofs.volume.api.locks import Wish
from sofs.volume.api.values import Action, Attributes, Binding, Caller, Disposition, Reply, Request


class Open(Request):
    """Opens, and makes if the disposition says so, the file at `path` below `at` (MS-SMB2 3.3.5.9, MS-FSA 2.1.5.1).

    Raises what `Lookup` raises, `Exists`, `SharingViolation`, `DeletePending`, `AccessDenied`, `IsDirectory`, `CannotDelete`, `NoSpace`, ... Answers `Opened`.
    """

    caller: Caller
    at: Inode
    path: tuple[bytes, ...]
    access: int
    share: int
    disposition: Disposition
    fold: bool = True
    directory: bool | None = None
    """True: must be (or becomes) a directory; False: must not be one; None: either (a file is made)."""
    stream: bytes = b""
    """A named stream of the file (without `:` and `:$DATA`)."""
    delete_on_close: bool = False
    follow: bool = True
    """False opens a symbolic link itself (FILE_OPEN_REPARSE_POINT)."""
    mode: int | None = None
    """For what is made. SMB: only where nothing is inherited; NFS: also on top of that (RFC 8881 6.4.3). None: the volume's default."""
    flags: int = 0
    security: bytes | None = None
    """A self-relative security descriptor for what is made (MS-DTYP 2.4.6)."""
    attributes: tuple[tuple[bytes, bytes], ...] = ()
    """Extended attributes for what is made."""
    allocation: int = 0
    """The size that a new file will have, as its client announces; `NoSpace` if there is no room for so much. Nothing is reserved."""
    owner: bytes = b""
    """Who holds the open, as the gateway names it: the lease key or session for SMB, the open-owner for NFSv4."""
    guid: bytes = b""
    """CreateGuid; an open with the same one is answered, not opened again."""
    mandatory: bool = True
    """An SMB open: its byte ranges bind everybody's I/O, others' ranges bind its own, and it waits where an NFS one is `Delayed`.

    An NFSv4 OPEN (False) by an `owner` that has the file open already is that open with more rights and denials: its number is answered
    again, with its sequence one higher (RFC 8881 18.16.3)."""
    client: bytes = b""
    """Who is behind the open across its connections: the ClientGuid, or NFSv4's client id. `EndClient` ends all that is one client's."""
    keep: "Keep | None" = None
    """How the open outlives its connection; None: it does not."""
    wish: Wish | None = None
    """The grant that its client would like with it."""
    parent_key: bytes = b""
    """The directory grant (`Wish.key`) that what this open does in its directory does not break: ClientGuid and ParentLeaseKey."""
    reclaim: bool = False
    """The client had this open before the volume's records were lost (CLAIM_PREVIOUS); only in grace, else `NoGrace`."""
    away: bool = False
    """An open that this session has is not answered for its `guid`: its gateway knows by itself what it has answered it (MS-SMB2's Open.IsReplayEligible)."""
    anew: bool = False
    """Not answered for its `guid` at all: its client says that it is no repetition."""


class Keep(msgspec.Struct, frozen=True, array_like=True):
    """An open that is a record of the volume: it survives its connection, its gateway and, with it, its byte ranges and grant."""

    timeout_ms: int
    """So long it waits for its owner after its connection is gone; -1: until `EndClient` (NFSv4, whose clients have leases at the gateway)."""
    persistent: bool = False
    """Nobody else's request ends it meanwhile, MS-SMB2 3.3.5.9.12; a durable one gives way, MS-SMB2 3.3.4.18."""
    user: bytes = b""
    """DurableOwner: only this user comes back to it (the SID)."""


class Opened(Reply):
    open: OpenId
    action: Action
    attributes: Attributes
    access: int
    """The rights granted."""
    maximal: int
    """The rights this caller could have had (MxAc)."""
    path: tuple[bytes, ...]
    """As stored."""
    stream: bytes = b""
    """As stored."""
    grant: int = 0
    """The rights to cache that were granted (`sofs.locks.READ`, `HANDLE`, `WRITE`), those the key has already among them."""
    epoch: int = 0
    """The grant's, MS-SMB2 2.2.13.2.10."""
    breaking: bool = False
    """The grant is being recalled just now (SMB2_LEASE_FLAG_BREAK_IN_PROGRESS)."""
    delegation: OpenId = OpenId(0)
    """The number of the delegation that was given: an open of its own, through which its holder reads and writes. 0 for none."""
    sequence: int = 1
    """How often the open state has changed: the stateid's seqid, RFC 8881 8.2.2. 0: an open made earlier, found by its `guid`, whose client is away;
    `Reconnect` takes it over."""
    keep_ms: int = 0
    """How long it will wait for its owner after a disconnection; 0: not at all, -1: as long as its client lives."""
    key: bytes = b""
    """The key of its grant: what was wished, or what the volume made for an oplock."""
    version: int = 2
    """Of its lease: that of the request which made it."""


class Downgrade(Request):
    """Gives rights and denials of an NFSv4 open back (OPEN_DOWNGRADE). Raises `InvalidArgument` for what it never had. Answers `State`."""

    open: OpenId
    access: int
    share: int


class State(Reply):
    """What an NFSv4 request about state is answered: the state's number and sequence (RFC 8881 8.2)."""

    id: OpenId
    sequence: int
    open: OpenId = OpenId(0)
    """For locks: the open they were made through, which is what their holder reads and writes through."""


class Disconnect(Request):
    """The open's connection is gone: it waits for its owner if it was to be kept, else it is closed."""

    open: OpenId


class Reconnect(Request):
    """The owner is back (MS-SMB2 3.3.5.9.7 and 3.3.5.9.12); the open is this gateway's and session's from now on, and late requests of its former ones are
    `Fenced`. Raises `NotFound` unless everything fits: CreateGuid, client, grant key, user; an empty CreateGuid or client is not
    compared. Answers `Opened`, or `Bound`."""

    caller: Caller
    open: OpenId
    guid: bytes
    client: bytes
    user: bytes
    key: bytes | None
    """The key of the lease that the open was made with; None: it was made without one."""
    former: Binding | None = None
    """The open may be taken from this session, which is known to be gone, although it is still connected through it (a replayed CREATE on another channel is
    not this)."""


class Bound(Reply):
    """What `Reconnect` answers if everything fits but that the open is still connected, through another gateway or session. That may be gone without anybody
    having noticed: who is sure of it fences the gateway (`FenceGateway`), or takes the open from that session (`former`)."""

    gateway: int
    session: int


class Retain(Request):
    """The open outlives its connection from now on, whatever it was made for: FSCTL_LMR_REQUEST_RESILIENCY (MS-SMB2 3.3.5.15.9)."""

    open: OpenId
    keep: "Keep"


class EndClient(Request):
    """Ends all opens, ranges and grants of a client (lease expired, DESTROY_CLIENTID, a restarted client's EXCHANGE_ID).
    Its number is not to be used again: an `Open` that comes later finds it `Closed`."""

    client: bytes


class EndUnclaimed(Request):
    """An NFSv4 client has reclaimed all that it has: what else is recorded of it ends, where records may have been lost, the end of these opens among them
    (RFC 8881 18.51). Answers `ClientStates`: what is left."""

    client: bytes


class ListClient(Request):
    """All state of an NFSv4 client here, from which its gateway rebuilds its stateids after a restart, or a new home does that takes the client over: it is
    that gateway's from now on, and late requests of its former one about it are `Fenced`. Answers `ClientStates`."""

    client: bytes


class StateInfo(msgspec.Struct, array_like=True):
    id: OpenId
    kind: int
    """1 open, 2 byte-range locks of one owner, 3 delegation."""
    sequence: int
    inode: Inode
    owner: bytes
    open: OpenId
    """For locks: the open they were made through; else itself."""
    access: int
    share: int


class ClientStates(Reply):
    states: list[StateInfo]


class Close(Request):
    """Ends an open with its locks; the last one to close deletes what is delete-pending. `attributes` asks for them. Answers `ClosedReply`."""

    open: OpenId
    attributes: bool = False


class ClosedReply(Reply):
    attributes: Attributes | None


class ListOpens(Request):
    """All opens of the volume, or one file's (for operators, and for a gateway that ends a session). Answers `OpenList`."""

    inode: Inode | None = None


class OpenInfo(msgspec.Struct, array_like=True):
    """An open, as an operator sees it."""

    open: OpenId
    inode: Inode
    directory: Inode
    name: bytes
    """The name it was opened by, followed by `:` and the stream's if it is one."""
    uid: int
    access: int
    share: int
    gateway: int
    session: int
    delete_pending: bool
    client: bytes = b""
    """`Open.client`."""


class OpenList(Reply):
    opens: list[OpenInfo]


class SetDisposition(Request):
    """Marks for deletion at the last close, or takes the mark away (MS-FSA 2.1.5.15.3). Raises `NotEmpty`, `CannotDelete`. `posix` removes the name at once."""

    open: OpenId
    delete: bool
    posix: bool = False
