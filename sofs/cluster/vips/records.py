"""What the coordination store holds of virtual addresses, as JSON."""

from __future__ import annotations

from sofs.encoding import Record


class VipRecord(Record, frozen=True, kw_only=True):
    """What an operator wants of an address."""

    address: str
    interface: str = ""
    """Empty: on each node the one whose network it lies in."""
    group: int = 0
    """The NFS group whose sessions live there, by its member's id; 0: none. It is the member's own as long as that runs."""
    volume: int = 0
    """The volume whose coordinator it follows; 0: none."""


class HolderRecord(Record, frozen=True, kw_only=True):
    """Who has it."""

    node: int
    incarnation: int


class KeeperRecord(HolderRecord, frozen=True, kw_only=True):
    """Who takes addresses on."""

    bound: bool = False
    """It has just been started, and may claim nothing yet that has no holder."""
