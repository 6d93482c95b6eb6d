"""The interconnect's service `log`: what other nodes ask the replicas of this one."""

from collections.abc import Awaitable

from sofs.cluster import Answer, Asked, Interconnect, NodeId, Priority
from sofs.encoding import encode
from sofs.errors import NotFound, PeerError, Unavailable
from sofs.log.follower import Follower
from sofs.log.messages import SERVICE, Ack, Append, Ask, Message, Read, Rewrite, Status, Sync, decode_message, decode_status
from sofs.log.replica import LocalReplica
from sofs.runtime.later import Later

_LARGEST = 64 << 20
"""Bytes that one `Read` may ask for."""


class LogService:
    """All followers of this node, by their replica's id."""

    def __init__(self, interconnect: Interconnect) -> None:
        self._interconnect = interconnect
        self._followers: dict[int, Follower] = {}
        interconnect.serve(SERVICE, self._handle)

    def add(self, follower: Follower) -> None:
        """Answers for this replica from now on; in the place of another follower of the same replica."""
        self._followers[follower.id] = follower

    def remove(self, replica: int) -> None:
        self._followers.pop(replica, None)

    def status(self, node: NodeId, replica: int, deadline_s: float = 1.0) -> Awaitable[Status]:
        """How a replica of another node stands. Raises `NotFound` (nobody follows with it there), `Unavailable`."""
        return self._status(node, replica, deadline_s)

    async def _status(self, node: NodeId, replica: int, deadline_s: float) -> Status:
        peer = self._interconnect.peer(node)
        answer = await peer.call(SERVICE, encode(Ask(replica)), priority=Priority.REPLICATION, deadline_s=deadline_s)
        try:
            return decode_status(bytes(answer.body))
        except PeerError as error:
            raise Unavailable(str(error)) from error

    def _handle(self, asked: Asked) -> Answer | Later[Answer] | Awaitable[Answer]:
        message = decode_message(asked.body)
        follower = self._followers.get(message.replica)
        if follower is None:
            raise NotFound(f"nobody follows with copy {message.replica:x} of a log here")
        if type(message) is Append:
            return _answered(follower.append(message, asked.payload))
        return self._seldom(follower, message, asked.payload)

    def _seldom(self, follower: Follower, message: Message, payload: memoryview) -> Answer | Later[Answer] | Awaitable[Answer]:
        if isinstance(message, Sync):
            return _answered(follower.sync(message))
        if isinstance(message, Rewrite):
            return _answered(follower.rewrite(message, payload))
        if isinstance(message, Ask):
            return Answer(encode(follower.status))
        assert isinstance(message, Read)
        return _read(follower.replica, message)


def _answered(ack: Ack | Later[Ack]) -> Answer | Later[Answer]:
    if isinstance(ack, Ack):
        return Answer(encode(ack))
    answer: Later[Answer] = Later()
    ack.then(lambda ack: answer.tell(Answer(encode(ack)) if isinstance(ack, Ack) else ack))
    return answer


async def _read(replica: LocalReplica, message: Read) -> Answer:
    if not 0 < message.length <= _LARGEST:
        raise PeerError(f"{message.length} bytes of a log were asked for")
    data = bytearray(message.length)
    waiting = replica.read(message.address, memoryview(data))
    if waiting is not None:
        await waiting
    return Answer(b"", (data,))
