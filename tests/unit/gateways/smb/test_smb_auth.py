"""Logging on, message by message, against spnego's client."""

import os
import struct

import pytest
import spnego

from gateways.identity import Identities, User, domain_sid
from gateways.smb.auth import Logon, Principal
from gateways.smb.status import Failure, Status

KNOWN = Identities(domain_sid(bytes(12)), [User.new("alice", "secret", 1000, 1000), User("locked", 1001, 1001)])


def log_on(user: str, password: str, protocol: str = "negotiate") -> Principal:
    client = spnego.client(user, password, hostname="server", service="cifs", protocol=protocol)
    logon = Logon(KNOWN, "server")
    token = client.step()
    while token:
        token = logon.step(token)
        if logon.principal is not None and (client.complete or not token):
            break
        token = client.step(token)
    assert logon.principal is not None
    assert logon.principal.session_key == client.session_key
    return logon.principal


@pytest.mark.parametrize("protocol", ["ntlm", "negotiate"])
@pytest.mark.parametrize("user", ["alice", "ALICE", "WORKGROUP\\alice", "any.domain\\Alice", "alice@example.org"])
def test_a_user_logs_on_from_any_domain_and_in_any_case(user: str, protocol: str) -> None:
    principal = log_on(user, "secret", protocol)
    assert (principal.name, principal.caller.uid, principal.anonymous) == ("alice", 1000, False)


@pytest.mark.parametrize(("user", "password"), [("alice", "Secret"), ("alice", ""), ("bob", "secret"), ("locked", ""), ("locked", "x")])
def test_a_wrong_password_an_unknown_user_and_one_without_password_are_refused(user: str, password: str) -> None:
    with pytest.raises(Failure) as failure:
        log_on(user, password)
    assert failure.value.status is Status.LOGON_FAILURE


def test_answers_of_ntlm_version_1_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LM_COMPAT_LEVEL", "1")
    with pytest.raises(Failure):
        log_on("alice", "secret", "ntlm")


def test_a_domain_cannot_bring_an_account_of_its_own() -> None:
    forged = User.new("alice", "forged", 1, 1).nt_hash.upper()
    line = f"A\\alice:1:{'0' * 32}:{forged}:[U          ]:LCT-00000000"
    for user in (f"{line}\nB\\alice", f"x\n{line}", f"A:{line}", f"alice@x\n{line}"):
        with pytest.raises(Failure):
            log_on(user, "forged")
    domain = f"x\n{line}\n".encode("utf-16-le")
    assert not _sound(domain, "alice".encode("utf-16-le"))


def _sound(domain: bytes, user: bytes) -> bool:
    from gateways.smb.auth import _names

    answer = bytes(50)
    at = 64
    fields = struct.pack("<HHI", 0, 0, at) + struct.pack("<HHI", len(answer), len(answer), at)
    fields += struct.pack("<HHI", len(domain), len(domain), at + 50) + struct.pack("<HHI", len(user), len(user), at + 50 + len(domain))
    fields += struct.pack("<HHIHHII", 0, 0, at, 0, 0, at, 1)
    names = _names(b"NTLMSSP\0\x03\0\0\0" + fields + answer + domain + user)
    assert names is not None and names.user == "alice"
    return names.sound


def test_no_account_is_left_in_the_environment() -> None:
    before = dict(os.environ)
    log_on("alice", "secret")
    with pytest.raises(Failure):
        log_on("alice", "wrong")
    assert dict(os.environ) == before


@pytest.mark.parametrize("token", [b"", b"x", b"NTLMSSP\0", b"NTLMSSP\0\x03\0\0\0", b"\x60\x82", bytes(20_000), b"\xa1\x03\x30\x01\x00"])
def test_garbage_is_refused_with_a_status(token: bytes) -> None:
    with pytest.raises(Failure):
        Logon(KNOWN, "server").step(token)
