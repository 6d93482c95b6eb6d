"""Extent records: encoding, and that what is cut off is damage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofs.errors import Damaged
from sofs.pool import ExtentId, Fragment, Placement
from sofs.types import DiskId, VolumeId
from sofs.volume.extents import WINDOW_LIMIT, decode_extent, decode_freed, encode_extent

VOLUME = VolumeId(3)
PLACEMENTS = st.builds(
    Placement,
    st.integers(1, (1 << 39) - 1).map(lambda number: ExtentId(VOLUME, number)),
    st.integers(1, 2048).map(lambda pages: pages * 4096),
    st.sampled_from(["simple", "mirror(2)", "mirror(3)", "parity(4,2)"]),
    st.lists(st.builds(Fragment, st.integers(1, (1 << 63) - 1).map(DiskId), st.integers(0, 1 << 40)), max_size=6).map(tuple),
)
WINDOWS = st.lists(st.integers(0, (1 << 46) - 1), max_size=WINDOW_LIMIT)


@given(PLACEMENTS, WINDOWS)
def test_an_extents_record_comes_back_as_it_was(placement: Placement, windows: list[int]) -> None:
    value = encode_extent(placement, windows)
    assert decode_extent(VOLUME, placement.id.number, value) == (placement, tuple(windows))
    assert len(value) < 3 << 10
    assert decode_freed(VOLUME, placement.id.number, (77).to_bytes(8, "little") + value) == (77, placement)


def test_a_record_that_ends_behind_its_head_is_damage() -> None:
    value = encode_extent(Placement(ExtentId(VOLUME, 1), 4096, "simple", ()), [])
    with pytest.raises(Damaged):
        decode_extent(VOLUME, 1, value[:8])


@given(PLACEMENTS, WINDOWS, st.data())
def test_a_record_that_is_cut_off_or_too_long_is_damage(placement: Placement, windows: list[int], data: st.DataObject) -> None:
    value = encode_extent(placement, windows)
    cut = data.draw(st.integers(0, len(value) - 1))
    for wrong in (value[:cut], value + b"x"):
        with pytest.raises(Damaged):
            decode_extent(VOLUME, placement.id.number, wrong)
    with pytest.raises(Damaged):
        decode_freed(VOLUME, 1, value[:3])
