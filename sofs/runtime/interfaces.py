"""The host's network interfaces and their addresses, from the kernel (rtnetlink(7)) and sysfs."""

import ipaddress
import os
import socket
import struct
from typing import NamedTuple

from sofs.errors import Unavailable

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_GET_ADDRESSES, _NEW_ADDRESS, _DONE, _ERROR = 22, 20, 3, 2
_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_TENTATIVE = 0x40 | 0x08
"""IFA_F_TENTATIVE and IFA_F_DADFAILED: not, or not yet, this host's."""


class Interface(NamedTuple):
    """One address of one interface."""

    name: str
    number: int
    """The kernel's index."""
    address: str
    bits_per_s: int
    """What its link can do; 1 Gbit/s where the driver does not say."""
    receive_queues: int
    """More than one: connections are spread over processors (RSS)."""
    prefix: int = 0
    """Bits of the address that name its network."""


def host_interfaces() -> list[Interface]:
    """All addresses, those of the loopback interface among them. Raises `Unavailable`."""
    try:
        return [_describe(*found) for found in _addresses()]
    except OSError as error:
        raise Unavailable(f"the kernel does not tell this host's addresses: {error.strerror}") from None


def _addresses() -> list[tuple[int, str, int]]:
    found: list[tuple[int, str, int]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.settimeout(5)  # the kernel answers at once
        link.send(_HEADER.pack(_HEADER.size + _ADDRESS.size, _GET_ADDRESSES, _REQUEST_DUMP, 1, 0) + bytes(_ADDRESS.size))
        while True:
            data = link.recv(1 << 16)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, at)
                if kind in (_DONE, _ERROR) or length < _HEADER.size:
                    return found
                if kind == _NEW_ADDRESS and (one := _address(data[at + _HEADER.size : at + length])) is not None:
                    found.append(one)
                at += length + (-length & 3)


def _address(message: bytes) -> tuple[int, str, int] | None:
    _, prefix, flags, _, index = _ADDRESS.unpack_from(message)
    values: dict[int, bytes] = {}
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        values[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += length + (-length & 3)
    # Of a point-to-point link, IFA_ADDRESS is the other side.
    value = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS))
    if flags & _TENTATIVE or value is None:
        return None
    return index, str(ipaddress.ip_address(value)), prefix


def _describe(index: int, address: str, prefix: int) -> Interface:
    try:
        name = socket.if_indextoname(index)
    except OSError:
        name = ""  # gone meanwhile
    return Interface(name, index, address, _speed(name), _queues(name), prefix)


def _speed(name: str) -> int:
    try:
        with open(f"/sys/class/net/{name}/speed") as file:
            megabits = int(file.read())
    except (OSError, ValueError):
        megabits = -1  # virtual interfaces have none, and one that is down refuses to tell
    return megabits * 1_000_000 if megabits > 0 else 1_000_000_000


def _queues(name: str) -> int:
    try:
        return sum(entry.startswith("rx-") for entry in os.listdir(f"/sys/class/net/{name}/queues"))
    except OSError:
        return 1
