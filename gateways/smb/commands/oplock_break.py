"""Acknowledgements of oplock and lease breaks, MS-SMB2 3.3.5.22. No oplock or lease is granted, so none can be broken."""

from gateways.smb.exchange import Exchange
from gateways.smb.status import Failure, Status


def handle(exchange: Exchange) -> bytes:
    raise Failure(Status.INVALID_PARAMETER)
