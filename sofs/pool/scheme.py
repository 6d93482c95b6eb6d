"""Schemes: what the fragments of an extent mean, in order.

A scheme is recorded with every placement, table entry and fragment header, so that an extent stays readable whatever its
volume's policy becomes. It says how many fragments there are, how long each is, and how many may be lost; where they
lie is the policy's business, and how they are read the reader's.
"""

import re
from enum import IntEnum
from typing import NamedTuple

from sofs.errors import InvalidArgument, NotSupported


class Redundancy(IntEnum):
    """How fragments relate; the number is what disks store."""

    COPIES = 1
    """Every fragment holds all data."""
    PARITY = 2
    """`data` fragments hold the data in stripes, `extra` more hold Reed-Solomon parity."""


class Scheme(NamedTuple):
    """Redundancy with its numbers: `mirror(3)` is COPIES with data 1 and extra 2."""

    redundancy: Redundancy
    data: int
    extra: int

    @property
    def width(self) -> int:
        """Fragments of a whole extent."""
        return self.data + self.extra

    @property
    def text(self) -> str:
        if self.redundancy is Redundancy.PARITY:
            return f"parity({self.data},{self.extra})"
        return f"mirror({self.width})" if self.extra else "simple"

    def fragment_length(self, length: int) -> int:
        """Bytes of each fragment of an extent with `length` bytes of data."""
        if self.redundancy is Redundancy.COPIES:
            return length
        raise NotSupported(f"{self.text}: erasure coding is not offered yet; use simple, mirror(2) or mirror(3)")


SIMPLE = Scheme(Redundancy.COPIES, 1, 0)

_TEXT = re.compile(r"simple|mirror\((\d)\)|parity\((\d{1,2}),\s*(\d{1,2})\)")


def mirror(copies: int) -> Scheme:
    return Scheme(Redundancy.COPIES, 1, copies - 1)


def parse_scheme(text: str) -> Scheme:
    """Reads `simple`, `mirror(2|3)` or `parity(k,m)`. Raises `InvalidArgument` naming what is offered."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise InvalidArgument(f"unknown resiliency {text!r}: write simple, mirror(2), mirror(3) or parity(k,m)")
    copies, data, extra = found.groups()
    if copies is not None:
        if copies not in "23":
            raise InvalidArgument(f"mirror({copies}): a mirror has 2 or 3 copies")
        return mirror(int(copies))
    if data is not None:
        if not (2 <= int(data) <= 16 and 1 <= int(extra) <= 4):
            raise InvalidArgument(f"{text}: parity(k,m) takes k from 2 to 16 and m from 1 to 4")
        return Scheme(Redundancy.PARITY, int(data), int(extra))
    return SIMPLE


def scheme_from_code(redundancy: int, data: int, extra: int) -> Scheme | None:
    """The scheme with these stored numbers, or `None` if no program wrote them."""
    if redundancy == Redundancy.COPIES and data == 1 and extra <= 2:
        return Scheme(Redundancy.COPIES, data, extra)
    if redundancy == Redundancy.PARITY and 2 <= data <= 16 and 1 <= extra <= 4:
        return Scheme(Redundancy.PARITY, data, extra)
    return None
