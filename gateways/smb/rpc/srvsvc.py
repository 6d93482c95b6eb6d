"""The Server Service, MS-SRVS: shares and what the server is. NDR by impacket."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from impacket.dcerpc.v5 import srvs
from impacket.dcerpc.v5.dtypes import NULL

from gateways.smb.rpc.pdu import FAULT_BAD_STUB_DATA, FAULT_OPERATION_RANGE, Fault, Interface
from sofs.types import UNIX_EPOCH

if TYPE_CHECKING:
    from gateways.smb.handle import Session
    from gateways.smb.service import SmbService

UUID_SRVSVC = UUID("4b324fc8-1670-01d3-1278-5a47bf6ee188").bytes_le
_DISK, _IPC, _SPECIAL = 0, 3, 0x80000000
_OK, _ACCESS_DENIED, _INVALID_LEVEL, _NOT_FOUND = 0, 5, 124, 2310
_MAJOR, _MINOR = 10, 0
_SERVER_TYPE = 0x9003  # workstation, server, server of type NT

Row = dict[str, Any]


def interface(service: SmbService, session: Session) -> Interface:
    return Interface(UUID_SRVSVC, 3, partial(_call, service, session))


def _call(service: SmbService, session: Session, operation: int, stub: bytes) -> bytes:
    known = OPERATIONS.get(operation)
    if known is None:
        raise Fault(FAULT_OPERATION_RANGE)
    kind, handler = known
    request = decode(kind, stub)
    answer: bytes = handler(service, session, request).getData()
    return answer


def decode(kind: Any, stub: bytes) -> Any:
    """The request. Raises `Fault`: impacket raises all sorts of things for bytes that are none."""
    try:
        return kind(stub)
    except Exception:
        raise Fault(FAULT_BAD_STUB_DATA) from None


def field(request: Any, name: str) -> Any:
    """One field of a request. Raises `Fault`: impacket decodes text only when it is looked at."""
    try:
        return request[name]
    except Exception:
        raise Fault(FAULT_BAD_STUB_DATA) from None


def _rows(service: SmbService) -> list[Row]:
    rows: list[Row] = []
    for share in service.shares.all():
        if share.smb.enabled:
            flags = 0x30 | (0x8000 if share.smb.encrypt else 0) | (0x800 if share.smb.access_based_enumeration else 0)
            rows.append({"name": share.name, "type": _DISK, "remark": share.comment, "path": f"C:\\{share.name}", "flags": flags})
    rows.append({"name": "IPC$", "type": _IPC | _SPECIAL, "remark": "IPC Service", "path": "", "flags": 0x30})
    return rows


def _text(value: str) -> str:
    return value + "\0"


def _fill(item: Any, level: int, row: Row) -> None:
    """One SHARE_INFO of `level`, MS-SRVS 2.2.4.22 to 2.2.4.29."""
    if level == 1005:
        item["shi1005_flags"] = row["flags"]
        return
    prefix = f"shi{level}_"
    item[prefix + "netname"] = _text(row["name"])
    if level == 0:
        return
    item[prefix + "type"] = row["type"]
    item[prefix + "remark"] = _text(row["remark"])
    if level == 501:
        item[prefix + "flags"] = row["flags"]
    if level in (2, 502):
        item[prefix + "permissions"] = 0
        item[prefix + "max_uses"] = 0xFFFFFFFF
        item[prefix + "current_uses"] = 0
        item[prefix + "path"] = _text(row["path"])
        item[prefix + "passwd"] = NULL
    if level == 502:
        item[prefix + "reserved"] = 0
        item[prefix + "security_descriptor"] = NULL


_ITEMS = {0: srvs.SHARE_INFO_0, 1: srvs.SHARE_INFO_1, 2: srvs.SHARE_INFO_2, 501: srvs.SHARE_INFO_501, 502: srvs.SHARE_INFO_502}


def _share_enum(service: SmbService, session: Session, request: Any) -> Any:
    """NetrShareEnum, MS-SRVS 3.1.4.8: always complete, whatever length is preferred."""
    level = field(field(request, "InfoStruct"), "Level")
    answer = srvs.NetrShareEnumResponse()
    known = level in _ITEMS
    answer["InfoStruct"]["Level"] = answer["InfoStruct"]["ShareInfo"]["tag"] = level if known else 1
    answer["ResumeHandle"] = NULL
    if not known:
        answer["ErrorCode"] = _INVALID_LEVEL
        return answer
    rows = _rows(service)
    container = answer["InfoStruct"]["ShareInfo"][f"Level{level}"]
    container["EntriesRead"] = len(rows)
    for row in rows:
        item = _ITEMS[level]()
        _fill(item, level, row)
        container["Buffer"].append(item)
    answer["TotalEntries"] = len(rows)
    answer["ErrorCode"] = _OK
    return answer


def _share_get_info(service: SmbService, session: Session, request: Any) -> Any:
    """NetrShareGetInfo, MS-SRVS 3.1.4.10."""
    level, name = field(request, "Level"), str(field(request, "NetName")).rstrip("\0")
    answer = srvs.NetrShareGetInfoResponse()
    row = next((row for row in _rows(service) if row["name"].casefold() == name.casefold()), None)
    known = level in _ITEMS or level == 1005
    answer["InfoStruct"]["tag"] = level if known else 1
    if row is None or not known:
        answer["InfoStruct"][f"ShareInfo{level if known else 1}"] = NULL
        answer["ErrorCode"] = _NOT_FOUND if known else _INVALID_LEVEL
        return answer
    _fill(answer["InfoStruct"][f"ShareInfo{level}"], level, row)
    answer["ErrorCode"] = _OK
    return answer


def _server_get_info(service: SmbService, session: Session, request: Any) -> Any:
    """NetrServerGetInfo, MS-SRVS 3.1.4.17, levels 100 and 101."""
    level = field(request, "Level")
    answer = srvs.NetrServerGetInfoResponse()
    known = level in (100, 101)
    answer["InfoStruct"]["tag"] = level if known else 100
    if not known:
        answer["InfoStruct"]["ServerInfo100"] = NULL
        answer["ErrorCode"] = _INVALID_LEVEL
        return answer
    info = answer["InfoStruct"][f"ServerInfo{level}"]
    info[f"sv{level}_platform_id"] = 500
    info[f"sv{level}_name"] = _text(service.settings.name)
    if level == 101:
        info["sv101_version_major"], info["sv101_version_minor"] = _MAJOR, _MINOR
        info["sv101_type"] = _SERVER_TYPE
        info["sv101_comment"] = _text("sofs")
    answer["ErrorCode"] = _OK
    return answer


def _time_of_day(service: SmbService, session: Session, request: Any) -> Any:
    """NetrRemoteTOD, MS-SRVS 3.1.4.21, in UTC."""
    seconds, fraction = divmod(service.clock.now() - UNIX_EPOCH, 10_000_000)
    days, of_day = divmod(seconds, 86400)
    year, month, day = _date(days)
    answer = srvs.NetrRemoteTODResponse()
    info = answer["BufferPtr"]
    values = {
        "elapsedt": seconds, "msecs": 0, "hours": of_day // 3600, "mins": of_day // 60 % 60, "secs": of_day % 60,
        "hunds": fraction // 100_000, "timezone": 0, "tinterval": 310, "day": day, "month": month, "year": year, "weekday": (days + 4) % 7,
    }  # fmt: skip
    for name, value in values.items():
        info[f"tod_{name}"] = value
    answer["ErrorCode"] = _OK
    return answer


def _date(days: int) -> tuple[int, int, int]:
    """Year, month and day of a count of days since 1970."""
    from datetime import date, timedelta

    when = date(1970, 1, 1) + timedelta(days=days)
    return when.year, when.month, when.day


Operation = Callable[["SmbService", "Session", Any], Any]
OPERATIONS: dict[int, tuple[Any, Operation]] = {
    15: (srvs.NetrShareEnum, _share_enum),
    16: (srvs.NetrShareGetInfo, _share_get_info),
    21: (srvs.NetrServerGetInfo, _server_get_info),
    28: (srvs.NetrRemoteTOD, _time_of_day),
}
