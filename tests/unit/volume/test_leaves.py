"""Leaf values: patching and grouping."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from sofs.volume import leaves
from sofs.volume.keys import HOLE, LEAF_PAGES, RESERVED

PAGES = st.lists(
    st.one_of(st.just(HOLE), st.just(RESERVED), st.integers(2, 1 << 63), st.sampled_from([4096, 8192, 12288])), min_size=1, max_size=LEAF_PAGES
)


@given(st.lists(st.tuples(st.integers(0, 63), PAGES), max_size=6))
def test_patching_changes_exactly_the_pages_named(changes: list[tuple[int, list[int]]]) -> None:
    leaf = leaves.EMPTY
    model, sums = [0] * LEAF_PAGES, [0] * LEAF_PAGES
    for first, pages in changes:
        pages = pages[: LEAF_PAGES - first]
        checks = [page & 0xFFFFFFFF for page in pages]
        model[first : first + len(pages)] = pages
        sums[first : first + len(pages)] = checks
        leaf = leaves.patch(leaf, first, len(pages), struct.pack(f"<{len(pages)}Q", *pages), struct.pack(f"<{len(pages)}I", *checks))
        assert len(leaf) == leaves.SIZE
    assert list(leaves.addresses(leaf, 0, LEAF_PAGES)) == model
    assert list(leaves.sums(leaf, 0, LEAF_PAGES)) == sums
    assert leaves.used(leaf) == LEAF_PAGES - model.count(HOLE)


@given(PAGES)
def test_runs_cover_the_pages_in_order_and_follow_names(pages: list[int]) -> None:
    covered: list[int] = []
    for index, address, count in leaves.runs(tuple(pages)):
        assert index == len(covered)
        step = 4096 if address >= leaves.PLACED else 0
        covered += [address + step * k for k in range(count)]
    assert covered == pages


def test_a_run_does_not_mix_holes_and_reserved_pages() -> None:
    assert leaves.runs((HOLE, HOLE, RESERVED, 4096, 8192, 4096)) == [(0, HOLE, 2), (2, RESERVED, 1), (3, 4096, 2), (5, 4096, 1)]


@given(st.integers(2, 1 << 62), st.integers(0, LEAF_PAGES - 1), st.sampled_from([None, HOLE, RESERVED, 1]))
def test_a_leaf_is_whole_if_all_its_pages_follow_one_another(address: int, slot: int, other: int | None) -> None:
    names = [address + 4096 * page for page in range(LEAF_PAGES)]
    checks = list(range(LEAF_PAGES))
    if other is not None:
        names[slot] = names[slot] + 1 if other == 1 else other
    leaf = struct.pack(f"<{LEAF_PAGES}Q{LEAF_PAGES}I", *names, *checks)
    assert leaves.whole(leaf) == ((address, tuple(checks)) if other is None else None)
    assert leaves.whole(leaves.EMPTY) is None
