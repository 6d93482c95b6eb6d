"""Logging on: only who proves to know a password becomes that user, whatever else a token holds."""

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
import spnego
from spnego._asn1 import TagClass, pack_asn1, pack_asn1_enumerated, pack_asn1_octet_string, pack_asn1_sequence
from spnego._ntlm_raw.crypto import hmac_md5
from spnego._ntlm_raw.messages import Authenticate, NegotiateFlags
from spnego._spnego import NegTokenInit, NegTokenResp, pack_mech_type_list, unpack_token

from gateways.identity import Identities, User
from gateways.smb.auth import Logon, Principal
from gateways.smb.status import Failure, Status

IDENTITIES = Identities(
    "S-1-5-21-1-2-3", [User.new("Alice", "right", 1001, 1001), User.new("mallory", "mine", 1002, 1002), User("locked", 1003, 1003)]
)
NTLM = "1.3.6.1.4.1.311.2.2.10"


def logged_on(name: str, password: str, protocol: str = "negotiate") -> tuple[Principal | None, bytes]:
    """What the server makes of a client that behaves; and the client's session key."""
    server, client = Logon(IDENTITIES, "SERVER"), spnego.client(name, password, hostname="SERVER", service="cifs", protocol=protocol)
    token = client.step()
    while token and server.principal is None:
        token = client.step(server.step(token))
    return server.principal, client.session_key


def begun(name: str, password: str) -> tuple[Logon, bytes]:
    """A logon whose challenge has come, and the client's AUTHENTICATE_MESSAGE, not sent yet."""
    server, client = Logon(IDENTITIES, "SERVER"), spnego.client(name, password, hostname="SERVER", service="cifs", protocol="ntlm")
    first = client.step()
    assert first
    answer = server.step(NegTokenInit([NTLM], mech_token=first).pack())
    last = client.step(unpack_token(answer).response_token)
    assert last
    return server, last


def element(tag: int, content: bytes) -> bytes:
    return pack_asn1(TagClass.context_specific, True, tag, content)


def response(*elements: bytes) -> bytes:
    return element(1, pack_asn1_sequence(list(elements)))


def authenticate(domain: str, user: str, answer: bytes) -> bytes:
    return Authenticate(
        NegotiateFlags.unicode, lm_challenge_response=bytes(24), nt_challenge_response=answer, domain_name=domain, username=user
    ).pack()


def refused(server: Logon, *tokens: bytes) -> None:
    with pytest.raises(Failure) as error:
        for token in tokens:
            server.step(token)
    assert error.value.status in (Status.LOGON_FAILURE, Status.INVALID_PARAMETER)
    assert server.principal is None


@pytest.mark.parametrize("protocol", ["negotiate", "ntlm"])
@pytest.mark.parametrize("name", ["Alice", "alice", "ANYDOMAIN\\ALICE"])
def test_who_knows_the_password_is_that_user_in_any_case_and_domain(name: str, protocol: str) -> None:
    principal, key = logged_on(name, "right", protocol)
    assert principal is not None and principal.name == "Alice" and principal.caller.uid == 1001
    assert principal.session_key == key and len(key) == 16


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("alice", ""), ("nobody", "right"), ("locked", ""), ("mallory", "right")])
def test_who_does_not_know_it_is_refused(name: str, password: str) -> None:
    with pytest.raises(Failure) as error:
        logged_on(name, password)
    assert error.value.status is Status.LOGON_FAILURE


@pytest.mark.parametrize("place", [2, 3, 5])
def test_a_client_cannot_declare_its_own_logon_complete(place: int) -> None:
    server, _ = begun("mallory", "mine")
    decoy = authenticate("", "alice", bytes(40))
    with contextlib.suppress(Failure):
        server.step(response(element(0, pack_asn1_enumerated(1)), element(place, pack_asn1_octet_string(decoy))))
    assert server.principal is None


def test_only_the_message_that_is_verified_names_the_user() -> None:
    from impacket.ntlm import compute_nthash

    server, message = begun("REAL\\alice", "chosen by the attacker")
    answer = Authenticate.unpack(message).nt_challenge_response
    assert answer
    domain = f"X\nREAL\\alice:0:{'0' * 32}:{compute_nthash('chosen by the attacker').hex().upper()}:[U          ]:LCT-00000000\nY"
    decoy = authenticate(domain, "alice", answer)
    refused(server, response(element(5, pack_asn1_octet_string(decoy)), element(2, pack_asn1_octet_string(message))))


def test_a_later_message_cannot_name_another_user_than_the_one_proven() -> None:
    server = Logon(IDENTITIES, "SERVER")
    client = spnego.client("mallory", "mine", hostname="SERVER", service="cifs", protocol="ntlm")
    first = client.step()
    assert first
    mechanisms = [NTLM]
    answer = server.step(NegTokenInit(mechanisms, mech_token=first).pack())
    message = client.step(unpack_token(answer).response_token)
    assert message
    # request-mic: the logon is proven, but not over before a mechListMIC has come
    server.step(response(element(0, pack_asn1_enumerated(3)), element(2, pack_asn1_octet_string(message))))
    assert server.principal is None
    mic = client.sign(pack_mech_type_list(mechanisms))
    decoy = authenticate("", "alice", bytes(40))
    server.step(NegTokenResp(response_token=decoy, mech_list_mic=mic).pack())
    principal: Principal | None = server.principal
    assert principal is not None and principal.name == "mallory"


def _without_session_key(message: bytes) -> bytes:
    """As a man in the middle would change it to know the session key: the one sent, shortened to nothing."""
    return message[:52] + struct.pack("<HHI", 0, 0, 0) + message[60:]


def _without_mic(message: bytes) -> bytes:
    """Fields moved in front of where a MIC has its place."""
    fields = bytearray(message)
    for at in (12, 20, 28, 36, 44, 52):
        length, _, offset = struct.unpack_from("<HHI", message, at)
        struct.pack_into("<HHI", fields, at, length, length, offset - 16 if length else 0)
    return bytes(fields[:72]) + message[88:]


@pytest.mark.parametrize("change", [_without_session_key, _without_mic])
def test_a_man_in_the_middle_cannot_take_the_protection_out_of_a_message(change: Callable[[bytes], bytes]) -> None:
    server, message = begun("alice", "right")
    changed = bytearray(change(message))
    if change is _without_session_key:
        # The MIC under the empty key, which anyone can compute.
        assert server._context is not None
        inner: Any = server._context._context
        changed[72:88] = bytes(16)
        changed[72:88] = hmac_md5(b"", inner._temp_negotiate.pack() + inner._temp_challenge.pack() + bytes(changed))
    refused(server, NegTokenResp(response_token=bytes(changed)).pack())


def test_a_message_without_user_and_answer_is_anonymous_and_has_no_keys() -> None:
    server, _ = begun("alice", "right")
    server.step(NegTokenResp(response_token=authenticate("", "", b"")).pack())
    assert server.principal is not None and server.principal.anonymous and not server.principal.session_key
    assert server.principal.caller.uid == 65534
