"""Owners as NFSv4 names them: strings, where the volume has numbers and SIDs (RFC 8881 5.9).

A number is told as its decimal digits, which is what clients with AUTH_SYS expect of each other and of a server (a name is the business of the host
where the user logs on). Both forms are understood: digits, and `name@domain` for users that this cluster knows; `nobody@...` is the anonymous user.
"""

from functools import lru_cache
from typing import Protocol

from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.xdr import opaque
from sofs.volume.security import sid_bytes, sid_text

NOBODY = 65534
OWNER_WHO, GROUP_WHO, EVERYONE_WHO = b"OWNER@", b"GROUP@", b"EVERYONE@"
_SPECIAL = {
    EVERYONE_WHO: "S-1-1-0",
    b"DIALUP@": "S-1-5-1",
    b"NETWORK@": "S-1-5-2",
    b"BATCH@": "S-1-5-3",
    b"INTERACTIVE@": "S-1-5-4",
    b"SERVICE@": "S-1-5-6",
    b"ANONYMOUS@": "S-1-5-7",
    b"AUTHENTICATED@": "S-1-5-11",
}
"""RFC 8881 6.2.1.5, those that mean the same whatever file they stand at."""
_SID_OF = {who: sid_bytes(sid) for who, sid in _SPECIAL.items()}
_WHO_OF = {sid: who for who, sid in _SID_OF.items()}


class Mapping(Protocol):
    """The cluster's users, and the one mapping between numbers and SIDs (`gateways.identity.Identities`)."""

    def sid_of_uid(self, uid: int) -> str: ...

    def sid_of_gid(self, gid: int) -> str: ...

    def uid_of_sid(self, sid: str) -> int | None: ...

    def gid_of_sid(self, sid: str) -> int | None: ...

    def uid_of_name(self, name: str) -> int | None: ...


class Owners:
    """The strings for one cluster's users and groups."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping

    @staticmethod
    @lru_cache(4096)
    def text(number: int) -> bytes:
        """A uid or gid as a utf8string, packed."""
        return opaque(b"%d" % number)

    def uid(self, who: bytes) -> int:
        """The uid that a client means. Raises `Failure`."""
        number = _digits(who)
        if number is not None:
            return number
        name, at, _ = _decoded(who).rpartition("@")
        if at and name == "nobody":
            return NOBODY
        uid = self._mapping.uid_of_name(name) if at else None
        if uid is None:
            raise Failure(Status.BADOWNER)
        return uid

    def gid(self, who: bytes) -> int:
        """The gid that a client means. Raises `Failure`. Groups have no names here, but for those that mean nobody."""
        number = _digits(who)
        if number is not None:
            return number
        name, at, _ = _decoded(who).rpartition("@")
        if at and name in ("nobody", "nogroup"):
            return NOBODY
        raise Failure(Status.BADOWNER)

    def sid(self, who: bytes, group: bool) -> bytes:
        """The SID of the user or group in an ACE, other than the file's own `OWNER@` and `GROUP@`. Raises `Failure`."""
        special = _SID_OF.get(who)
        if special is not None:
            return special
        if who.startswith(b"S-1-"):
            return sid_bytes(_decoded(who))
        known = self._mapping
        return sid_bytes(known.sid_of_gid(self.gid(who)) if group else known.sid_of_uid(self.uid(who)))

    def who(self, sid: bytes) -> tuple[bytes, bool]:
        """How an ACE names a SID, and whether it is a group's. One that stands for no number here is given as it is written."""
        special = _WHO_OF.get(sid)
        if special is not None:
            return special, False
        text = sid_text(sid)
        uid = self._mapping.uid_of_sid(text)
        if uid is not None:
            return b"%d" % uid, False
        gid = self._mapping.gid_of_sid(text)
        if gid is not None:
            return b"%d" % gid, True
        return text.encode(), False


def _digits(who: bytes) -> int | None:
    if who.isdigit() and len(who) <= 10 and (who == b"0" or who[:1] != b"0"):
        number = int(who)
        if number < 1 << 32:
            return number
    return None


def _decoded(who: bytes) -> str:
    try:
        return who.decode()
    except UnicodeDecodeError:
        raise Failure(Status.INVAL) from None
