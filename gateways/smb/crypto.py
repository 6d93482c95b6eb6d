"""Keys, signatures and encryption of SMB 2 and 3: MS-SMB2 3.1.4.1 to 3.1.4.3, on `cryptography`'s primitives.

Messages are signed in place: the header's signature field must be zero when `sign` is called. What is verified is
writable too, so its signature is taken out first. Nonces never repeat under one key: a session counts its encrypted
messages, and signatures take message id, direction and command.
"""

import hmac
import struct
from collections.abc import Callable
from enum import IntEnum
from hmac import compare_digest
from typing import Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as RawCipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, Hash
from cryptography.hazmat.primitives.hmac import HMAC

from gateways.smb.header import ENCRYPTED, NO_SIGNATURE, TRANSFORM, TRANSFORM_ENCRYPTED, TRANSFORM_SIZE
from gateways.smb.wire import DecodeError
from sofs.runtime.ports import Buffer


class Dialect(IntEnum):
    SMB_2_0_2 = 0x0202
    SMB_2_1 = 0x0210
    SMB_3_0 = 0x0300
    SMB_3_0_2 = 0x0302
    SMB_3_1_1 = 0x0311

    @classmethod
    def named(cls, text: str) -> Self:
        """Of `3.1.1` and the like. Raises `KeyError`."""
        return cls["SMB_" + text.replace(".", "_")]


class SigningAlgorithm(IntEnum):
    """MS-SMB2 2.2.3.1.7. Dialect 2 has only the first, 3.0 and 3.0.2 only the second."""

    HMAC_SHA256 = 0
    AES_CMAC = 1
    AES_GMAC = 2


class CipherId(IntEnum):
    """MS-SMB2 2.2.3.1.2."""

    AES_128_CCM = 1
    AES_128_GCM = 2
    AES_256_CCM = 3
    AES_256_GCM = 4

    @property
    def key_bits(self) -> int:
        return 256 if self >= CipherId.AES_256_CCM else 128

    @property
    def nonce_size(self) -> int:
        return 12 if self in (CipherId.AES_128_GCM, CipherId.AES_256_GCM) else 11


def derive(key: bytes, label: bytes, context: bytes, bits: int = 128) -> bytes:
    """The counter-mode KDF of SP 800-108 with HMAC-SHA256, 32-bit counter and length."""
    mac = HMAC(key, SHA256())
    mac.update(b"\0\0\0\1" + label + b"\0" + context + struct.pack(">I", bits))
    return mac.finalize()[: bits // 8]


class Keys:
    """What a session key becomes, MS-SMB2 3.3.5.5.3. `context` is the pre-authentication hash (3.1.1 only)."""

    def __init__(self, dialect: Dialect, session_key: bytes, context: bytes, cipher: CipherId) -> None:
        session_key = session_key[:16].ljust(16, b"\0")
        bits = cipher.key_bits
        if dialect < Dialect.SMB_3_0:
            # Dialect 2 signs with the session key itself, and does not encrypt.
            self.signing = self.to_server = self.to_client = session_key
        elif dialect is Dialect.SMB_3_1_1:
            self.signing = derive(session_key, b"SMBSigningKey\0", context)
            self.to_server = derive(session_key, b"SMBC2SCipherKey\0", context, bits)
            self.to_client = derive(session_key, b"SMBS2CCipherKey\0", context, bits)
        else:
            self.signing = derive(session_key, b"SMB2AESCMAC\0", b"SmbSign\0")
            self.to_server = derive(session_key, b"SMB2AESCCM\0", b"ServerIn \0", bits)
            self.to_client = derive(session_key, b"SMB2AESCCM\0", b"ServerOut\0", bits)


class Preauth:
    """The chain of SHA-512 hashes over the messages that set a connection and a session up, MS-SMB2 3.3.5.4."""

    def __init__(self, value: bytes = bytes(64)) -> None:
        self.value = value

    def add(self, message: Buffer) -> None:
        digest = Hash(SHA512())
        digest.update(self.value)
        digest.update(message)
        self.value = digest.finalize()


class Signer(Protocol):
    def sign(self, message: Buffer, message_id: int, cancel: bool = False, reply: bool = True) -> bytes:
        """The 16 bytes for the signature field of `message`, in which that field is zero."""


class HmacSigner:
    """HMAC-SHA256, cut to 16 bytes, MS-SMB2 3.1.4.1."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, message: Buffer, message_id: int, cancel: bool = False, reply: bool = True) -> bytes:
        return hmac.digest(self._key, message, "sha256")[:16]


class CmacSigner:
    """AES-128-CMAC, MS-SMB2 3.1.4.1. A prepared context is copied per message, which skips the key schedule."""

    def __init__(self, key: bytes) -> None:
        self._base = CMAC(algorithms.AES(key))

    def sign(self, message: Buffer, message_id: int, cancel: bool = False, reply: bool = True) -> bytes:
        mac = self._base.copy()
        mac.update(message)  # type: ignore[arg-type]  # any buffer will do
        return mac.finalize()


class GmacSigner:
    """AES-128-GMAC, MS-SMB2 3.1.4.1: GCM over nothing, with the message as associated data."""

    NONCE = struct.Struct("<QI")

    def __init__(self, key: bytes) -> None:
        self._encrypt: Callable[[bytes, bytes, Buffer], bytes] = AESGCM(key).encrypt

    def sign(self, message: Buffer, message_id: int, cancel: bool = False, reply: bool = True) -> bytes:
        return self._encrypt(self.NONCE.pack(message_id, reply | cancel << 1), b"", message)


def signer(algorithm: SigningAlgorithm, key: bytes) -> Signer:
    return _SIGNERS[algorithm](key)


_SIGNERS: dict[SigningAlgorithm, Callable[[bytes], Signer]] = {
    SigningAlgorithm.HMAC_SHA256: HmacSigner,
    SigningAlgorithm.AES_CMAC: CmacSigner,
    SigningAlgorithm.AES_GMAC: GmacSigner,
}


def verify(signer: Signer, message: memoryview, message_id: int, cancel: bool = False) -> bool:
    """Whether a client's `message` bears the right signature; the field is zero afterwards."""
    field = message[48:64]
    given = field.tobytes()
    field[:] = NO_SIGNATURE
    return compare_digest(given, signer.sign(message, message_id, cancel, False))


class Sealer:
    """Encryption of one session in both directions, MS-SMB2 3.1.4.3."""

    def __init__(self, cipher: CipherId, to_client: bytes, to_server: bytes, session_id: int) -> None:
        self._cipher = cipher
        self._aead: type[AESGCM] | type[AESCCM] = AESGCM if cipher.nonce_size == 12 else AESCCM
        self._out = self._aead(to_client)
        self._in = self._aead(to_server)
        self._in_key = to_server
        self._session_id = session_id
        self._sent = 0

    def seal(self, message: Buffer) -> list[Buffer]:
        """`message` behind its TRANSFORM_HEADER, as buffers to send."""
        self._sent += 1
        nonce = self._sent.to_bytes(self._cipher.nonce_size, "little")
        header = TRANSFORM.pack(ENCRYPTED, bytes(16), nonce.ljust(16, b"\0"), len(message), 0, TRANSFORM_ENCRYPTED, self._session_id)
        sealed = self._out.encrypt(nonce, bytes(message) if self._aead is AESCCM else message, header[20:])
        size = len(message)
        return [header[:4] + sealed[size:] + header[20:], memoryview(sealed)[:size]]

    def open(self, message: memoryview) -> memoryview:
        """The plain message inside an encrypted one, writable. Raises `DecodeError`."""
        _, tag, nonce, size, _, flags, _ = TRANSFORM.unpack_from(message)
        body = message[TRANSFORM_SIZE:]
        if size != len(body) or flags != TRANSFORM_ENCRYPTED:
            raise DecodeError(f"an encrypted message of {len(body)} bytes says {size}, flags {flags:#x}")
        associated = message[20:TRANSFORM_SIZE]
        nonce = nonce[: self._cipher.nonce_size]
        try:
            if self._aead is AESGCM and size >= 32768:
                return self._open_large(body, nonce, tag, associated)
            return memoryview(bytearray(self._in.decrypt(nonce, b"".join((body, tag)), bytes(associated))))
        except InvalidTag:
            raise DecodeError("an encrypted message does not decrypt") from None

    def _open_large(self, body: memoryview, nonce: bytes, tag: bytes, associated: memoryview) -> memoryview:
        """Without joining body and tag: that copy costs more than the set-up of a cipher object."""
        decryptor = RawCipher(algorithms.AES(self._in_key), modes.GCM(nonce, tag)).decryptor()
        decryptor.authenticate_additional_data(bytes(associated))
        plain = bytearray(len(body) + 15)
        count = decryptor.update_into(body, plain)
        decryptor.finalize()
        return memoryview(plain)[:count]
