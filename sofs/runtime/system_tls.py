"""Mutual TLS 1.3 for connections between nodes, from files in the node's data directory.

    DATA/tls/authority.pem    whom the node trusts
    DATA/tls/node.pem         its own key and certificate, in one file so that they are replaced together; mode 0600

Both ends show a certificate, and whatever the authority did not sign ends the handshake. Who the other end is then says `Connection.names`; whether it
may be here is for others to judge.
"""

import ssl
from pathlib import Path

from sofs.errors import ConfigError
from sofs.runtime import durable


class Tls:
    """A node's credentials, for both directions of a connection."""

    def __init__(self, data: Path) -> None:
        self._directory = data / "tls"
        self.server = _context(ssl.PROTOCOL_TLS_SERVER)
        self.client = _context(ssl.PROTOCOL_TLS_CLIENT)
        # A session that is resumed would not look at the certificates again.
        self.server.num_tickets = 0

    @classmethod
    def open(cls, data: Path) -> "Tls":
        """Raises `ConfigError` when the files are not there or do not fit together."""
        tls = cls(data)
        tls._load()
        return tls

    @property
    def certificate(self) -> bytes:
        """The node's own, as PEM."""
        return (self._directory / "node.pem").read_bytes()

    def store(self, authority: bytes, key: bytes, certificate: bytes) -> None:
        """Writes new credentials, which new connections use from then on. Raises `ConfigError`."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            durable.replace(self._directory / "authority.pem", authority)
            durable.replace(self._directory / "node.pem", key + certificate)
        except OSError as error:
            raise ConfigError(f"{self._directory}: {error.strerror}; the service's user has to be able to write there") from None
        self._load()

    def _load(self) -> None:
        try:
            for context in (self.server, self.client):
                context.load_verify_locations(self._directory / "authority.pem")
                context.load_cert_chain(self._directory / "node.pem")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the node's credentials in {self._directory} cannot be used ({error.strerror or error}); `sofs cluster join` makes new ones"
            ) from None


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a node is known by its id, wherever it is
    context.verify_mode = ssl.CERT_REQUIRED
    return context
