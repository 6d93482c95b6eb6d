"""Who calls: AUTH_NONE and AUTH_SYS (RFC 5531 appendix A) as a value.

AUTH_SYS is a claim. What it is worth is the export's to say: its client list decides who is believed and who is squashed.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple

from gateways.exports import Client
from gateways.nfs.xdr import U32, Array, Opaque, XdrError, unpack
from sofs.volume.api import Caller

AUTH_NONE, AUTH_SYS = 0, 1
BAD_CREDENTIAL, TOO_WEAK = 1, 5
SYS_GROUPS = 16
"""As many as AUTH_SYS can carry: a list of this length may be cut off."""


class Refused(Exception):
    """The credential cannot be used; `status` is the auth_stat that says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class SysCredential(NamedTuple):
    """authsys_parms, RFC 5531 appendix A."""

    stamp: U32
    machine: Annotated[bytes, Opaque(255)]
    uid: U32
    gid: U32
    groups: Annotated[tuple[int, ...], Array(U32, SYS_GROUPS)]


class Authentication(NamedTuple):
    """The part of a call's header that says who calls: credential and verifier."""

    flavor: U32
    credential: Annotated[bytes, Opaque(400)]
    verifier_flavor: U32
    verifier: Annotated[bytes, Opaque(400)]


class Credential:
    """What a call claims about its user."""

    __slots__ = ("anonymous", "gid", "groups", "uid")

    def __init__(self, anonymous: bool, uid: int = 0, gid: int = 0, groups: tuple[int, ...] = ()) -> None:
        self.anonymous = anonymous
        self.uid = uid
        self.gid = gid
        self.groups = groups

    def caller(self, client: Client, groups: Callable[[int], tuple[int, ...]]) -> Caller:
        """On whose behalf the call acts where `client` is the line of the client list that counts.

        `groups` looks up the groups of a user whose list may have been cut off.
        """
        if self.anonymous:
            return Caller(client.anonymous_uid, client.anonymous_gid)
        listed = self.groups
        if len(listed) >= SYS_GROUPS:
            listed = tuple(dict.fromkeys(listed + groups(self.uid)))
        return client.caller(self.uid, self.gid, listed)


def credential(authentication: bytes) -> Credential:
    """The credential in a call's header. Raises `Refused`."""
    try:
        header, _ = unpack(Authentication, memoryview(authentication), 0)
        if header.flavor == AUTH_NONE:
            return Credential(True)
        if header.flavor != AUTH_SYS:
            raise Refused(TOO_WEAK)
        sent, _ = unpack(SysCredential, memoryview(header.credential), 0)
    except XdrError:
        raise Refused(BAD_CREDENTIAL) from None
    return Credential(False, sent.uid, sent.gid, sent.groups)
