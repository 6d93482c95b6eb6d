"""The cluster's coordination store, as the configuration names it."""

from __future__ import annotations

from pathlib import Path

from sofs.cluster.membership import endpoint
from sofs.config import Config
from sofs.coordination import Store
from sofs.errors import ConfigError


def open_etcd(config: Config) -> Store:
    """Raises `ConfigError`."""
    from sofs.coordination.etcd import Credentials, EtcdStore  # grpc takes a while to import

    coordination = config.coordination
    try:
        endpoints = [endpoint(text) for text in coordination.endpoints]
    except ConfigError:
        raise ConfigError(f"coordination.endpoints: {config.coordination.endpoints}; write HOST:PORT, such as 10.0.0.1:2379") from None
    credentials = None
    if coordination.authority_file:
        files = (coordination.authority_file, coordination.certificate_file, coordination.key_file)
        credentials = Credentials(*(_read(path) if path else None for path in files))  # type: ignore[arg-type]  # the first is there
    return EtcdStore(endpoints, coordination.prefix, credentials=credentials)


def _read(path: str) -> bytes:
    """Raises `ConfigError`."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; [coordination] names it for TLS with etcd") from None
