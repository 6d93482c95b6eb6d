"""The table of keys: distinct, reversible, and safe for any name."""

import pytest

from sofs.coordination import keys


@pytest.mark.parametrize("make", [keys.pool, keys.vip, keys.secret, keys.counter, keys.share, keys.user])
def test_any_name_makes_one_ascii_path_component_and_is_found_again(make: object) -> None:
    assert callable(make)
    for name in ("home", "a/b", "..", "mit leerzeichen", "größe", "100%", "fe80::1"):
        key = make(name)
        assert key.isascii() and key.count("/") == 1
        assert keys.name_of(key) == name


def test_names_that_windows_does_not_tell_apart_share_a_key() -> None:
    assert keys.share("Home") == keys.share("hOME") and keys.user("Eva") == keys.user("EVA")


@pytest.mark.parametrize("make", [keys.node, keys.disk, keys.volume, keys.configuration])
def test_ids_are_found_again_and_sort_by_their_number(make: object) -> None:
    assert callable(make)
    ids = [1, 9, 10, 255, 1 << 62]
    assert [keys.id_of(make(id)) for id in ids] == ids
    assert sorted(make(id) for id in ids) == [make(id) for id in ids]


def test_a_volume_and_its_configuration_are_told_apart() -> None:
    assert keys.configuration(7) == keys.volume(7) + keys.CONFIGURATION
    prefixes = [keys.NODES, keys.DISKS, keys.POOLS, keys.VOLUMES, keys.SHARES, keys.USERS, keys.VIPS, keys.SECRETS, keys.COUNTERS]
    assert all(not one.startswith(other) for one in prefixes for other in prefixes if one != other)
