"""Where virtual addresses belong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sofs.cluster.vips import Vip, place

A, B, C, D = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"


def test_addresses_are_spread_over_the_nodes() -> None:
    plan = place([Vip(A), Vip(B), Vip(C), Vip(D)], {1, 2}, {}, {})
    assert sorted(plan.values()) == [1, 1, 2, 2]


def test_without_a_node_nothing_is_placed() -> None:
    assert place([Vip(A)], set(), {A: 1}, {}) == {}


def test_a_held_address_stays() -> None:
    assert place([Vip(A), Vip(B)], {1, 2, 3}, {A: 3, B: 2}, {}) == {A: 3, B: 2}


def test_the_addresses_of_a_lost_node_go_to_those_that_have_the_fewest() -> None:
    assert place([Vip(A), Vip(B), Vip(C)], {2, 3}, {A: 1, B: 2, C: 2}, {}) == {A: 3, B: 2, C: 2}


def test_an_address_with_a_group_goes_home_when_the_member_is_back() -> None:
    vips = [Vip(A, group=1), Vip(B, group=2), Vip(C, group=3)]
    assert place(vips, {2, 3}, {A: 1, B: 2, C: 3}, {}) == {A: 2, B: 2, C: 3}
    assert place(vips, {1, 2, 3}, {A: 2, B: 2, C: 3}, {}) == {A: 1, B: 2, C: 3}


def test_an_address_tied_to_a_volume_follows_its_coordinator() -> None:
    vips = [Vip(A, volume=9), Vip(B)]
    assert place(vips, {1, 2}, {A: 1, B: 1}, {9: 2}) == {A: 2, B: 1}
    assert place(vips, {1}, {A: 2, B: 1}, {9: 2})[A] == 1, "nowhere better while the coordinator takes none on"


def test_two_addresses_more_than_another_node_has_are_one_too_many() -> None:
    assert sorted(place([Vip(A), Vip(B)], {1, 2}, {A: 1, B: 1}, {}).values()) == [1, 2]
    assert place([Vip(A), Vip(B), Vip(C)], {1, 2}, {A: 1, B: 1, C: 2}, {}) == {A: 1, B: 1, C: 2}


def test_a_node_that_may_not_claim_yet_gets_only_its_own_and_that_if_nobody_has_it() -> None:
    vips = [Vip(A, group=1), Vip(B, group=2), Vip(C, group=3)]
    assert place(vips, {1, 2, 3}, {A: 2, C: 3}, {}, bound={1}) == {A: 2, B: 2, C: 3}
    assert place(vips, {1, 3}, {A: 3, C: 3}, {}, bound={1}) == {A: 3, B: 3, C: 3}
    assert place(vips, {1, 2, 3}, {}, {}, bound={1, 2}) == {A: 1, B: 2, C: 3}
    assert place(vips, {1, 2}, {}, {}, bound={1, 2}) == place(vips, {1, 2}, {}, {})


nodes = st.integers(1, 5)
addresses = st.integers(1, 12).map(lambda number: f"10.0.0.{number}")


@given(
    vips=st.lists(st.builds(Vip, addresses, st.integers(0, 5)), unique_by=lambda vip: vip.address),
    candidates=st.sets(nodes, min_size=1),
    holders=st.dictionaries(addresses, nodes),
)
def test_every_address_has_a_place_the_load_is_even_and_the_plan_is_stable(vips: list[Vip], candidates: set[int], holders: dict[str, int]) -> None:
    plan = place(vips, candidates, holders, {})
    assert set(plan) == {vip.address for vip in vips} and set(plan.values()) <= candidates
    loads = [list(plan.values()).count(node) for node in candidates]
    assert max(loads) - min(loads) <= 1
    assert place(vips[::-1], candidates, plan, {}) == plan, "once carried out, nothing is left to be done"
