"""What gateways keep in volumes about their clients, and what a volume keeps about gateways.

Client and session records lie in the node's system volume, slot tokens in the volume that the request changed (PROTOCOLS: "Sessions have a
home"). The volume does not know what they mean.
"""

from typing import NamedTuple

import msgspec

from sofs.volume.api.values import Reply, Request


class KeepRecords(Request):
    """Changes a gateway's records, all or none; None removes one. Keys have at most 200 bytes, values 3 KiB."""

    changes: tuple[tuple[bytes, bytes | None], ...]


class ListRecords(Request):
    """The records whose keys begin with `prefix`, in order. Answers `Records`."""

    prefix: bytes


class Records(Reply):
    records: list[tuple[bytes, bytes]]


class Token(NamedTuple):
    """What makes a retry harmless. `key` names the retry (NFSv3: client, xid, procedure, argument checksum); a request whose key is
    known is answered with the reply of the first time, at any node. Tokens go by age (seconds, at most 600). A request that failed
    had no effect and leaves none.
    """

    key: bytes
    age_s: int = 600


class SlotToken(NamedTuple):
    """The token of an NFSv4.1 operation: written in the operation's own batch, over the slot's former one.

    With it goes what is needed to resume the COMPOUND behind this operation: where it stood, and the reply to this operation, which the volume adds.
    """

    session: bytes
    """The session id, 16 bytes."""
    slot: int
    sequence: int
    digest: bytes
    """Of the request, at most 16 bytes, so that another request with the same sequence is SEQ_FALSE_RETRY."""
    index: int  # type: ignore[assignment]  # hides tuple.index
    """The operation's place in the COMPOUND."""
    note: bytes | None
    """What the gateway needs to go on: results so far, current and saved filehandle and stateid. None: only the sequence is kept (sa_cachethis = 0)."""


class CallToken(msgspec.Struct, eq=False):
    """The token of a request that another node forwards: written in the request's own batch, over the former one of its slot.

    A node that does not know what became of a request asks again with the same token, there or at the volume's next coordinator.
    """

    origin: int
    """The incarnation of the asking node's process."""
    slot: int
    sequence: int
    gateway: int
    """`Binding.gateway` of the request: when that is fenced, the token goes."""
    inner: Token | SlotToken | None = None
    """What the gateway gave."""
    stored: bool = False
    """It is in a batch by now."""


class Slot(msgspec.Struct, array_like=True):
    """The newest token of a slot."""

    slot: int
    sequence: int
    digest: bytes
    index: int
    note: bytes | None
    reply: Reply | None
    """Of the operation `index`; None if `note` is."""


class ListSlots(Request):
    """The newest tokens of a session in this volume, for its new home. Answers `Slots`."""

    session: bytes


class Slots(Reply):
    slots: list[Slot]


class ForgetSession(Request):
    """The session has ended: its tokens go."""

    session: bytes


class ListClients(Request):
    """Who has opens of NFSv4 or slot tokens here: a gateway that does not know them any more is to end them. Answers `ClientList`."""


class ClientList(Reply):
    clients: list[bytes]
    """`Open.client` of each."""
    sessions: list[bytes]


class BeginGrace(Request):
    """What clients have here is about to be ended though they may still come: for a lease period they can reclaim it, and nobody else opens or
    locks anything. A grace that is under way goes on as it is."""


class EndGrace(Request):
    """All clients that are known have reclaimed what they had: the volume's grace, if it is in one, is over."""


class LoseOpens(Request):
    """The gateway that asks knows nothing more of the SMB opens that it has here, as when a volume has failed with answers on their way: they end, or wait for
    their owners. What it opens later is not meant."""


class FenceGateway(Request):
    """That gateway incarnation is no more, or counts as such: whatever it asks of this volume from now on, with opens or without, is `Fenced`, also
    after a takeover. Its SMB opens end, or wait for their owners if they were to be kept; NFSv4's stay, as they belong to clients. Asked again
    it does nothing."""

    gateway: int
