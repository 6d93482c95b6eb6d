"""Windows of page names, against plain dictionaries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofs.errors import Damaged
from sofs.types import PAGE
from sofs.volume import windows
from sofs.volume.windows import Place

# Names in a window: pages at multiples of the page from a few odd starts, never overlapping, as records in a log leave them.
GRID = st.lists(st.integers(0, 63), unique=True, max_size=64).map(lambda slots: [slot * PAGE + 40 for slot in sorted(slots)])


def by_page(value: bytes) -> dict[int, tuple[int, int]]:
    return {place.offset + PAGE * k: (place.extent, place.at + k) for place in windows.places(value) for k in range(place.pages)}


@given(GRID, st.data())
def test_places_find_and_remove_like_a_dictionary(names: list[int], data: st.DataObject) -> None:
    model = {name: (data.draw(st.integers(1, 3)), data.draw(st.integers(0, 4))) for name in names}
    value = windows.encode_places(Place(name, 1, at, extent) for name, (extent, at) in model.items())
    assert by_page(value) == model
    for name in range(40, 64 * PAGE, PAGE):
        found = windows.find(value, name)
        if name in model:
            assert found is not None
            assert found[:2] == model[name]
            assert found[2] >= 1
        else:
            assert found is None
    while model:
        start = data.draw(st.sampled_from(sorted(model)))
        pages = 1
        while start + pages * PAGE in model and data.draw(st.booleans()):
            pages += 1
        taken = [model.pop(start + k * PAGE)[0] for k in range(pages)]
        value, gone = windows.remove(value, start, pages)
        assert by_page(value) == model
        assert {extent: taken.count(extent) for extent in taken} == {extent: sum(n for e, n in gone if e == extent) for extent, _ in gone}
    assert value == b""


def test_neighbouring_places_become_one_run() -> None:
    value = windows.merge(None, [Place(PAGE, 1, 8, 7), Place(0, 1, 7, 7), Place(2 * PAGE, 2, 9, 7)])
    assert windows.places(value) == [Place(0, 4, 7, 7)]
    value, gone = windows.remove(value, PAGE, 2)
    assert gone == [(7, 2)]
    assert windows.places(value) == [Place(0, 1, 7, 7), Place(3 * PAGE, 1, 10, 7)]


def test_removing_a_name_without_a_place_is_our_bug() -> None:
    value = windows.encode_places([Place(PAGE, 1, 0, 1)])
    with pytest.raises(AssertionError):
        windows.remove(value, 0, 1)
    with pytest.raises(AssertionError):
        windows.remove(value, PAGE, 2)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 63), st.integers(1, 64)), max_size=12))
def test_references_count_like_a_dictionary(steps: list[tuple[bool, int, int]]) -> None:
    value = b""
    model: dict[int, int] = {}
    for more, first, pages in steps:
        pages = min(pages, 64 - first)
        names = [(first + k) * PAGE for k in range(pages)]
        if more:
            value = windows.share(value, names[0], pages)
            for name in names:
                model[name] = model.get(name, 1) + 1
        else:
            value, gone = windows.release(value, names[0], pages)
            lost = [name for name in names if model.get(name, 1) == 1]
            for name in names:
                left = model.pop(name, 1) - 1
                if left:
                    model[name] = left
            assert [start + k * PAGE for start, n in gone for k in range(n)] == lost
        listed = {o + k * PAGE: c for o, n, c in windows.references(value) for k in range(n)}
        assert listed == model


@given(st.integers(0, 1 << 40), st.integers(1, 3000))
def test_pieces_cut_a_run_of_names_at_window_bounds(address: int, pages: int) -> None:
    names = [(window << 18) + offset + k * PAGE for window, offset, count in windows.pieces(address, pages) for k in range(count)]
    assert names == [address + k * PAGE for k in range(pages)]
    for window, offset, count in windows.pieces(address, pages):
        assert 0 <= offset < windows.WINDOW
        assert offset + (count - 1) * PAGE < windows.WINDOW
        assert window >= 0


def test_a_record_that_is_cut_off_is_damage() -> None:
    value = windows.encode_places([Place(0, 1, 0, 1), Place(9000, 2, 7, 3)])
    listed = windows.share(windows.share(windows.share(None, 0, 1), 8192, 1), 8192, 1)
    for length in range(len(value)):
        if length % 16:
            with pytest.raises(Damaged):
                windows.places(value[:length])
    for length in range(len(listed)):
        if length % 10:
            with pytest.raises(Damaged):
                windows.references(listed[:length])
