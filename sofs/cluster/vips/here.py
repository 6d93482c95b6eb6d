"""The virtual addresses that this node has: set on its host for a while at a time, with the gateways behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from sofs.cluster.vips.lasting import Lasting, kernel_seconds
from sofs.errors import Unavailable
from sofs.runtime.ports import Clock

log = structlog.get_logger("vips")

ANNOUNCE_AT_S = (0.0, 0.2, 1.0)
"""After an address was set: a single announcement may be lost, and a neighbour's answer to an old question may come after it."""
AT_ONCE, AT_ONCE_S = 100, 0.01
"""So many clients are asked at a time, and then nobody for a while: each takes the loop 20 us."""

Peers = Sequence[tuple[int, str, int]]
"""Connections to an address: its port, and the client's address and port."""


class Addresses(Protocol):
    """This host's interfaces. All raise `Unavailable`."""

    def interface(self, address: str) -> str | None:
        """The interface whose network the address lies in; None if there is none."""

    def set(self, address: str, interface: str, lifetime_s: int) -> None:
        """Has the kernel keep the address for so many seconds from now."""

    def remove(self, address: str, interface: str) -> None: ...

    def announce(self, address: str, interface: str) -> None:
        """Tells the network where the address is now."""

    def ask_after(self, address: str, port: int, peer: str, peer_port: int) -> None:
        """Has the peer of a connection to this address say where it is with it, to whoever has the address now: whose kernel does not know it, and resets
        it. A peer that waits for an answer, with nothing under way itself, would not say anything for a minute or two."""


class Doorkeeper(Protocol):
    """The gateways."""

    async def adopt(self, group: int) -> None:
        """Makes this node the home of an NFS group, and shuts its former home out. Nothing to do when it is."""

    async def hand_over(self, group: int, to: int) -> None:
        """Makes another node the home, without its clients noticing. Nothing to do when this one is not."""

    def listen_at(self, address: str) -> None:
        """Raises `Unavailable`."""

    async def part(self, address: str) -> None:
        """Ends the connections to it, and waits a moment for clients to hear of it. `leave` follows."""

    def leave(self, address: str) -> None:
        """Listens there no more, and resets the connections that are left."""

    def peers(self, address: str) -> Peers: ...


@dataclass
class _Place:
    interface: str
    """Empty: the address is every host's own, and nothing is set for it."""
    lasting: Lasting
    """Of the lease with which it is held."""


class Here:
    """What is set here. None of it waits."""

    def __init__(
        self,
        addresses: Addresses,
        doors: Doorkeeper,
        clock: Clock,
        note: Callable[[Sequence[tuple[str, str]]], None],
        left_behind: Callable[[str], Peers],
    ) -> None:
        """`note` is told (address, interface) of all that the kernel has, before it has them: what a supervisor takes away. `left_behind` gives the
        connections that an address had at other nodes."""
        self._addresses, self._doors, self._clock, self._note, self._left_behind = addresses, doors, clock, note, left_behind
        self._places: dict[str, _Place] = {}

    def __contains__(self, address: str) -> bool:
        return address in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._places))

    def __bool__(self) -> bool:
        return bool(self._places)

    def take(self, address: str, interface: str, lasting: Lasting) -> None:
        """Lets clients in there, as long as `lasting` says; or has what is there already last as long as that. Raises `Unavailable`; then it is not there."""
        place = "" if is_own(address) else interface or self._addresses.interface(address)
        if place is None:
            raise Unavailable(f"no interface of this node has a network in which {address} lies; name one: sofs vip add --interface")
        if address not in self._places:
            self._places[address] = _Place(place, lasting)
            self._note_held()
        self._places[address] = held = _Place(place, lasting)
        try:
            self._set(address, held)
            self._doors.listen_at(address)
        except Unavailable:
            self.drop(address)
            raise
        log.info("vip.taken", address=address, interface=place)
        left_behind = self._left_behind(address)
        for delay in ANNOUNCE_AT_S if place else ():
            self._clock.call_later(delay, lambda: self._announce(address, left_behind))

    def refresh(self) -> None:
        """Tells the kernel how long it may keep what is here, and lets go of what may not be kept."""
        now = self._clock.boottime()
        for address, place in list(self._places.items()):
            if place.lasting.left(now) <= 0:
                log.warning("vip.lapsed", address=address)
                self.drop(address)
                continue
            try:
                self._set(address, place)
            except Unavailable as error:
                log.warning("vip.not_refreshed", address=address, reason=str(error))

    async def part(self, address: str) -> None:
        """Tells clients that it is about to go."""
        await self._doors.part(address)

    def drop(self, address: str) -> None:
        place = self._places.pop(address)
        # Connections first: without the address their ends could not be told, and clients would wait for answers that never come.
        self._doors.leave(address)
        if place.interface:
            try:
                self._addresses.remove(address, place.interface)
            except Unavailable as error:
                log.warning("vip.not_removed", address=address, reason=str(error))
        self._note_held()

    def _set(self, address: str, place: _Place) -> None:
        """Less than a second cannot be told to the kernel: then what it was told before runs out. Connections outlast a gap, if the lease is kept in time."""
        seconds = kernel_seconds(place.lasting.left(self._clock.boottime()))
        if place.interface and seconds:
            self._addresses.set(address, place.interface, seconds)

    def _announce(self, address: str, left_behind: Peers) -> None:
        place = self._places.get(address)
        if place is not None and place.interface:
            try:
                self._addresses.announce(address, place.interface)
            except Unavailable as error:
                log.warning("vip.not_announced", address=address, reason=str(error))
            self._ask_after(address, left_behind)

    def _ask_after(self, address: str, left_behind: Peers) -> None:
        if address not in self._places:
            return
        try:
            for port, peer, peer_port in left_behind[:AT_ONCE]:
                self._addresses.ask_after(address, port, peer, peer_port)
        except Unavailable as error:
            log.warning("vip.not_asked_after", address=address, reason=str(error))
            return
        if rest := left_behind[AT_ONCE:]:
            self._clock.call_later(AT_ONCE_S, lambda: self._ask_after(address, rest))

    def _note_held(self) -> None:
        self._note([(address, place.interface) for address, place in self._places.items() if place.interface])


def is_own(address: str) -> bool:
    """Whether it is every host's own."""
    return address.startswith("127.")
