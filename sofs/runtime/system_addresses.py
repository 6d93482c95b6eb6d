"""Virtual addresses on this host's interfaces: set for a limited time, taken away, announced (rtnetlink(7), packet(7), RFC 5227, RFC 4861); and the clients
asked that have connections to them (raw(7), RFC 9293).

The messages are made by hand, as those of `interfaces` are: pyroute2 was tried, and its sockets (0.9) do not work on uvloop, which knows no netlink endpoint; a
thread with a loop of its own would be more than these three messages need. The kernel answers at once, so nothing here waits.

Setting needs CAP_NET_ADMIN, announcing CAP_NET_RAW.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

from sofs.errors import Unavailable
from sofs.runtime.interfaces import host_interfaces

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_LIFETIME = struct.Struct("=IIII")  # ifa_cacheinfo: preferred, valid, created, updated
_NEW_ADDRESS, _DELETE_ADDRESS, _ERROR = 20, 21, 2
_REQUEST, _ACKNOWLEDGE, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_NO_DUPLICATE_DETECTION = 0x02
"""IFA_F_NODAD: the lease has decided already whose it is, and detection would take a second."""
_EADDRNOTAVAIL = 99

_ETHERNET_ARP = 0x0806
_ARP = struct.Struct(">6s6sH HHBBH 6s4s6s4s")
_EVERYBODY = b"\xff" * 6
_ALL_NODES = "ff02::1"
_NEIGHBOUR = struct.Struct(">BBHI16sBB6s")  # NEIGHBOR ADVERTISEMENT with the option of the link's address
_OVERRIDE = 0x20000000
_SEGMENT = struct.Struct(">HHIIBBHHH")  # ports, sequence, acknowledgment, length of the header, flags, window, checksum, urgent
_ACK = 0x10


class SystemAddresses:
    """`sofs.cluster.vips.Addresses` on the host itself."""

    def interface(self, address: str) -> str | None:
        """The interface whose network the address lies in; None if no interface has such a network."""
        wanted = ipaddress.ip_address(address)
        for each in host_interfaces():
            if wanted in ipaddress.ip_network(f"{each.address}/{each.prefix}", strict=False) and each.address != address:
                return each.name
        return None

    def set(self, address: str, interface: str, lifetime_s: int) -> None:
        """Has the kernel keep the address for so many seconds from now, however long it was to keep it before. Raises `Unavailable`."""
        assert lifetime_s >= 1
        lifetime = _attribute(_IFA_CACHEINFO, _LIFETIME.pack(lifetime_s, lifetime_s, 0, 0))
        flags = _attribute(_IFA_FLAGS, struct.pack("=I", _NO_DUPLICATE_DETECTION))
        self._request(_NEW_ADDRESS, _REPLACE | _CREATE, address, interface, lifetime + flags)

    def remove(self, address: str, interface: str) -> None:
        """One that is not there is no error. Raises `Unavailable`."""
        self._request(_DELETE_ADDRESS, 0, address, interface, b"", harmless=_EADDRNOTAVAIL)

    def announce(self, address: str, interface: str) -> None:
        """Tells everybody on the link where the address is now. Raises `Unavailable`."""
        try:
            if ":" in address:
                _advertise(address, interface)
            else:
                _gratuitous(address, interface)
        except OSError as error:
            raise Unavailable(f"{address} cannot be announced on {interface}: {error.strerror}; it takes CAP_NET_RAW") from None

    def ask_after(self, address: str, port: int, peer: str, peer_port: int) -> None:
        """Sends the peer of a connection an acknowledgment that is out of its window, which it answers with what it has and expects (RFC 9293 section 3.10.7.4,
        first check): to the host that has the address now, and knows of no such connection, and resets it. Raises `Unavailable`."""
        parsed, theirs = ipaddress.ip_address(address), ipaddress.ip_address(peer)
        if parsed.version != theirs.version:
            return
        family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
        try:
            with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as link:
                link.setblocking(False)
                link.bind((address, 0))
                link.sendto(_bare(parsed.packed, port, theirs.packed, peer_port), (peer, 0))
        except BlockingIOError:
            pass  # whoever is not asked now will be the next time
        except OSError as error:
            raise Unavailable(f"{peer} cannot be asked after {address}: {error.strerror}; it takes CAP_NET_RAW") from None

    def _request(self, kind: int, flags: int, address: str, interface: str, more: bytes, harmless: int = 0) -> None:
        parsed = ipaddress.ip_address(address)
        family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
        try:
            index = socket.if_nametoindex(interface)
            # The whole length as prefix: it brings no route, and is never the source of what this host begins.
            body = _ADDRESS.pack(family, parsed.max_prefixlen, 0, 0, index)
            body += _attribute(_IFA_LOCAL, parsed.packed) + _attribute(_IFA_ADDRESS, parsed.packed) + more
            message = _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST | _ACKNOWLEDGE, 1, 0) + body
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
                link.settimeout(5)  # the kernel answers at once
                link.send(message)
                code = _answer(link.recv(1 << 16))
        except OSError as error:
            raise Unavailable(f"{address} on {interface}: {error.strerror}") from None
        if code not in (0, harmless):
            raise Unavailable(f"{address} on {interface}: {os.strerror(code)}; virtual addresses take CAP_NET_ADMIN")


def _bare(own: bytes, port: int, theirs: bytes, peer_port: int) -> bytes:
    """A TCP segment with nothing but ACK, and numbers that fit into no window but by a chance of 65,536 to 1."""
    segment = _SEGMENT.pack(port, peer_port, 0, 0, 5 << 4, _ACK, 0, 0, 0)
    covered = own + theirs + struct.pack(">II", len(segment), socket.IPPROTO_TCP) + segment
    total = sum(struct.unpack(f">{len(covered) // 2}H", covered))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return segment[:16] + struct.pack(">H", ~total & 0xFFFF) + segment[18:]


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length & 3)


def _answer(data: bytes) -> int:
    """The error number in a netlink answer; 0: done."""
    _, kind, _, _, _ = _HEADER.unpack_from(data)
    assert kind == _ERROR, f"netlink answered {kind}"
    (code,) = struct.unpack_from("=i", data, _HEADER.size)
    return -int(code)


def _gratuitous(address: str, interface: str) -> None:
    """As request and as reply: some hosts learn from the one, some from the other (RFC 5227 section 3)."""
    packed = ipaddress.ip_address(address).packed
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((interface, _ETHERNET_ARP))
        own: bytes = link.getsockname()[4]
        if len(own) != 6:
            return  # not Ethernet: nobody to tell
        for operation, target in ((1, bytes(6)), (2, _EVERYBODY)):
            link.send(_ARP.pack(_EVERYBODY, own, _ETHERNET_ARP, 1, 0x0800, 6, 4, operation, own, packed, target, packed))


def _advertise(address: str, interface: str) -> None:
    """An unsolicited neighbour advertisement (RFC 4861 section 7.2.6); the kernel fills its checksum in."""
    index = socket.if_nametoindex(interface)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as frames:  # sysfs may be another namespace's
        frames.bind((interface, 0))
        own: bytes = frames.getsockname()[4]
    packed = ipaddress.ip_address(address).packed
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as link:
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        link.bind((address, 0, 0, 0))
        link.sendto(_NEIGHBOUR.pack(136, 0, 0, _OVERRIDE, packed, 2, 1, own), (_ALL_NODES, 0, 0, index))
