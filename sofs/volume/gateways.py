"""The gateways of other processes that have been here, and those that are shut out."""

from collections.abc import Callable

import msgspec

from sofs.encoding import decoder, encode
from sofs.errors import Damaged, Fenced
from sofs.types import Time
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.keyspace import KeySpace

MOST_FENCED = 1024
"""Fences that are kept, the newest: one process cannot be late behind so many others."""


class GatewayRecord(msgspec.Struct, array_like=True, frozen=True):
    node: int
    """The member whose process it is or was; 0 if that was not known when it was fenced."""
    fenced: Time = Time(0)
    """When; 0: it is not."""


decode_gateway = decoder(GatewayRecord, "the record of a gateway", Damaged)


class Gateways:
    """Those of one volume."""

    def __init__(self, keyspace: KeySpace) -> None:
        self._keys = keyspace
        self.known: dict[int, GatewayRecord] = {}
        self.fenced: dict[int, None] = {}
        """Oldest first."""
        self.fenced_one: Callable[[int], None] = lambda gateway: None
        """Called with each that is fenced, as soon as it is."""

    def load(self) -> None:
        """Reads what is recorded. Raises `Damaged`."""
        for key, value in self._keys.walk(keys.GATEWAY):
            self.known[int.from_bytes(key[1:])] = decode_gateway(value)
        for gateway, record in sorted(self.known.items(), key=lambda item: item[1].fenced):
            if record.fenced:
                self.fenced[gateway] = None

    def check(self, gateway: int) -> None:
        """Raises `Fenced`."""
        if gateway in self.fenced:
            error = Fenced(f"gateway {gateway:016x} has been superseded")
            error.gate = self._keys.gate(keys.bucket(keys.GATEWAY, gateway))
            raise error

    def meet(self, gateway: int, node: int) -> None:
        """A gateway of another node may have opens from now on. Raises `NoSpace`, `Unavailable`."""
        if gateway not in self.known:
            self._put(batch := Batch(), gateway, GatewayRecord(node))
            self._keys.commit(batch, reserved=True)

    def fence(self, batch: Batch, gateway: int, now: Time) -> None:
        """Adds to the batch, which is committed at once, that the gateway is shut out."""
        former = self.known.get(gateway)
        self._put(batch, gateway, GatewayRecord(0 if former is None else former.node, now))
        self.fenced[gateway] = None
        while len(self.fenced) > MOST_FENCED:
            oldest = next(iter(self.fenced))
            del self.fenced[oldest], self.known[oldest]
            batch.delete(keys.bucket(keys.GATEWAY, oldest))

    def _put(self, batch: Batch, gateway: int, record: GatewayRecord) -> None:
        self.known[gateway] = record
        batch.put(keys.bucket(keys.GATEWAY, gateway), encode(record))
