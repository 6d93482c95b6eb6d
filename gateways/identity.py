"""Users, and the one mapping between Windows' SIDs and Unix's numbers.

A `User` is what the coordination store keeps under `users/<name>`. `Identities` is the set known now; the node replaces it whenever the
store says so. A number that belongs to a user has a SID in the cluster's own domain, by Samba's rule (2 n + 1000 for users, 2 n + 1001 for
groups), unless the user's record names another; every other number is S-1-22-1-uid or S-1-22-2-gid. Both forms lead back to the number.

Passwords are kept only as NT hashes, which NTLM needs; who reads one can log on with it, so the store's access must be guarded.
"""

from collections.abc import Iterable
from typing import Self

from sofs.encoding import Record
from sofs.errors import ConfigError
from sofs.volume.api import Caller

MAX_UID = (1 << 31) - 1_000
_BAD = set('"/\\[]:;|=,+*?<>@')

EVERYONE, NETWORK, AUTHENTICATED, ANONYMOUS = "S-1-1-0", "S-1-5-2", "S-1-5-11", "S-1-5-7"
ADMINISTRATORS, GUESTS = "S-1-5-32-544", "S-1-5-32-546"


class User(Record, frozen=True):
    """One person or machine that can log on."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Further groups."""
    nt_hash: str = ""
    """MD4 of the password in UTF-16, in hexadecimal; empty: cannot log on by password."""
    sid: str = ""
    """Only for accounts of another domain."""

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= 104 or _BAD & set(self.name) or any(ord(char) < 32 for char in self.name):
            raise ConfigError(f"user {self.name!r}: 1 to 104 characters, none of {' '.join(sorted(_BAD))}")
        for number in (self.uid, self.gid, *self.groups):
            if not 0 <= number < MAX_UID:
                raise ConfigError(f"user {self.name}: id {number} is not between 0 and {MAX_UID - 1}")
        if self.nt_hash and (len(self.nt_hash) != 32 or set(self.nt_hash) - set("0123456789abcdef")):
            raise ConfigError(f"user {self.name}: the NT hash must be 32 hexadecimal digits in lower case")

    @classmethod
    def new(cls, name: str, password: str, uid: int, gid: int, groups: tuple[int, ...] = ()) -> Self:
        """A user with this password."""
        from impacket.ntlm import compute_nthash

        return cls(name, uid, gid, groups, compute_nthash(password).hex())


class Identities:
    """The users known now. `domain` is the cluster's SID, S-1-5-21 and three numbers (`domain_sid`)."""

    def __init__(self, domain: str, users: Iterable[User] = ()) -> None:
        assert domain.startswith("S-1-5-21-"), domain
        self.domain = domain
        self.replace(users)

    def replace(self, users: Iterable[User]) -> None:
        """From now on these, and only these, are known. What that means for sessions is the gateways' business."""
        self._named = {user.name.casefold(): user for user in users}
        self._by_uid: dict[int, User] = {}
        self._by_sid: dict[str, User] = {}
        self._gids: set[int] = set()
        for user in sorted(self._named.values(), key=lambda user: user.name):
            self._by_uid.setdefault(user.uid, user)
            self._gids.update((user.gid, *user.groups))
            if user.sid:
                self._by_sid[user.sid] = user

    def all(self) -> list[User]:
        """In the order of their names."""
        return [self._named[name] for name in sorted(self._named)]

    def named(self, name: str) -> User | None:
        """The user of that name, in any case."""
        return self._named.get(name.casefold())

    def groups_of(self, uid: int) -> tuple[int, ...] | None:
        """All groups of a user, the primary one first (AUTH_SYS carries only 16); None for a uid that is not known."""
        user = self._by_uid.get(uid)
        return None if user is None else (user.gid, *(gid for gid in user.groups if gid != user.gid))

    def caller(self, user: User) -> Caller:
        """On whose behalf `user`'s requests run."""
        sid = user.sid or self.sid_of_uid(user.uid)
        gids = (user.gid, *(gid for gid in user.groups if gid != user.gid))
        sids = [sid, *map(self.sid_of_gid, gids), EVERYONE, NETWORK, AUTHENTICATED]
        if user.uid == 0:
            sids.append(ADMINISTRATORS)
        return Caller(user.uid, user.gid, user.groups, tuple(sids), privileged=user.uid == 0)

    # The mapping, as a volume asks for it (sofs.volume.security.Identities), and NFSv4 (gateways.nfs.v4.owners.Mapping)

    def sid_of_uid(self, uid: int) -> str:
        user = self._by_uid.get(uid)
        if user is None:
            return f"S-1-22-1-{uid}"
        return user.sid or f"{self.domain}-{2 * uid + 1000}"

    def sid_of_gid(self, gid: int) -> str:
        return f"{self.domain}-{2 * gid + 1001}" if gid in self._gids else f"S-1-22-2-{gid}"

    def uid_of_name(self, name: str) -> int | None:
        user = self.named(name)
        return None if user is None else user.uid

    def uid_of_sid(self, sid: str) -> int | None:
        user = self._by_sid.get(sid)
        if user is not None:
            return user.uid
        number = _last(sid, "S-1-22-1")
        if number is None and (rid := _last(sid, self.domain)) is not None and rid >= 1000 and rid % 2 == 0:
            number = (rid - 1000) // 2
        return number

    def gid_of_sid(self, sid: str) -> int | None:
        number = _last(sid, "S-1-22-2")
        if number is None and (rid := _last(sid, self.domain)) is not None and rid >= 1001 and rid % 2 == 1:
            number = (rid - 1001) // 2
        return number


def _last(sid: str, prefix: str) -> int | None:
    head, _, number = sid.rpartition("-")
    return int(number) if head == prefix and number.isdecimal() and len(number) <= 10 and int(number) < 1 << 32 else None


def domain_sid(seed: bytes) -> str:
    """The SID of the cluster's own domain, from 12 or more bytes that never change."""
    numbers = [int.from_bytes(seed[at : at + 4], "little") for at in (0, 4, 8)]
    return "S-1-5-21-" + "-".join(map(str, numbers))
