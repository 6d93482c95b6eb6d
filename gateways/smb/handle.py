"""What a client holds: sessions, tree connects and opens. Values with little behaviour; commands change them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateways.exports import Share
from gateways.identity import User
from gateways.smb.crypto import CipherId, Dialect, Sealer, Signer, SigningAlgorithm
from sofs.types import Inode, OpenId
from sofs.volume.api import Binding, Caller, Volume

if TYPE_CHECKING:
    from gateways.smb.auth import Logon
    from gateways.smb.connection import Connection
    from gateways.smb.crypto import Preauth
    from gateways.smb.durable import Durable
    from gateways.smb.leases import Holding
    from gateways.smb.notices import Notices
    from gateways.smb.rpc.pipe import Pipe

MAX_TREES = 1024
MAX_HANDLES = 16_384
"""Of one session."""


class Channel:
    """A session on one of its connections, MS-SMB2 3.3.1.14, with the key that signs there."""

    __slots__ = ("connection", "logon", "preauth", "ready", "session", "signer")

    def __init__(self, session: Session, connection: Connection) -> None:
        self.session = session
        self.connection = connection
        self.ready = False
        """Requests of the session are taken here."""
        self.signer: Signer | None = None
        self.logon: Logon | None = None
        """While a logon, or a later one of the same session, is in progress here."""
        self.preauth: Preauth | None = None


class Session:
    """One logged-on user, on one connection or several, MS-SMB2 3.3.1.8."""

    def __init__(self, number: int, binding: Binding) -> None:
        self.number = number
        self.binding = binding
        self.client = b""
        """ClientGuid of its first connection."""
        self.channels: list[Channel] = []
        """Oldest first; those whose logon is not complete among them."""
        self.ready = False
        self.user = ""
        self.accounts: dict[str, User] = {}
        """The record of each user who has logged on in it, as it was then: what he opened stays open when another one, or nobody, logs on after him."""
        self.caller = Caller(65534, 65534)
        self.anonymous = False
        self.dialect: Dialect | None = None
        self.signing_algorithm = SigningAlgorithm.AES_CMAC
        self.cipher: CipherId | None = None
        self.signer: Signer | None = None
        """With the key of the first channel: it signs the binding of others."""
        self.signing = False
        """Unsigned messages are refused."""
        self.sealer: Sealer | None = None
        self.encrypt = False
        """Unencrypted messages are refused."""
        self.expires = 0.0
        """When its user has to log on again, on the monotonic clock; 0: never."""
        self.trees: dict[int, Tree] = {}
        self.handles: dict[int, Handle] = {}
        self.next_tree = 1
        self.created = 0.0

    @property
    def peer(self) -> str:
        """The client's address, on the oldest connection."""
        return self.channels[0].connection.link.peer if self.channels else ""


class Tree:
    """One share, connected, MS-SMB2 3.3.1.9. `volume` is None for IPC$."""

    def __init__(self, number: int, session: Session, share: Share | None, volume: Volume | None) -> None:
        self.number = number
        self.session = session
        self.volume = volume
        self.share = share
        self.root = share.root if share is not None else Inode(0)
        self.encrypt = self.durable = self.read_only = self.scaleout = False
        """`encrypt`: nothing but encrypted messages. `durable`: changes of data and names are told once they are stable. `scaleout`: nothing but reads may
        be cached."""
        if share is not None:
            self.follow(share)

    def follow(self, share: Share | None) -> bool:
        """Takes the share's settings as they are now. False if it is no longer the same place."""
        before = self.share
        if share is None or before is None or not share.smb.enabled:
            return False
        if (share.volume, share.root, share.number) != (before.volume, before.root, before.number):
            return False
        self.share = share
        self.encrypt, self.durable, self.read_only = share.smb.encrypt, share.smb.continuously_available, share.read_only
        self.scaleout = self.durable and share.smb.scaleout
        return True


class Listing:
    """Where an open directory's enumeration stands, MS-SMB2 3.3.5.18."""

    __slots__ = ("cookie", "dots", "ended", "given", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.dots = 0
        """How many of `.` and `..` have been given."""
        self.cookie = 0
        self.ended = False
        self.given = False
        """Whether any entry has been given: the first failure is NO_SUCH_FILE, a later one NO_MORE_FILES."""


class Handle:
    """One open file, directory, stream or pipe, MS-SMB2 3.3.1.10."""

    __slots__ = (
        "access", "began", "directory", "durable", "holding", "id", "inode", "listing", "mode", "name", "notices", "number", "persistent",
        "pipe", "position", "quota_after", "sequence", "session", "stream", "tree", "volume", "write_through",
    )  # fmt: skip

    def __init__(self, number: int, tree: Tree, open_id: OpenId, access: int, name: tuple[bytes, ...]) -> None:
        self.number = number
        """The volatile half of the FileId; unique on this node."""
        self.persistent = open_id or number
        """Names the open even when its connection is gone, or this gateway."""
        self.tree = tree
        self.session = tree.session
        assert tree.volume is not None or not open_id
        self.volume: Volume = tree.volume  # type: ignore[assignment]  # None only for pipes, which no volume command reaches
        self.id = open_id
        self.sequence = 0
        """ChannelSequence of the newest request, MS-SMB2 3.3.5.2.10; -1: its CREATE may yet be repeated, for nothing else has come."""
        self.began = 0
        """ChannelSequence of the CREATE, where that came back to an open which another gateway may have had."""
        self.access = access
        """The rights granted."""
        self.name = name
        """As stored, from the share's root."""
        self.stream = b""
        self.inode = Inode(0)
        self.directory = False
        self.write_through = False
        self.mode = 0
        """Create options that FileModeInformation tells."""
        self.position = 0
        self.listing: Listing | None = None
        self.pipe: Pipe | None = None
        self.holding: Holding | None = None
        """Its lease or oplock."""
        self.durable: Durable | None = None
        self.quota_after = -1
        """The user whose quota was told last."""
        self.notices: Notices | None = None
        """Set once it watches its directory."""
