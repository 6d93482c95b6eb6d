"""The coordination store in an etcd that speaks TLS only, and knows its clients by certificates."""

from __future__ import annotations

import asyncio
import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sofs.cluster.store import open_etcd
from sofs.config import Config
from sofs.coordination import Put
from sofs.errors import ConfigError, Unavailable
from tests.contracts.etcd_server import EtcdServer


class Signer:
    """An authority that is not the cluster's, as a site has one for its etcd."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("the site")
        self.certificate = _pem(
            self._begun(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True).sign(self._key, hashes.SHA256())
        )

    def issue(self, directory: Path, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        issued = self._begun(_name(name), key).add_extension(host, critical=False).sign(self._key, hashes.SHA256())
        certificate_path, key_path = directory / f"{name}.pem", directory / f"{name}.key"
        certificate_path.write_bytes(_pem(issued))
        key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return certificate_path, key_path

    def _begun(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def test_a_node_proves_itself_to_etcd_and_etcd_to_it(tmp_path: Path) -> None:
    signer, stranger = Signer(), Signer()
    authority, foreign = tmp_path / "authority.pem", tmp_path / "foreign.pem"
    authority.write_bytes(signer.certificate)
    foreign.write_bytes(stranger.certificate)
    server = EtcdServer(tmp_path, tls=(authority, *signer.issue(tmp_path, "etcd")))
    certificate, key = signer.issue(tmp_path, "node")
    server.start()

    def config(**settings: object) -> Config:
        result = Config()
        result.coordination.endpoints = [f"127.0.0.1:{server.port}"]
        for name, value in settings.items():
            setattr(result.coordination, name, str(value))
        return result

    async def change(config: Config) -> bytes:
        store = open_etcd(config)
        store.timeout = 3.0  # type: ignore[attr-defined]
        try:
            await store.transact([], [Put("shares/x", b"1")])
            entry = await store.get("shares/x")
            assert entry is not None
            return entry.value
        finally:
            await store.close()

    good = {"authority_file": authority, "certificate_file": certificate, "key_file": key}
    try:
        assert asyncio.run(change(config(**good))) == b"1"
        for wrong in ({}, {"authority_file": authority}, {**good, "authority_file": foreign}):
            with pytest.raises(Unavailable):
                asyncio.run(change(config(**wrong)))
        with pytest.raises(ConfigError, match=r"\[coordination\] names it"):
            open_etcd(config(authority_file=tmp_path / "nowhere"))
    finally:
        server.stop()
