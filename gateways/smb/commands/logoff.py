"""LOGOFF, MS-SMB2 3.3.5.6."""

from gateways.smb.exchange import Exchange


def handle(exchange: Exchange) -> bytes:
    exchange.connection.service.end_session(exchange.session)
    return b"\x04\0\0\0"
