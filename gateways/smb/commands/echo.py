"""ECHO, MS-SMB2 3.3.5.17."""

from gateways.smb.exchange import Exchange


def handle(exchange: Exchange) -> bytes:
    return b"\x04\0\0\0"
