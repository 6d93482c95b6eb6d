"""The whole key space of a volume, in one table.

A key is a tag, an owner of eight bytes (big-endian, so that keys sort by number), and for some kinds a suffix. The first nine bytes are
the key's *bucket*: what is scanned together (a directory's entries, a file's leaves) lies in one bucket.

    tag  owner            suffix            value
    M    0                name              volume-wide facts: format, name hash key, policy, upcase table id
    C    0                name              counter, i64 little-endian
    I    inode                              inode (sofs/volume/inode.py)
    D    directory inode  cookie u64        directory entry: inode, kind, name (sofs/volume/directory.py)
    L    map              leaf number u64   leaf: 64 x (address u64), 64 x (CRC32C u32): 256 KiB of a file's map
    B    map                                frozen map, which clones read through: what is behind it, its pages, its readers (sofs/volume/maps.py)
    B    map              reader's map      inode of the reader, or 0 for a frozen map
    W    window                             places of the chunks whose names begin in this 256 KiB window of names
    R    window                             how many leaves name each page of this window that is or was shared (clones)
    E    extent number                      extent: placement, windows that name its pages; with the suffix `n`: live pages u32
    F    extent number                      freed extent: position of the batch that freed it, placement; gone when deleted from the pool
    X    inode            name              extended attribute
    S    inode            cookie u64        named stream: laid out as a directory entry
    A    inode                              explicit security descriptor
    O    open                               open that outlives its connection (sofs/volume/kept_records.py, as the next four)
    V    open             state, range      byte range that it has locked
    k    lock state                         one NFSv4 lock owner's locks on a file
    G    inode            key               grant: a client's right to cache
    P    inode                              mark that the file is deleted with its last open
    c    0                key               a gateway's own record (`KeepRecords`)
    t    session          session, slot     newest token of an NFSv4.1 slot (sofs/volume/tokens.py)
    r    node's incarnation  slot u32       newest request of this slot that another node has forwarded, and its reply (sofs/volume/tokens.py)
    g    gateway's incarnation              gateway of another process, and whether it is fenced (sofs/volume/gateways.py)
    Q    range start                        extent id range granted to a writer
    T    generation       hash of key       token: reply (sofs/volume/tokens.py)
    U    kind of quota    subject, letter   quota: `l` limits; `p` pages and `f` files in use, counters (sofs/volume/quotas/counting.py); `w` tree to be walked
    Z    0                inode             orphan: nameless, deleted when its last open goes, at the latest at recovery
    N    0                number u64        snapshot (sofs/volume/snapshots/history.py)
    J    snapshot         tag, owner, ...   index of what was saved for a snapshot, and of its dead list (sofs/volume/snapshots/saving.py)
    K    window           snapshot u64      dead list: pages of this window that no leaf names any more, and this snapshot or older ones do
    H    snapshot         snapshot u64      how many pages of the first one's dead list the second is the oldest to hold
    Y    window                             pages that were dead and came back by the restoration of a snapshot (sofs/volume/snapshots/deadlists.py)
    a b d i l s x z       as their capitals saved value of such a record as of a snapshot (sofs/volume/snapshots/saving.py)
    Z    1                map               frozen map that has lost readers: trimmed without any, taken over by the last one (sofs/volume/thaw.py)

A file's map has the number of its inode, until it is frozen by a clone of the whole file. Then the file gets a new one: `MAP_BORN` and the position of
the batch that froze the old one.

Addresses (names of pages): a log-born page is named by its position in the log. An extent-born page is named
`EXTENT_BORN | number << 23 | offset in the extent`: extent numbers are never reused, so neither are names. 0 is a hole, 1 is a page
that is reserved but was never written; both read as zeros.
"""

from sofs.types import Inode

BUCKET = 9
"""Bytes of a key that name its bucket."""

LEAF_PAGES = 64
WINDOW_SHIFT = 18
"""A window of names is as large as a leaf: at most 64 pages begin in it."""

HOLE = 0
RESERVED = 1
EXTENT_BORN = 1 << 63
EXTENT_SHIFT = 23
MAP_BORN = 1 << 63
"""Numbers of maps that are no inode's."""

META, COUNTER, INODE, ENTRY, LEAF = b"M", b"C", b"I", b"D", b"L"
PLACES, REFERENCES, EXTENT, FREED = b"W", b"R", b"E", b"F"
EXTENDED, STREAM, DESCRIPTOR, OPEN = b"X", b"S", b"A", b"O"
GRANTED, TOKEN, ORPHAN = b"Q", b"T", b"Z"
RANGE, LOCKS, GRANT, PENDING, CLIENT, SLOT = b"V", b"k", b"G", b"P", b"c", b"t"
FORWARDED, GATEWAY = b"r", b"g"
FROZEN, QUOTA = b"B", b"U"
SNAPSHOT, SAVED_INDEX, DEAD, DEAD_COUNT, REBORN = b"N", b"J", b"K", b"H", b"Y"
VERSIONED = (INODE, ENTRY, LEAF, EXTENDED, STREAM, DESCRIPTOR, ORPHAN, FROZEN)
"""Records that a snapshot shows as they were. All others are of the present only."""
IDLE = ORPHAN + (1).to_bytes(8)
"""The bucket of frozen maps that have lost readers."""


def meta(name: bytes) -> bytes:
    return META + bytes(8) + name


def counter(name: bytes) -> bytes:
    return COUNTER + bytes(8) + name


def bucket(tag: bytes, owner: int) -> bytes:
    """The bucket of all `tag` keys of `owner`, which is also the key where there is no suffix."""
    return tag + owner.to_bytes(8)


def inode(number: Inode) -> bytes:
    return INODE + number.to_bytes(8)


def entry(directory: Inode, cookie: int) -> bytes:
    return ENTRY + directory.to_bytes(8) + cookie.to_bytes(8)


def extended(number: Inode, name: bytes) -> bytes:
    return EXTENDED + number.to_bytes(8) + name


def descriptor(number: Inode) -> bytes:
    return DESCRIPTOR + number.to_bytes(8)


def token(generation: int, digest: bytes) -> bytes:
    return TOKEN + generation.to_bytes(8) + digest


def client(name: bytes) -> bytes:
    return CLIENT + bytes(8) + name


def slots(session: bytes) -> bytes:
    """What the keys of a session's slots begin with; their bucket is the first half of the session's id."""
    return SLOT + session


def slot(session: bytes, number: int) -> bytes:
    return SLOT + session + number.to_bytes(4)


def forwarded(origin: int, slot: int) -> bytes:
    return FORWARDED + origin.to_bytes(8) + slot.to_bytes(4)


def orphan(number: Inode) -> bytes:
    return ORPHAN + bytes(8) + number.to_bytes(8)


def leaf(number: Inode, index: int) -> bytes:
    return LEAF + number.to_bytes(8) + index.to_bytes(8)


def window(address: int) -> int:
    """The window that a page name begins in."""
    return address >> WINDOW_SHIFT


def live_pages(extent: int) -> bytes:
    """The key of an extent's count of live pages."""
    return EXTENT + extent.to_bytes(8) + b"n"


DESTAGED = meta(b"destaged")
"""Position (u64, little-endian) below which no live page is left in the log: log-born names below it are looked up in `W`."""

RESTORING = meta(b"restoring")
"""The restoration that is under way: numbers of the snapshot and of the one taken before it, u64 each."""

LOG_PAGES = counter(b"log pages")
"""Live pages that are in the log."""

FILES = counter(b"files")
"""Inodes in use."""

COUNTED = meta(b"counted")
"""What inodes use is counted of those with lower numbers (u64, little-endian); there is no such record while nothing is counted."""

RESERVED_PAGES = counter(b"reserved pages")
"""Pages that are reserved and were never written."""
