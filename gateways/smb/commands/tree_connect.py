"""TREE_CONNECT and TREE_DISCONNECT, MS-SMB2 3.3.5.7 and 3.3.5.8."""

import struct

from gateways.exports import Share
from gateways.smb.crypto import Dialect
from gateways.smb.exchange import Exchange
from gateways.smb.handle import MAX_TREES, Tree
from gateways.smb.status import Failure, Status
from gateways.smb.wire import part, text
from sofs.volume.api import Access

_REQUEST = struct.Struct("<HHHH")  # structure size, flags, path at, path length
_REPLY = struct.Struct("<HBBIII")  # structure size, share type, reserved, share flags, capabilities, maximal access
_DISK, _PIPE = 1, 2
_FLAG_NO_CACHING, _FLAG_ENCRYPT, _FLAG_ABE = 0x30, 0x8000, 0x800
_CAP_CONTINUOUS_AVAILABILITY, _CAP_SCALEOUT, _CAP_CLUSTER, _CAP_ASYMMETRIC = 0x10, 0x20, 0x40, 0x80
_MAX_PATH = 1024
PIPE_ACCESS = 0x1F01FF
READ_ONLY_ACCESS = Access.READ_DATA | Access.READ_EA | Access.EXECUTE | Access.READ_ATTRIBUTES | Access.READ_CONTROL | Access.SYNCHRONIZE
"""What a read-only share lets anyone do."""


def connect(exchange: Exchange) -> bytes:
    _, _, at, length = exchange.unpack(_REQUEST)
    if length > _MAX_PATH:
        raise Failure(Status.INVALID_PARAMETER)
    path = text(part(exchange.message, at, length, "the share's path"))
    session = exchange.session
    if len(session.trees) >= MAX_TREES:
        raise Failure(Status.INSUFFICIENT_RESOURCES)
    name = path.rpartition("\\")[2]
    tree, reply = _pipes(exchange) if name.upper() == "IPC$" else _share(exchange, name)
    session.next_tree += 1
    session.trees[tree.number] = tree
    exchange.tree_id = tree.number
    return reply


def _pipes(exchange: Exchange) -> tuple[Tree, bytes]:
    tree = Tree(exchange.session.next_tree, exchange.session, None, None)
    return tree, _REPLY.pack(16, _PIPE, 0, _FLAG_NO_CACHING, 0, PIPE_ACCESS)


def _share(exchange: Exchange, name: str) -> tuple[Tree, bytes]:
    shares = exchange.connection.service.shares
    session = exchange.session
    share = shares.named(name, fold=True)
    if share is None or not share.smb.enabled:
        raise Failure(Status.BAD_NETWORK_NAME)
    if session.anonymous and not share.smb.guests:
        raise Failure(Status.ACCESS_DENIED)
    if share.smb.encrypt and session.sealer is None:
        raise Failure(Status.ACCESS_DENIED)
    volume = shares.volume(share)
    exchange.connection.service.attend(volume)
    tree = Tree(session.next_tree, session, share, volume)
    flags = _FLAG_NO_CACHING | (_FLAG_ENCRYPT if share.smb.encrypt else 0)
    if share.smb.access_based_enumeration:
        flags |= _FLAG_ABE
    maximal = READ_ONLY_ACCESS if share.read_only else Access.ALL
    return tree, _REPLY.pack(16, _DISK, 0, flags, _capabilities(exchange.connection.dialect, share), maximal)


def _capabilities(dialect: Dialect | None, share: Share) -> int:
    """Share capabilities, MS-SMB2 2.2.10: what dialect 3 promises of a continuously available share."""
    assert dialect is not None
    if dialect < Dialect.SMB_3_0 or not share.smb.continuously_available:
        return 0
    asymmetric = _CAP_ASYMMETRIC if dialect >= Dialect.SMB_3_0_2 else 0
    scaleout = _CAP_SCALEOUT if share.smb.scaleout else 0
    return _CAP_CONTINUOUS_AVAILABILITY | _CAP_CLUSTER | asymmetric | scaleout


def disconnect(exchange: Exchange) -> bytes:
    exchange.connection.service.end_tree(exchange.tree)
    return b"\x04\0\0\0"
