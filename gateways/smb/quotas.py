"""Users' quotas, MS-SMB2 3.3.5.20.4 and 3.3.5.21.4; the lists that tell and set them, MS-FSCC 2.4.36 and 2.4.36.1.

Whoever asks sees his own quota and use; the superuser sees and sets everybody's. A volume's and directories' quotas are not Windows', which sees
them as the size of its disk (FileFsFullSizeInformation).
"""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateways.smb.exchange import Answer, Exchange
from gateways.smb.header import HEADER_SIZE
from gateways.smb.status import Failure, Status
from gateways.smb.wire import padding
from sofs.errors import NotFound
from sofs.volume.api import GetQuota, ListQuotas, Quota, QuotaKind, QuotaList, SetQuota
from sofs.volume.security import sid_bytes, sid_text

if TYPE_CHECKING:
    from gateways.identity import Identities

FILE_NAME = "$extend\\$quota:$q:$index_allocation"
"""Which Windows opens to ask about quotas, in lower case; here it stands for the share's directory."""

ATTRIBUTES = 0x36
"""HIDDEN, SYSTEM, DIRECTORY and ARCHIVE."""
_QUERY = struct.Struct("<BBHIII")  # single, restart, reserved, length of the list of SIDs, length and place of the one to start with
_WANTED = struct.Struct("<II")  # next, length of the SID
_ENTRY = struct.Struct("<IIQQqq")  # next, length of the SID, change time, used, threshold, limit
_REPLY = struct.Struct("<HHI")
_NO_LIMIT = -1
_DEFAULT = 2**32 - 1
_MOST = 1024
"""SIDs in one request."""


async def query(exchange: Exchange, room: int, given: memoryview) -> Answer:
    if len(given) < _QUERY.size:
        raise Failure(Status.INVALID_PARAMETER)
    single, restart, _, listed, _, _ = _QUERY.unpack_from(given)
    handle, caller = exchange.handle, exchange.session.caller
    identities = exchange.connection.service.identities
    if listed:
        quotas = [await _of(exchange, uid) for uid in _users(identities, given[_QUERY.size : _QUERY.size + listed])]
    else:
        if restart:
            handle.quota_after = -1
        quotas = await _all(exchange, handle.quota_after)
    visible = [quota for quota in quotas if not caller.uid or quota.subject == caller.uid]
    data, told = _encode(identities, visible[:1] if single else visible, room)
    if not told:
        raise Failure(Status.BUFFER_TOO_SMALL if visible else Status.NO_MORE_ENTRIES)
    if not listed:
        handle.quota_after = told[-1].subject
    return _REPLY.pack(9, HEADER_SIZE + _REPLY.size, len(data)) + data


def _users(identities: "Identities", wanted: memoryview) -> Iterator[int]:
    """The users that a list of FILE_GET_QUOTA_INFORMATION names. Raises `Failure`."""
    at = 0
    for _ in range(_MOST):
        if at + _WANTED.size > len(wanted):
            raise Failure(Status.INVALID_PARAMETER)
        following, length = _WANTED.unpack_from(wanted, at)
        uid = identities.uid_of_sid(_sid(wanted[at + _WANTED.size : at + _WANTED.size + length], length))
        if uid is not None:
            yield uid
        if not following:
            return
        if following < _WANTED.size + length:
            raise Failure(Status.INVALID_PARAMETER)
        at += following
    raise Failure(Status.INVALID_PARAMETER)


def _sid(data: memoryview, length: int) -> str:
    if len(data) != length or length < 8 or data[0] != 1 or length != 8 + 4 * data[1]:
        raise Failure(Status.INVALID_SID)
    return sid_text(bytes(data))


async def _of(exchange: Exchange, uid: int) -> Quota:
    """One user's; without limits if he has none."""
    try:
        reply: QuotaList = await exchange.call(GetQuota(QuotaKind.USER, uid))
    except NotFound:
        return Quota(QuotaKind.USER, uid)
    return reply.quotas[0]


async def _all(exchange: Exchange, after: int) -> list[Quota]:
    reply: QuotaList = await exchange.call(ListQuotas((int(QuotaKind.USER), after)))
    return [quota for quota in reply.quotas if quota.kind == QuotaKind.USER and quota.subject != _DEFAULT]


def _encode(identities: "Identities", quotas: list[Quota], room: int) -> tuple[bytes, list[Quota]]:
    """As many as fit, and which these are."""
    data = bytearray()
    told: list[Quota] = []
    last = 0
    for quota in quotas:
        sid = sid_bytes(identities.sid_of_uid(quota.subject))
        pad = padding(len(data))
        if len(data) + len(pad) + _ENTRY.size + len(sid) > room:
            break
        data += pad
        if told:
            struct.pack_into("<I", data, last, len(data) - last)
        last = len(data)
        soft, hard = (value or _NO_LIMIT for value in (quota.soft_bytes, quota.hard_bytes))
        data += _ENTRY.pack(0, len(sid), 0, quota.used_bytes, soft, hard) + sid
        told.append(quota)
    return bytes(data), told


async def change(exchange: Exchange, data: memoryview) -> None:
    """Sets users' limits; a limit of -1 is none, of -2 takes the quota away (MS-FSCC 2.4.36)."""
    if exchange.session.caller.uid:
        raise Failure(Status.ACCESS_DENIED)
    identities = exchange.connection.service.identities
    at = 0
    for _ in range(_MOST):
        if at + _ENTRY.size > len(data):
            raise Failure(Status.INVALID_PARAMETER)
        following, length, _, _, soft, hard = _ENTRY.unpack_from(data, at)
        uid = identities.uid_of_sid(_sid(data[at + _ENTRY.size : at + _ENTRY.size + length], length))
        if uid is None:
            raise Failure(Status.INVALID_SID)
        before = await _of(exchange, uid)
        wanted = Quota(QuotaKind.USER, uid, max(soft, 0), max(hard, 0), before.hard_files)
        if any((wanted.soft_bytes, wanted.hard_bytes, wanted.hard_files)) or any((before.soft_bytes, before.hard_bytes)):
            await exchange.call(SetQuota(wanted))
        if not following:
            return
        if following < _ENTRY.size + length:
            raise Failure(Status.INVALID_PARAMETER)
        at += following
    raise Failure(Status.INVALID_PARAMETER)
