"""CHANGE_NOTIFY, MS-SMB2 3.3.5.19. Not offered: clients then look again by themselves."""

from gateways.smb.exchange import Exchange
from gateways.smb.status import Failure, Status


def handle(exchange: Exchange) -> bytes:
    if not exchange.handle.directory:
        raise Failure(Status.INVALID_PARAMETER)
    raise Failure(Status.NOT_SUPPORTED)
