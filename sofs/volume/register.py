"""The opens of a volume, findable by all that requests know them by; and the clients that can have none any more."""

from sofs.types import Inode, OpenId
from sofs.volume.openfile import LockState, OpenFile

_MOST_DEPARTED = 65536


class Register:
    def __init__(self) -> None:
        self.opens: dict[OpenId, OpenFile] = {}
        self.by_inode: dict[Inode, list[OpenFile]] = {}
        """Opens of each file, its streams' among them."""
        self.by_guid: dict[tuple[bytes, bytes], OpenFile] = {}
        """By client and CreateGuid."""
        self.by_owner: dict[tuple[Inode, bytes], OpenFile] = {}
        """NFSv4 opens by open-owner."""
        self.by_client: dict[bytes, dict[OpenId, OpenFile]] = {}
        self.leases: dict[bytes, dict[OpenId, OpenFile]] = {}
        """Opens by the key of the lease that they were opened with: all of one file."""
        self.doomed: dict[Inode, OpenFile] = {}
        """Through which open each delete-pending file was marked: its name is the one to go."""
        self.locks: dict[OpenId, LockState] = {}
        self.locks_of: dict[Inode, dict[bytes, LockState]] = {}
        """The lock states of each file, by their owners."""
        self.departed: dict[bytes, None] = {}
        """Clients that have ended, the newest last: what they asked for before may arrive only now, and must leave nothing behind."""

    def add(self, opened: OpenFile) -> None:
        self.opens[opened.id] = opened
        self.by_inode.setdefault(opened.base, []).append(opened)
        if opened.guid:
            self.by_guid[opened.client, opened.guid] = opened
        if opened.client:
            self.by_client.setdefault(opened.client, {})[opened.id] = opened
        if opened.lease is not None:
            self.leases.setdefault(opened.lease, {})[opened.id] = opened
        if not opened.mandatory and opened.owner:
            self.by_owner[opened.inode, opened.owner] = opened

    def remove(self, opened: OpenFile) -> None:
        """Also the lock states that belong to the open."""
        del self.opens[opened.id]
        others = self.by_inode[opened.base]
        if len(others) == 1:
            del self.by_inode[opened.base]
        else:
            others.remove(opened)
        if opened.guid and self.by_guid.get((opened.client, opened.guid)) is opened:
            del self.by_guid[opened.client, opened.guid]
        if opened.client:
            _take(self.by_client, opened.client, opened.id)
        if opened.lease is not None:
            _take(self.leases, opened.lease, opened.id)
        if not opened.mandatory:
            self.by_owner.pop((opened.inode, opened.owner), None)
            for state in list(self.locks_of.get(opened.inode, {}).values()):
                if state.open == opened.id:
                    self.remove_locks(state)

    def add_locks(self, state: LockState) -> None:
        self.locks[state.id] = state
        self.locks_of.setdefault(state.inode, {})[state.owner] = state

    def remove_locks(self, state: LockState) -> None:
        del self.locks[state.id]
        owners = self.locks_of[state.inode]
        del owners[state.owner]
        if not owners:
            del self.locks_of[state.inode]

    def lock_state(self, inode: Inode, owner: bytes) -> LockState | None:
        return self.locks_of.get(inode, {}).get(owner)


def remember(departed: dict[bytes, None], who: bytes) -> None:
    """The newest are enough: what is under way when its client ends does not stay so for long."""
    departed[who] = None
    if len(departed) > _MOST_DEPARTED:
        del departed[next(iter(departed))]


def _take(index: dict[bytes, dict[OpenId, OpenFile]], key: bytes, id: OpenId) -> None:
    members = index[key]
    del members[id]
    if not members:
        del index[key]
