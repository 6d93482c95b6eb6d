"""The cluster's certificate authority: who may speak as which node.

A cluster has one key that signs its nodes' certificates. It lies, with its own certificate, in the coordination store under `secrets/authority`, in the
clear: who can read the store can make himself a node, and could as well change the records that nodes obey. So the store has to be reachable for nodes
only, as etcd's own documentation asks for, and its snapshots are to be kept like keys.

A node's certificate names cluster and node in a URI, `sofs://CLUSTER/NODE`, both hexadecimal. Whether that node may still take part is not the
certificate's business but the members' records', so there is no list of revoked certificates.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sofs.cluster import NodeId
from sofs.errors import ConfigError
from sofs.types import UNIX_EPOCH, Time

VALID_DAYS = 365
RENEW_S = 120 * 86_400.0
"""A certificate with less time than this left is replaced."""
AUTHORITY_DAYS = 36_500
SKEW = timedelta(days=1)
"""How far a host's clock may be behind the one of the host that signed."""
AUTHORITY_SKEW = timedelta(days=10_000)
"""The same for the authority, which cannot be replaced when the host that made it had a clock far ahead."""

_PEM = serialization.Encoding.PEM
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What keys and certificates raise that are none."""


class Identity:
    """A node's key and certificate, as PEM."""

    def __init__(self, key: bytes, certificate: bytes) -> None:
        self.key = key
        self.certificate = certificate


class Authority:
    """The key that signs, and its certificate."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def make(cls, cluster: str, now: Time) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"sofs cluster {cluster}")])
        certificate = (
            _begun(name, name, key.public_key(), now, AUTHORITY_DAYS, AUTHORITY_SKEW)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @classmethod
    def decode(cls, data: bytes) -> Authority:
        """Raises `ConfigError`."""
        try:
            key = serialization.load_pem_private_key(data, None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("its key is of another kind")
            return cls(key, x509.load_pem_x509_certificate(data))
        except _UNREADABLE as error:
            raise ConfigError(f"the cluster's authority in the coordination store cannot be read: {error}") from None

    def encode(self) -> bytes:
        return _private(self._key) + self.certificate

    @property
    def certificate(self) -> bytes:
        """PEM."""
        return self._certificate.public_bytes(_PEM)

    @property
    def fingerprint(self) -> str:
        """What a join token carries, so that a new node trusts this authority only."""
        return hashlib.sha256(self._certificate.public_bytes(serialization.Encoding.DER)).hexdigest()

    def issue(self, cluster: str, node: NodeId, now: Time) -> Identity:
        """A key for the node, and a certificate of it, good as a server's and as a client's."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"sofs node {node:016x}")])
        certificate = (
            _begun(subject, self._certificate.subject, key.public_key(), now, VALID_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name_of(cluster, node))]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Identity(_private(key), certificate.public_bytes(_PEM))


def name_of(cluster: str, node: NodeId) -> str:
    """The URI of a node."""
    return f"sofs://{cluster}/{node:016x}"


def node_of(cluster: str, names: tuple[str, ...]) -> NodeId | None:
    """Whom a verified certificate with these URIs names; None: no node of this cluster."""
    for name in names:
        start, _, node = name.rpartition("/")
        if start == f"sofs://{cluster}":
            try:
                return NodeId(int(node, 16))
            except ValueError:
                continue
    return None


def begins(certificate: bytes) -> float:
    """From when on it is valid, in seconds since 1970. Raises `ConfigError`."""
    return _validity(certificate)[0]


def expires(certificate: bytes) -> float:
    """Until when it is valid, in seconds since 1970. Raises `ConfigError`."""
    return _validity(certificate)[1]


def _validity(certificate: bytes) -> tuple[float, float]:
    try:
        read = x509.load_pem_x509_certificate(certificate)
        return read.not_valid_before_utc.timestamp(), read.not_valid_after_utc.timestamp()
    except _UNREADABLE as error:
        raise ConfigError(f"the node's certificate cannot be read: {error}") from None


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: Time, days: int, skew: timedelta = SKEW
) -> x509.CertificateBuilder:
    at = datetime.fromtimestamp((now - UNIX_EPOCH) // 10_000_000, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - skew)
        .not_valid_after(at + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
