"""Records of the coordination store: JSON under a key."""

from __future__ import annotations

from typing import Self

import msgspec

from sofs.errors import ConfigError

__all__ = ["Record"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all of them. Fields that a release does not know are ignored, so that a newer one may add some."""

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises `ConfigError`."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"{cls.__name__} in the coordination store: {error}") from None
