"""Users and the mapping between SIDs and numbers."""

import pytest

from gateways.identity import ADMINISTRATORS, Identities, User, domain_sid
from sofs.errors import ConfigError

DOMAIN = domain_sid(bytes(range(12)))
ALICE = User.new("alice", "secret", 1000, 1000, (2000, 1000))


def test_a_domain_has_a_sid_of_its_own() -> None:
    assert DOMAIN == "S-1-5-21-50462976-117835012-185207048"


def test_known_numbers_have_sids_of_the_domain_and_others_unix_ones() -> None:
    known = Identities(DOMAIN, [ALICE, User("foreign", 7, 7, sid="S-1-5-21-1-2-3-1104")])
    assert known.sid_of_uid(1000) == f"{DOMAIN}-3000"
    assert known.sid_of_gid(2000) == f"{DOMAIN}-5001"
    assert known.sid_of_uid(5) == "S-1-22-1-5"
    assert known.sid_of_gid(5) == "S-1-22-2-5"
    assert known.sid_of_uid(7) == "S-1-5-21-1-2-3-1104"
    for uid in (1000, 5, 7, 0):
        assert known.uid_of_sid(known.sid_of_uid(uid)) == uid
        assert known.gid_of_sid(known.sid_of_uid(uid)) is None
    for gid in (1000, 2000, 5, 0):
        assert known.gid_of_sid(known.sid_of_gid(gid)) == gid
    assert known.uid_of_sid("S-1-22-1-1000") == 1000, "the Unix form always leads back too"
    for strange in ("S-1-1-0", "S-1-22-1-99999999999", "S-1-22-1-x", f"{DOMAIN}-500", "", "S-1-5-21-9-9-9-3000"):
        assert known.uid_of_sid(strange) is None


def test_users_are_found_in_any_case_and_replaced_live() -> None:
    known = Identities(DOMAIN, [ALICE])
    assert known.named("ALICE") is ALICE
    assert known.groups_of(1000) == (1000, 2000)
    caller = known.caller(ALICE)
    assert (caller.uid, caller.gid, caller.sids[0], caller.privileged) == (1000, 1000, f"{DOMAIN}-3000", False)
    known.replace([User("root", 0, 0)])
    assert known.named("alice") is None and known.groups_of(1000) is None
    root = known.named("root")
    assert root is not None
    assert known.caller(root).privileged and ADMINISTRATORS in known.caller(root).sids


def test_records_survive_the_store_and_wrong_ones_are_named() -> None:
    assert User.decode(ALICE.encode()) == ALICE
    assert ALICE.nt_hash == "878d8014606cda29677a44efa1353fc7"
    wrong_name, no_name = b'{"name":"a/b","uid":1,"gid":1}', b'{"name":"\xff","uid":1,"gid":1}'
    for wrong in (b"{}", b"nothing", wrong_name, no_name, b'{"name":"a","uid":-1,"gid":1}', b'{"name":"a","uid":1,"gid":1,"nt_hash":"x"}'):
        with pytest.raises(ConfigError):
            User.decode(wrong)
