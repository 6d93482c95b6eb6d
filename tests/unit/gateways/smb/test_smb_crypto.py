"""Keys, signatures and encryption against published and independent values."""

import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateways.smb.crypto import CipherId, CmacSigner, Dialect, GmacSigner, Keys, Preauth, Sealer, derive, signer, verify
from gateways.smb.crypto import SigningAlgorithm as Algorithm
from gateways.smb.wire import DecodeError

SESSION_KEY = bytes.fromhex("270E1BA896585EEB7AF3472D3B4C75A7")


def test_3_1_1_keys_are_those_of_the_published_example() -> None:
    """MS-SMB2 section 4.9's exchange, as Microsoft published it in "SMB 3.1.1 Pre-authentication integrity in Windows 10"."""
    preauth = bytes.fromhex(
        "0DD13628CC3ED218EF9DF9772D436D0887AB9814BFAE63A80AA845F36909DB7928622DDDAD522D9751640A459762C5A9D6BB084CBB3CE6BDADEF5D5BCE3C6C01"
    )
    keys = Keys(Dialect.SMB_3_1_1, SESSION_KEY, preauth, CipherId.AES_128_CCM)
    assert keys.signing.hex().upper() == "73FE7A9A77BEF0BDE49C650D8CCB5F76"


def test_keys_of_256_bits_extend_by_the_length_in_the_kdf() -> None:
    short = Keys(Dialect.SMB_3_1_1, SESSION_KEY, bytes(64), CipherId.AES_128_GCM)
    long = Keys(Dialect.SMB_3_1_1, SESSION_KEY, bytes(64), CipherId.AES_256_GCM)
    assert (len(short.to_client), len(long.to_client)) == (16, 32)
    assert long.to_client[:16] != short.to_client, "the length goes into the derivation"
    assert long.signing == short.signing


def test_the_kdf_is_that_of_sp_800_108() -> None:
    """Against cryptography's own KBKDF."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

    for bits in (128, 256):
        other = KBKDFHMAC(SHA256(), Mode.CounterMode, bits // 8, 4, 4, CounterLocation.BeforeFixed, b"SMBSigningKey\0", b"context", None)
        assert derive(SESSION_KEY, b"SMBSigningKey\0", b"context", bits) == other.derive(SESSION_KEY)


def test_cmac_is_that_of_rfc_4493() -> None:
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    message = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411")
    mac = CmacSigner(key)
    assert mac.sign(message, 1).hex() == "dfa66747de9ae63030ca32611497c827"
    assert mac.sign(b"", 2).hex() == "bb1d6929e95937287fa37d129b756746", "one signature leaves no trace in the next"


def test_gmac_takes_message_id_direction_and_cancel_into_its_nonce() -> None:
    key, message = bytes(range(16)), bytes(100)
    mac = GmacSigner(key)
    for reply, cancel, last in ((False, False, 0), (True, False, 1), (False, True, 2)):
        nonce = (77).to_bytes(8, "little") + last.to_bytes(4, "little")
        assert mac.sign(message, 77, cancel, reply) == AESGCM(key).encrypt(nonce, b"", message)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_any_changed_bit_breaks_a_signature(algorithm: Algorithm) -> None:
    mac = signer(algorithm, bytes(range(16)))
    message = bytearray(random.Random(1).randbytes(200))
    message[48:64] = bytes(16)
    message[48:64] = mac.sign(message, 5, False, False)
    assert verify(mac, memoryview(bytearray(message)), 5)
    for bit in range(0, 1600, 7):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        assert not verify(mac, memoryview(changed), 5)


@pytest.mark.parametrize("cipher", CipherId)
def test_what_is_sealed_opens_again_and_nothing_else_does(cipher: CipherId) -> None:
    one, two = bytes(range(cipher.key_bits // 8)), bytes(range(1, cipher.key_bits // 8 + 1))
    server, client = Sealer(cipher, one, two, 9), Sealer(cipher, two, one, 9)
    for size in (64, 4096, 100_000):
        plain = random.Random(size).randbytes(size)
        sealed = bytearray(b"".join(server.seal(plain)))
        assert client.open(memoryview(bytearray(sealed))) == plain
        for at in (5, 21, 45, 60, len(sealed) - 1):
            changed = bytearray(sealed)
            changed[at] ^= 1
            with pytest.raises(DecodeError):
                client.open(memoryview(changed))
    assert b"".join(server.seal(b"x" * 64)) != b"".join(server.seal(b"x" * 64)), "a nonce is used once"


def test_the_preauth_hash_chains_sha_512() -> None:
    import hashlib

    chain = Preauth()
    chain.add(b"one")
    chain.add(memoryview(b"two"))
    first = hashlib.sha512(bytes(64) + b"one").digest()
    assert chain.value == hashlib.sha512(first + b"two").digest()
