"""The ports through which everything below `sofs/` reaches time, chance, disks and the network.

Each has a real adapter beside this module and a simulated one, so that the production code runs
unchanged, with injected faults, on a deterministic loop under virtual time. Ports are narrow and low: what they
hand out is bytes and numbers. All errors of the operating system become `SofsError`s in the adapters.

Reads and syncs may have to wait for a disk. They return `None` (or the value) when the answer is
already here, and an awaitable only when a thread has to fetch it: callers on the hot path test for
`None` first and never pay for a task.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from sofs.runtime.later import Later
from sofs.types import Time

Buffer = bytes | bytearray | memoryview


class Timer(Protocol):
    """A call that has been scheduled."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time, as this host sees it."""

    def now(self) -> Time:
        """Wall-clock time, for what users see. It may jump."""

    def monotonic(self) -> float:
        """Seconds on a clock that only runs while the host is awake."""

    def boottime(self) -> float:
        """Seconds on CLOCK_BOOTTIME: suspended time counts, as leases need it."""

    def call_later(self, delay: float, call: Callable[[], object]) -> Timer:
        """Runs `call` on the loop after `delay` seconds."""

    def call_soon(self, call: Callable[[], object]) -> None:
        """Runs `call` on the loop at the end of this tick."""

    def hold(self) -> None:
        """A batch begins that ends with `settle`: until then the loop need not be told of what `call_soon` puts off. Of batches within each other the
        outermost settles.
        """

    def settle(self) -> None:
        """The tick is as good as over: what `call_soon` has put off is done now, if the clock can do that."""

    async def sleep(self, delay: float) -> None: ...


class Random(Protocol):
    """Chance: unpredictable in production, a seeded sequence in simulation."""

    def bytes(self, count: int) -> bytes: ...

    def number(self, bits: int) -> int:
        """A uniform integer of `bits` bits."""


class File(Protocol):
    """An open file or device. Offsets and lengths are bytes; short transfers never happen: reads beyond the end
    give zeros' worth of nothing (a smaller count), writes are whole or raise.
    """

    @property
    def size(self) -> int: ...

    def read(self, offset: int, into: Sequence[memoryview]) -> int | Awaitable[int]:
        """Fills the buffers in order; gives the count of bytes read, smaller only at the file's end.

        Answers at once when the page cache has them all, else from a thread. Raises `DiskFailed`.
        """

    def read_now(self, offset: int, into: Sequence[memoryview]) -> int:
        """The same, waiting for the disk inline: for start-up and recovery."""

    def read_stored(self, offset: int, into: memoryview) -> Awaitable[int]:
        """As `read`, but what the disk has, past the page cache and without a trace in it, where the system allows that.

        For whoever looks for rot: what is in memory says nothing of it. Offset and length are multiples of a page.
        """

    def forget(self, offset: int, length: int) -> None:
        """Drops what the page cache has of the range, apart from what the disk has not yet: the next `read` asks the disk."""

    def write(self, offset: int, data: Sequence[Buffer]) -> None:
        """Gathers `data` into the page cache at `offset`. Raises `NoSpace` or `DiskFailed`; then any part may have been written."""

    def write_out(self, offset: int, data: Sequence[Buffer]) -> Awaitable[None]:
        """The same followed by `sync`, in a thread: for large data that must be durable before it is named."""

    def sync(self, quietly: bool = False) -> Later[None]:
        """Completes when all that was written before the call is durable (fdatasync); the name is `sync_directory`'s business.

        `quietly`: nobody need be told before `Files.hurry`, which saves a process that waits for something else as well from being woken up.

        Raises `DiskFailed`; after that nothing written since the last successful sync may be trusted.
        """

    def sync_now(self) -> None: ...

    def allocate(self, offset: int, length: int) -> None:
        """Reserves space, so that later writes there cannot run out of it; the file grows to `offset + length`
        if it was shorter. What had not been written reads as zeros. Raises `NoSpace`.
        """

    def punch(self, offset: int, length: int) -> None:
        """Gives space back; the range then reads as zeros, the size stays."""

    def truncate(self, size: int) -> None: ...

    def close(self) -> None:
        """Reads and syncs under way still complete. Closing twice is no error."""


class Space(NamedTuple):
    """How full a file system is, in bytes."""

    total: int
    free: int


class Files(Protocol):
    """A host's disks, as paths. Names become durable with `sync_directory` of their parent."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> File:
        """Opens for reading and writing. Raises `NotFound`, `Exists`, `ReadOnly`, `DiskFailed`, `NoSpace`."""

    def list(self, path: str) -> list[str]:
        """Sorted names. Raises `NotFound`."""

    def exists(self, path: str) -> bool: ...

    def make_directory(self, path: str) -> None:
        """With its parents; no error if it exists."""

    def rename(self, old: str, new: str) -> None:
        """Replaces `new`, atomically."""

    def remove(self, path: str) -> None:
        """Removes a file or an empty directory. Raises `NotFound`."""

    def sync_directory(self, path: str) -> None: ...

    def hurry(self) -> None:
        """Tells of all quiet syncs that are done, before it returns, and of those under way as soon as they are."""

    def space(self, path: str) -> Space: ...

    def lock(self, path: str) -> File:
        """Opens `path` (created if need be) and holds it exclusively until closed; raises `Unavailable` if another process has it."""

    def records(self, path: str, size: int) -> "Records":
        """Opens (or makes) an ordered record environment in directory `path`, growing to at most `size` bytes.

        What it holds then is durable, as is the name `path` in its directory; the directories above are the caller's.
        """


class Records(Protocol):
    """An ordered map from bytes to bytes on a disk: LMDB, or a simulated sibling.

    A commit is atomic and durable. Readers see one fixed state, that of the last `refresh`, however many commits happen meanwhile.
    Keys are 1 to 511 bytes.
    """

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with `start <= key < end`, in order, as this state has them. Not to be used on across a `refresh`."""

    def commit(self, changes: Sequence[tuple[bytes, bytes | None]]) -> Awaitable[None]:
        """Applies puts and deletions (`None`), given in ascending key order, in one durable transaction, in a thread.

        Raises `NoSpace`, `DiskFailed`; then nothing was changed.
        """

    def refresh(self) -> None:
        """From now on readers see the newest commit."""

    def copy(self, path: str) -> Awaitable[None]:
        """Writes a compact copy of the newest commit into the new directory `path`."""

    def close(self) -> None: ...


CONGESTED = 16 << 20
"""Unsent bytes from which on a connection is congested, until nearly all of them have left."""


class Connection(Protocol):
    """A byte stream to a peer. Sans-I/O protocol cores sit behind `Network`; see `gateways/server.py` for the hot shell."""

    peer: tuple[str, int]
    congested: bool
    """The peer, or the way to it, does not take what is sent as fast as it is."""

    @property
    def names(self) -> tuple[str, ...]:
        """The URIs in the certificate by which the peer has proved who it is; none without TLS."""

    def send(self, data: Sequence[Buffer]) -> None:
        """Queues the gathered bytes; they must not change until sent."""

    def pause(self) -> None:
        """Receives nothing until `resume`, apart from what is on its way to the receiver already."""

    def resume(self) -> None: ...

    def on_relief(self, call: Callable[[], None]) -> None:
        """Calls whenever the connection is not congested any more."""

    def close(self) -> None: ...


class Network(Protocol):
    """The other hosts."""

    def listen(self, address: str, port: int, accept: Callable[[Connection], "Receiver"]) -> Awaitable["Listener"]:
        """Accepts connections from now on; port 0 means any free one. Raises `Unavailable` when the port is taken."""

    def connect(self, address: str, port: int, receiver: "Receiver") -> Awaitable[Connection]:
        """Raises `Unavailable` in bounded time when nobody answers."""


class Receiver(Protocol):
    """What a connection's bytes and end are given to."""

    def received(self, data: memoryview) -> None:
        """The next bytes, in order; valid only during the call."""

    def closed(self, reason: str) -> None:
        """Called exactly once, after the last bytes, whichever side closed."""


class Listener(Protocol):
    port: int

    def close(self) -> None: ...
