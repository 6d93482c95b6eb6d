"""What the coordination store holds of virtual addresses, as JSON."""

from __future__ import annotations

from typing import Self

import msgspec

from sofs.errors import ConfigError

__all__ = ["HolderRecord", "VipRecord"]


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises `ConfigError`."""
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{cls.__name__} in the coordination store: {error}") from None


class VipRecord(_Record, frozen=True, kw_only=True):
    """What an operator wants of an address."""

    address: str
    interface: str = ""
    """Empty: on each node the one whose network it lies in."""
    group: int = 0
    """The NFS group whose sessions live there, by its member's id; 0: none. It is the member's own as long as that runs."""
    volume: int = 0
    """The volume whose coordinator it follows; 0: none."""


class HolderRecord(_Record, frozen=True, kw_only=True):
    """Who has it."""

    node: int
    incarnation: int
