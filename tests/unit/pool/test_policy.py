"""The language of policies, and what they choose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofs.errors import InvalidArgument, NoSpace, NotSupported
from sofs.pool.policy import Candidate, Policy, parse_policy
from sofs.pool.scheme import SIMPLE, mirror, scheme_from_code
from sofs.runtime.simulated_loop import SimulatedRandom
from sofs.types import DiskId

MIB = 1 << 20


def disk(number: int, host: str = "h", tier: str = "ssd", free: int = 100 * MIB, trusted: bool = True) -> Candidate:
    return Candidate(DiskId(number), host, tier, free, trusted)


@pytest.mark.parametrize(
    ("text", "free", "usable"),
    [
        ("simple", (100, 10), 110),
        ("mirror(2)", (100, 10), 10),
        ("mirror(2)", (50, 50, 10), 55),
        ("mirror(2)", (100, 10, 10), 20),
        ("mirror(3)", (100, 50, 10), 10),
        ("mirror(3)", (100, 50, 30, 20), 50),
        ("mirror(2)", (100,), 100),
        ("mirror(3)", (100, 10), 10),
        ("mirror(2)", (), 0),
        ("simple on hdd", (100,), 0),
        ("mirror(2) across host", (30, 40), 70),
    ],
)
def test_what_can_be_used_depends_on_how_the_free_space_is_spread(text: str, free: tuple[int, ...], usable: int) -> None:
    assert parse_policy(text).usable([disk(number, free=room) for number, room in enumerate(free)]) == usable


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("simple", Policy(SIMPLE)),
        ("  mirror(2) ", Policy(mirror(2))),
        ("mirror(3)  across host on hdd", Policy(mirror(3), "host", "hdd")),
        ("mirror(2) across disk", Policy(mirror(2))),
        ("simple on ssd", Policy(SIMPLE, "disk", "ssd")),
    ],
)
def test_a_policy_is_read_from_its_text_and_written_back(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy
    assert parse_policy(policy.text) == policy


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "write for example"),
        ("raid5", "write simple, mirror"),
        ("mirror(4)", "2 or 3 copies"),
        ("mirror", "write simple, mirror"),
        ("mirror(2) across rack", "disk or host"),
        ("mirror(2) on tape", "ssd and hdd"),
        ("mirror(2) mirror(2)", "write for example"),
        ("parity(1,9)", "k from 2 to 16"),
    ],
)
def test_a_wrong_policy_is_refused_with_what_is_offered(text: str, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=hint.replace("(", r"\(").replace(")", r"\)")):
        parse_policy(text)


def test_parity_is_understood_but_not_offered_yet() -> None:
    with pytest.raises(NotSupported, match=r"simple, mirror\(2\) and mirror\(3\) are"):
        parse_policy("parity(4, 2) across host on hdd")


def test_stored_numbers_name_a_scheme_or_nothing() -> None:
    known = [scheme_from_code(*code) for code in [(1, 1, 0), (1, 1, 1), (1, 1, 2), (2, 4, 2)]]
    assert [scheme.text for scheme in known if scheme] == ["simple", "mirror(2)", "mirror(3)", "parity(4,2)"]
    assert {scheme_from_code(*code) for code in [(0, 0, 0), (1, 2, 1), (1, 1, 3), (2, 1, 1), (2, 4, 0), (3, 1, 1)]} == {None}


def test_copies_lie_on_distinct_disks_and_on_distinct_hosts_where_there_are_enough() -> None:
    disks = [disk(1, "a"), disk(2, "a"), disk(3, "a"), disk(4, "b")]
    random = SimulatedRandom(1)
    for _ in range(100):
        first, second = parse_policy("mirror(2)").select(disks, MIB, random.number)
        assert (first == 4) != (second == 4)
        third = parse_policy("mirror(3)").select(disks, MIB, random.number)
        assert len(set(third)) == 3 and 4 in third


def test_full_disks_are_avoided_and_are_no_reason_to_write_fewer_copies() -> None:
    disks = [disk(1), disk(2), disk(3, free=MIB // 2)]
    assert set(parse_policy("mirror(2)").select(disks, MIB, SimulatedRandom(1).number)) == {1, 2}
    with pytest.raises(NoSpace, match=r"mirror\(3\).*full.*add a disk"):
        parse_policy("mirror(3)").select(disks, MIB, SimulatedRandom(1).number)


def test_disks_out_of_service_make_an_extent_degraded() -> None:
    assert parse_policy("mirror(2)").select([disk(7)], MIB, SimulatedRandom(1).number) == (7,)
    across = parse_policy("mirror(2) across host").select([disk(7), disk(8)], MIB, SimulatedRandom(1).number)
    assert len(across) == 1


def test_no_disk_of_the_tier_is_no_space_and_says_so() -> None:
    with pytest.raises(NoSpace, match="hdd disks can be written now"):
        parse_policy("simple on hdd").select([disk(1)], MIB, SimulatedRandom(1).number)


def test_suspect_disks_are_taken_only_when_the_trusted_do_not_suffice() -> None:
    disks = [disk(1), disk(2, trusted=False, free=10_000 * MIB), disk(3)]
    random = SimulatedRandom(1)
    assert all(set(parse_policy("mirror(2)").select(disks, MIB, random.number)) == {1, 3} for _ in range(50))
    assert set(parse_policy("mirror(3)").select(disks, MIB, random.number)) == {1, 2, 3}


def test_a_policy_that_the_disks_can_never_satisfy_is_refused() -> None:
    disks = [disk(1, "a"), disk(2, "a"), disk(3, "b", "hdd")]
    parse_policy("mirror(3)").validate(disks)
    parse_policy("mirror(2) across host").validate(disks)
    with pytest.raises(InvalidArgument, match="needs 2 hosts of tier ssd, there are 1"):
        parse_policy("mirror(2) across host on ssd").validate(disks)
    with pytest.raises(InvalidArgument, match="needs 3 hosts, there are 2"):
        parse_policy("mirror(3) across host").validate(disks)


def test_disks_fill_in_proportion_to_their_free_space() -> None:
    disks = [disk(1, free=300 * MIB), disk(2, free=100 * MIB)]
    random = SimulatedRandom(1)
    chosen = [parse_policy("simple").select(disks, MIB, random.number)[0] for _ in range(4000)]
    assert 2800 < chosen.count(DiskId(1)) < 3200


candidates = st.lists(
    st.builds(disk, st.integers(0, 9), st.sampled_from("abc"), st.sampled_from(["ssd", "hdd"]), st.sampled_from([0, MIB, 9 * MIB]), st.booleans()),
    max_size=8,
    unique_by=lambda each: each.disk,
)  # fmt: skip
policies = st.builds(
    Policy, st.sampled_from([SIMPLE, mirror(2), mirror(3)]), st.sampled_from(["disk", "host"]), st.sampled_from([None, "ssd", "hdd"])
)  # fmt: skip


@given(candidates, policies, st.integers(0, 1000))
def test_whatever_is_chosen_fits_the_policy(disks: list[Candidate], policy: Policy, seed: int) -> None:
    allowed = {each.disk: each for each in disks if policy.allows(each)}
    domains = {each.host if policy.domain == "host" else each.disk for each in allowed.values()}
    try:
        chosen = policy.select(disks, MIB, SimulatedRandom(seed).number)
    except NoSpace:
        assert not allowed or min(each.free for each in allowed.values()) < MIB
        return
    assert len(chosen) == min(policy.scheme.width, len(domains))
    assert len({allowed[id].host if policy.domain == "host" else id for id in chosen}) == len(chosen)
    assert all(allowed[id].free >= MIB for id in chosen)
