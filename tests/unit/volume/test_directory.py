"""Directory entries: one index by name and cookie, with collisions, variants and vacancies."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofs.errors import NoSpace
from sofs.types import Inode
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.directory import find, look, put, remove, slots
from sofs.volume.keyspace import KeySpace
from tests.volatile import volatile_keyspace

INDEX = keys.bucket(keys.ENTRY, Inode(9))


def first(name: bytes) -> int:
    """A poor hash, so that names collide."""
    return (1 + len(name) % 2) << 15


def add(keyspace: KeySpace, name: bytes, inode: int) -> None:
    _, place = look(keyspace.get, INDEX, first(name), name, False)
    batch = Batch()
    put(batch, place, Inode(inode), 1, name)
    keyspace.commit(batch)


def take(keyspace: KeySpace, name: bytes) -> None:
    slot = find(keyspace.get, INDEX, first(name), name, False)
    assert slot is not None
    batch = Batch()
    remove(batch, keyspace.get, slot)
    keyspace.commit(batch)


def test_names_that_differ_in_case_only_are_bounded() -> None:
    keyspace, probes = volatile_keyspace({}), 0
    names = [bytes(65 + 32 * (number >> bit & 1) + bit for bit in range(12)) for number in range(1 << 12)]
    with pytest.raises(NoSpace):
        for inode, name in enumerate(names, 1):
            add(keyspace, name, inode)

    def get(key: bytes) -> bytes | None:
        nonlocal probes
        probes += 1
        return keyspace.get(key)

    assert find(get, INDEX, first(names[-1]), names[-1], True) is not None
    assert probes < 2000
    take(keyspace, names[7])
    add(keyspace, names[-1], 9)


def test_an_exact_name_goes_before_one_in_another_case() -> None:
    keyspace = volatile_keyspace({})
    for inode, name in enumerate((b"name", b"NAME", b"Name"), 1):
        add(keyspace, name, inode)
    found = find(keyspace.get, INDEX, first(b"NAME"), b"NAME", True)
    assert found is not None and found.inode == 2
    lowest = find(keyspace.get, INDEX, first(b"nAME"), b"nAME", True)
    assert lowest is not None and lowest.inode == 1
    assert find(keyspace.get, INDEX, first(b"nAME"), b"nAME", False) is None


def test_an_entry_keeps_its_place_while_others_go() -> None:
    keyspace = volatile_keyspace({})
    for inode, name in enumerate((b"a", b"b", b"c"), 1):
        add(keyspace, name, inode)
    before = {slot.name: slot.cookie for slot in slots(keyspace, INDEX)}
    take(keyspace, b"a")
    take(keyspace, b"b")
    after = {slot.name: slot.cookie for slot in slots(keyspace, INDEX)}
    assert after == {b"c": before[b"c"]}
    add(keyspace, b"d", 4)
    assert {slot.cookie for slot in slots(keyspace, INDEX)} == {before[b"a"], before[b"c"]}


def test_nothing_is_left_when_the_last_one_goes() -> None:
    keyspace = volatile_keyspace({})
    for inode, name in enumerate((b"a", b"b", b"c"), 1):
        add(keyspace, name, inode)
    for name in (b"b", b"a", b"c"):
        take(keyspace, name)
    assert list(keyspace.scan(INDEX)) == []


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([b"a", b"A", b"b", b"cc", b"CC", b"dd", b"e"])), max_size=60))
def test_any_sequence_keeps_numbers_without_gaps(steps: list[tuple[bool, bytes]]) -> None:
    keyspace = volatile_keyspace({})
    model: dict[bytes, int] = {}
    for number, (adding, name) in enumerate(steps, 1):
        if adding and name not in model:
            add(keyspace, name, number)
            model[name] = number
        elif not adding and name in model:
            take(keyspace, name)
            del model[name]
        assert {slot.name: slot.inode for slot in slots(keyspace, INDEX)} == model
        for hash_ in (1, 2):
            cookies = [int.from_bytes(key[9:]) for key, _ in keyspace.scan(INDEX)]
            numbers = [cookie & 0x7FFF for cookie in cookies if cookie >> 15 == hash_]
            assert numbers == list(range(len(numbers)))
    for name, inode in model.items():
        found = find(keyspace.get, INDEX, first(name), name, True)
        assert found is not None and found.inode == inode


def test_slots_resume_behind_any_cookie() -> None:
    keyspace = volatile_keyspace({})
    chance = random.Random(3)
    batch = Batch()
    for number in range(500):
        put(batch, INDEX + chance.getrandbits(63).to_bytes(8), Inode(number + 2), 1, b"%d" % number)
    keyspace.commit(batch)
    everything = list(slots(keyspace, INDEX))
    for at in (0, 1, 250, 499):
        assert list(slots(keyspace, INDEX, everything[at].cookie)) == everything[at + 1 :]
