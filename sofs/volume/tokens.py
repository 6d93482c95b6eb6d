"""Tokens: what makes a retry harmless.

The reply to a request that carried a token is stored in the request's own batch, under a hash of the token's key. So either both are there
or neither, at every replica; a retry is answered with the first reply, whichever node it reaches. Only a request that changed
something leaves a token: one that failed can be tried again as if for the first time.

The token of an NFSv4.1 request is one of its slot's: it takes the place of the slot's former one, and stays until its session ends
(PROTOCOLS.md, "Sessions have a home"). What it says about the COMPOUND it belongs to is the gateway's.

The token of a request that another node forwards takes the place of the former one of its slot, too: the asking node uses a slot again only when it
has the answer. Beside it goes the token that the client's gateway gave.

Keys are in generations of ten minutes, so that a whole generation goes at once, and a look-up asks two. Which one is the present is counted by no host's clock:
those are set now and then, and that of the node that takes over need not be right, while a client may ask again at any moment. It goes on from the newest
generation that the volume has, with the time that passes.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Union

from sofs.encoding import decoder, encode
from sofs.errors import Damaged, InvalidArgument
from sofs.runtime.ports import Buffer, Clock
from sofs.volume import api, keys
from sofs.volume.batch import Batch
from sofs.volume.keyspace import KeySpace
from sofs.volume.register import remember

GENERATION_S = 600
_TICKS = 10_000_000 * GENERATION_S


def _kinds(base: type[api.Reply]) -> list[type[api.Reply]]:
    return [base, *(kind for subclass in base.__subclasses__() for kind in _kinds(subclass))]


_reply: Callable[[Buffer], api.Reply] = decoder(Union[tuple(_kinds(api.Reply))], "a token's reply", Damaged)  # noqa: UP007
_slot_value = decoder(tuple[int, bytes, int, bytes | None, bytes | None], "the slot token", Damaged)
_call_value = decoder(tuple[int, int, bytes], "the token of a forwarded request", Damaged)
"""Gateway, sequence, reply."""


class Tokens:
    """The tokens of one volume."""

    def __init__(self, keyspace: KeySpace, clock: Clock) -> None:
        self._keys = keyspace
        self._clock = clock
        self._forgotten: dict[bytes, None] = {}
        self._first = 0
        """The generation at the time `_since`; 0: not looked for yet."""
        self._since = 0.0

    def _generation(self) -> int:
        """That of tokens that come now."""
        if not self._first:
            last = self._keys.last_bucket(keys.TOKEN)
            self._first = int.from_bytes(last[1:]) or self._clock.now() // _TICKS + 1
            self._since = self._clock.monotonic()
        return self._first + int(self._clock.monotonic() - self._since) // GENERATION_S

    def store(self, batch: Batch, token: api.AnyToken, reply: api.Reply) -> None:
        """Adds the token with its reply to the batch that carries the request out."""
        if isinstance(token, api.CallToken):
            token.stored = True
            batch.put(keys.forwarded(token.origin, token.slot), encode((token.gateway, token.sequence, encode(reply))))
            if token.inner is None:
                return
            token = token.inner
        if isinstance(token, api.SlotToken):
            if token.session in self._forgotten:
                return
            kept = None if token.note is None else encode(reply)
            value = encode((token.sequence, token.digest, token.index, token.note, kept))
            batch.put(keys.slot(token.session, token.slot), value)
            return
        if token.age_s > GENERATION_S:
            raise InvalidArgument(f"a token that lasts {token.age_s} s; {GENERATION_S} is the most")
        batch.put(keys.token(self._generation(), _digest(token)), encode(reply))

    def replay(self, token: api.Token) -> api.Reply | None:
        """The reply of the first time, if there was one. Its gate is that of its batch or later."""
        digest = _digest(token)
        newest = self._generation()
        for generation in (newest, newest - 1):
            value = self._keys.get(keys.token(generation, digest))
            if value is not None:
                reply = _reply(value)
                reply.gate = self._keys.gate(keys.bucket(keys.TOKEN, generation))
                return reply
        return None

    def forwarded(self, origin: int, slot: int) -> tuple[int, api.Reply] | None:
        """The newest request of a slot of another node that has changed something here: its sequence and its reply. Raises `Damaged`."""
        value = self._keys.get(keys.forwarded(origin, slot))
        if value is None:
            return None
        _, sequence, reply = decode_forwarded(value)
        reply.gate = self._keys.gate(keys.bucket(keys.FORWARDED, origin))
        return sequence, reply

    def forget_forwarded(self, batch: Batch, gateway: int) -> None:
        """Adds to the batch that the tokens of a gateway's forwarded requests go: nobody asks for them any more."""
        for key, value in self._keys.walk(keys.FORWARDED):
            if decode_forwarded(value)[0] == gateway:
                batch.delete(key)

    def expire(self, limit: int = 1000) -> int:
        """Removes up to `limit` tokens whose time is over; gives how many. Tokens of the last ten minutes are never among them."""
        batch = Batch()
        oldest = self._generation() - 1
        for key, _ in self._keys.walk(keys.TOKEN):
            if int.from_bytes(key[1 : keys.BUCKET]) >= oldest or batch.count == limit:
                break
            batch.delete(key)
        if batch.count:
            self._keys.commit(batch, reserved=True)
        return batch.count

    def slots(self, session: bytes) -> list[api.Slot]:
        """The newest token of each of a session's slots."""
        return [decode_slot(key, value) for key, value in self._slot_records(session)]

    def forget(self, batch: Batch, session: bytes) -> None:
        """Adds to the batch that the session's tokens go. What it still has under way leaves none."""
        remember(self._forgotten, session)
        for key, _ in self._slot_records(session):
            batch.delete(key)

    def _slot_records(self, session: bytes) -> Iterator[tuple[bytes, bytes]]:
        start = keys.slots(session)
        return self._keys.scan(start[: keys.BUCKET], start, start + b"\xff" * 5)


def decode_forwarded(value: bytes) -> tuple[int, int, api.Reply]:
    """Gateway, sequence and reply. Raises `Damaged`."""
    gateway, sequence, encoded = _call_value(value)
    return gateway, sequence, _reply(encoded)


def decode_slot(key: bytes, value: bytes) -> api.Slot:
    """Raises `Damaged`."""
    sequence, digest, index, note, reply = _slot_value(value)
    return api.Slot(int.from_bytes(key[-4:]), sequence, digest, index, note, None if reply is None else _reply(reply))


def _digest(token: api.Token) -> bytes:
    # Keys name clients' addresses and identifiers: 128 bits keep them apart by chance and by intent.
    return hashlib.blake2b(token.key, digest_size=16).digest()
