"""The Workstation Service, MS-WKST: the server's name and domain. NDR by impacket."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from impacket.dcerpc.v5 import wkst
from impacket.dcerpc.v5.dtypes import NULL

from gateways.smb.rpc.pdu import FAULT_OPERATION_RANGE, Fault, Interface
from gateways.smb.rpc.srvsvc import decode, field

if TYPE_CHECKING:
    from gateways.smb.service import SmbService

UUID_WKSSVC = UUID("6bffd098-a112-3610-9833-46c3f87e345a").bytes_le
_INVALID_LEVEL = 124


def interface(service: SmbService) -> Interface:
    return Interface(UUID_WKSSVC, 1, partial(_call, service))


def _call(service: SmbService, operation: int, stub: bytes) -> bytes:
    if operation != wkst.NetrWkstaGetInfo.opnum:
        raise Fault(FAULT_OPERATION_RANGE)
    level = field(decode(wkst.NetrWkstaGetInfo, stub), "Level")
    answer = wkst.NetrWkstaGetInfoResponse()
    known = level in (100, 101)
    answer["WkstaInfo"]["tag"] = level if known else 100
    if known:
        info = answer["WkstaInfo"][f"WkstaInfo{level}"]
        info[f"wki{level}_platform_id"] = 500
        info[f"wki{level}_computername"] = service.settings.name + "\0"
        info[f"wki{level}_langroup"] = service.settings.workgroup + "\0"
        info[f"wki{level}_ver_major"], info[f"wki{level}_ver_minor"] = 10, 0
        if level == 101:
            info["wki101_lanroot"] = "\0"
        answer["ErrorCode"] = 0
    else:
        answer["WkstaInfo"]["WkstaInfo100"] = NULL
        answer["ErrorCode"] = _INVALID_LEVEL
    encoded: bytes = answer.getData()
    return encoded
