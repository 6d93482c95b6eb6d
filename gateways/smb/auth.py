"""Logging on: SPNEGO with NTLMv2 inside, through pyspnego, MS-SMB2 3.3.5.5.

pyspnego's NTLM reads the account's hash from the file that NTLM_USER_FILE names, once the client's last message is there, and compares the
domain that the client typed. A file server that stands alone accepts any domain. So the file is made for each logon, with one line for exactly the
user and domain of that message, and lives in memory only (memfd): no hash is ever written to a disk by us. NTLMv1 and LM answers are refused.

pyspnego also checks the client's NTLMv2 answer against a blob that it builds anew, with the four zero bytes of MS-NLMP 3.3.2 at its end. Samba's
client leaves those out. So the one function that computes the answer is replaced, while pyspnego checks, by one that takes the
blob as the client sent it.

pyspnego's acceptor was made for clients that are friends. So three things are seen to here: a SPNEGO client that declares the negotiation
complete has proven nothing, the user is the one whose answer was verified and no other that a token speaks of, and neither the MIC nor the session
key of MS-NLMP can be taken out of a message by someone in between.

Anonymous logons are told apart before pyspnego sees them, as its acceptor has no word for them.
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import spnego
import spnego._ntlm
import structlog
from cryptography.hazmat.primitives.hashes import MD5
from cryptography.hazmat.primitives.hmac import HMAC
from spnego._negotiate import NegotiateProxy
from spnego._ntlm_raw.messages import Authenticate, AvFlags, AvId, NTClientChallengeV2
from spnego._spnego import NegTokenInit, NegTokenResp, unpack_token
from spnego.exceptions import InvalidTokenError, SpnegoError

from gateways.identity import ANONYMOUS, EVERYONE, NETWORK, Identities, User
from gateways.smb.status import Failure, Status
from sofs.volume.api import Caller

log = structlog.get_logger("smb")

MAX_TOKEN = 16 << 10
_AUTHENTICATE = b"NTLMSSP\0\x03\0\0\0"
_FIELDS = struct.Struct("<HHIHHIHHIHHIHHIHHII")  # length, size, offset of LM, NT, domain, user, workstation, key; flags
_UNICODE = 1
_ACCEPTED = bytes.fromhex("a1073005a0030a0100")
"""A NegTokenResp that says accept-completed, RFC 4178 4.2.2."""


class Principal(NamedTuple):
    """Who has logged on."""

    name: str
    caller: Caller
    session_key: bytes
    anonymous: bool = False
    account: User | None = None
    """The user as he was known then; None for an anonymous one."""


class _Names(NamedTuple):
    domain: str
    user: str
    answer: bytes
    """The NTLMv2 response: a proof of 16 bytes and the blob it is over."""

    @property
    def sound(self) -> bool:
        """No character that means something in the account's line: a stranger must not write lines of his own."""
        return not any(char in ":\\" or not char.isprintable() for char in self.domain + self.user)


def _mechanism_token(token: bytes) -> bytes:
    """The message of the mechanism inside a token, as pyspnego finds it: what it does not look at must not tell us anything either."""
    unpacked = unpack_token(token)
    if isinstance(unpacked, NegTokenInit):
        return unpacked.mech_token or b""
    if isinstance(unpacked, NegTokenResp):
        return unpacked.response_token or b""
    return unpacked if isinstance(unpacked, bytes) else b""


def _names(message: bytes) -> _Names | None:
    """Domain and user of an NTLM AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3); None if `message` is none."""
    if not message.startswith(_AUTHENTICATE) or len(message) < 12 + _FIELDS.size:
        return None
    fields = _FIELDS.unpack_from(message, 12)
    encoding = "utf-16-le" if fields[18] & _UNICODE else "cp850"
    domain, user = (
        message[offset : offset + length].decode(encoding, "replace") for length, offset in ((fields[6], fields[8]), (fields[9], fields[11]))
    )
    return _Names(domain, user, message[fields[5] : fields[5] + fields[3]])


def _lacks_mic(message: bytes, answer: bytes) -> bool:
    """Whether someone took away the MIC that the client's answer, which nobody can change, announces (MS-NLMP 3.1.5.1.2, MsvAvFlags)."""
    if len(answer) <= 24:
        return False  # no NTLMv2, and refused for that
    announced = NTClientChallengeV2.unpack(answer[16:]).av_pairs.get(AvId.flags, 0) & AvFlags.mic
    return bool(announced) and len(Authenticate.unpack(message).mic or b"") != 16


def _hmac_md5(key: bytes, data: bytes) -> bytes:
    mac = HMAC(key, MD5())
    mac.update(data)
    return mac.finalize()


def _answer_over(blob: bytes) -> Callable[[bytes, bytes, bytes, object, object], tuple[bytes, bytes, bytes]]:
    """MS-NLMP 3.3.2's ComputeResponse for the blob that a client sent: the expected answer, none for LM, and the session's base key."""

    def compute(key: bytes, server_challenge: bytes, *_: object) -> tuple[bytes, bytes, bytes]:
        proof = _hmac_md5(key, server_challenge + blob)
        return proof + blob, b"", _hmac_md5(key, proof)

    return compute


@contextmanager
def _account(line: str, answer: bytes = b"") -> Iterator[None]:
    """Has pyspnego find exactly this account, and check this answer, while the block runs; nothing else runs meanwhile, for the block does not wait."""
    before = {name: os.environ.get(name) for name in ("NTLM_USER_FILE", "LM_COMPAT_LEVEL")}
    ntlm: Any = spnego._ntlm
    compute = ntlm.compute_response_v2
    handle = os.memfd_create("account")
    try:
        os.write(handle, line.encode())
        os.environ["NTLM_USER_FILE"] = f"/proc/self/fd/{handle}"
        os.environ["LM_COMPAT_LEVEL"] = "5"
        if answer:
            ntlm.compute_response_v2 = _answer_over(answer[16:])
        yield
    finally:
        ntlm.compute_response_v2 = compute
        os.close(handle)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Logon:
    """One logon in progress: `step` takes the client's tokens until there is a `principal`."""

    def __init__(
        self,
        identities: Identities,
        hostname: str,
        refused: Callable[[str], bool] = lambda user: False,
        failed: Callable[[str], None] = lambda user: None,
    ) -> None:
        """`refused` says whether a user has failed too often to be tried again, `failed` is told of each failure."""
        self._refused, self._failed = refused, failed
        self._identities = identities
        self._hostname = hostname
        self._context: _Acceptor | None = None
        self._proven: User | None = None
        """Whose password the client has shown to know."""
        self.principal: Principal | None = None

    @staticmethod
    def hint() -> bytes:
        """What NEGOTIATE offers: a NegTokenInit2 with our mechanisms."""
        with _account(""):
            return _acceptor("sofs").step(None) or b""

    def step(self, token: bytes) -> bytes:
        """The answer to the client's `token`. Raises `Failure` when the logon has failed."""
        if not token or len(token) > MAX_TOKEN:
            raise Failure(Status.INVALID_PARAMETER)
        try:
            message = _mechanism_token(token)
        except Exception as error:  # the token is a stranger's, and pyspnego's decoders raise whatever comes
            log.info("logon_failed", reason=_reason(error))
            raise Failure(Status.INVALID_PARAMETER) from None
        # Once a user is proven, a further message brings a mechListMIC at most; what else it says is of no interest.
        names = _names(message) if self._proven is None else None
        if names is not None and not names.user and not names.answer:
            caller = Caller(65534, 65534, (), (ANONYMOUS, EVERYONE, NETWORK))
            self.principal = Principal("", caller, b"", anonymous=True)
            return b"" if token.startswith(_AUTHENTICATE) else _ACCEPTED
        if names is not None and self._refused(names.user):
            log.info("logon_refused", user=names.user, reason="too many failures within a minute")
            raise Failure(Status.ACCOUNT_LOCKED_OUT)
        user = self._identities.named(names.user.partition("@")[0]) if names is not None and names.sound else None
        line = ""
        if names is not None and user is not None and user.nt_hash:
            account = f"{names.domain}\\{names.user}" if names.domain else names.user
            line = f"{account}:{user.uid}:{'0' * 32}:{user.nt_hash.upper()}:[U          ]:LCT-00000000\n"
        try:
            if names is not None and _lacks_mic(message, names.answer):
                raise InvalidTokenError(context_msg="The message integrity code is missing")
            with _account(line, names.answer if names is not None else b""):
                if self._context is None:
                    self._context = _acceptor(self._hostname)
                answer = self._context.step(token) or b""
        except Exception as error:
            log.info("logon_failed", user=names.user if names else "", known=user is not None, reason=_reason(error))
            self._failed(names.user if names else "")
            raise Failure(Status.LOGON_FAILURE if isinstance(error, SpnegoError) else Status.INVALID_PARAMETER) from None
        if self._context.proven and self._proven is None:
            if user is None or len(self._context.session_key) != 16:
                # An empty session key, which anyone knows, is what a message makes whose EncryptedRandomSessionKey was cut off.
                raise Failure(Status.LOGON_FAILURE)
            self._proven = user
        if self._proven is not None and self._context.complete:
            self.principal = Principal(self._proven.name, self._identities.caller(self._proven), self._context.session_key, account=self._proven)
        return answer


def _reason(error: Exception) -> str:
    """pyspnego's messages speak of its file where the user is simply unknown."""
    text = str(error)
    return "no such user" if "NTLM_USER_FILE" in text else text or type(error).__name__


class _Acceptor(NegotiateProxy):
    """SPNEGO with NTLM alone, and so without a choice that a mechListMIC would have to protect (RFC 4178 section 5).

    One that a client sends is checked and answered; pyspnego by itself would wait for one from clients that never send it, such as impacket.
    """

    @classmethod
    def available_protocols(cls, options: spnego.NegotiateOptions | None = None) -> list[str]:
        return ["ntlm", "negotiate"]

    @property
    def proven(self) -> bool:
        """Whether the mechanism has verified the client. SPNEGO's own state does not tell: a client may declare it complete."""
        return bool(self._context_list) and self._context.complete

    @property
    def complete(self) -> bool:
        return super().complete and self.proven

    @property
    def _requires_mech_list_mic(self) -> bool:
        return False


def _acceptor(hostname: str) -> _Acceptor:
    return _Acceptor(hostname=hostname, service="cifs", usage="accept", protocol="negotiate")
