"""One connection between two nodes: frames over a byte stream, gathered by ticks of the loop.

What both ends have in common. What frames mean is decided by `sofs.cluster.stream` at the end that calls, and by `sofs.cluster.serving` at the end that
answers. A `PeerError` ends the connection with its reason in the log, and so does any other exception that a frame causes: a bug met in one message
must not take the whole node away.
"""

from collections.abc import Callable, Sequence

import structlog

from sofs.cluster.frames import FrameReader, frame
from sofs.errors import PeerError
from sofs.runtime.ports import Buffer, Clock, Connection

AT_ONCE = 256 << 10
"""Unsent bytes that leave without waiting for the end of the tick."""

log = structlog.get_logger("cluster")


class Link:
    """A `Receiver` that cuts frames, and a queue of frames to be sent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._connection: Connection | None = None
        self._reader = FrameReader(self.frame)
        self._out: list[Buffer] = []
        self._unsent = 0
        self._scheduled = False
        self.closed_for = ""
        """Why it has ended; empty while it is open."""
        self.heard = clock.monotonic()
        """When anything came last."""

    @property
    def place(self) -> str:
        """Where the other end is, for people."""
        return "" if self._connection is None else f"{self._connection.peer[0]} port {self._connection.peer[1]}"

    def begin(self, connection: Connection) -> None:
        """What was queued before leaves now."""
        self._connection = connection
        if self.closed_for:
            connection.close()
        elif self._out:
            self._flush()

    # For the two kinds of ends

    def frame(self, kind: int, number: int, name: memoryview, body: memoryview, payload: memoryview, kept: bool) -> bool:
        """One frame; answers whether the connection goes on. Raises `PeerError`."""
        raise NotImplementedError

    def ended(self, reason: str) -> None:
        """The connection is gone; called exactly once."""
        raise NotImplementedError

    # Sending

    def send(self, head: bytes, payload: Sequence[Buffer] = (), size: int = 0) -> None:
        """Queues a frame; `size` is the payload's. None of it may change until it has left."""
        if self.closed_for:
            return
        self._out.append(head)
        if size:
            self._out.extend(payload)
        self._unsent += len(head) + size
        if self._unsent >= AT_ONCE:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self._clock.call_soon(self._tick)

    def send_small(self, kind: int, body: bytes = b"", number: int = 0) -> None:
        self.send(frame(kind, number, body))

    def _tick(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        if self._connection is None or not self._out:
            return
        out, self._out, self._unsent = self._out, [], 0
        if not self.closed_for:
            self._connection.send(out)

    # Receiving

    def received(self, data: memoryview) -> None:
        if self.closed_for:
            return
        self.heard = self._clock.monotonic()
        self.take(lambda: self._reader.feed(data))

    def take(self, step: Callable[[], None]) -> None:
        """Has frames handled, whatever comes of it."""
        self._clock.hold()
        try:
            step()
        except PeerError as error:
            log.warning("cluster.peer_error", peer=self.place, reason=str(error))
            self.end(f"the peer broke the protocol: {error}")
        except Exception:
            log.exception("cluster.connection_failed", peer=self.place)
            self.end("a bug of ours, see the log")
        finally:
            # What these messages have put off to the end of the tick is done right behind them: answers leave at once, and records are written together.
            self._clock.settle()

    def closed(self, reason: str) -> None:
        self.end(reason)

    def end(self, reason: str) -> None:
        """Closes the connection; nothing that comes over it is heard any more."""
        if self.closed_for:
            return
        self._flush()
        self.closed_for = reason
        self._out.clear()
        if self._connection is not None:
            self._connection.close()
        self.ended(reason)
