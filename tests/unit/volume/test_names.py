"""Names: the upcase table is what it always was, WTF-8 survives, what cannot be a name is refused."""

import struct

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from sofs.errors import InvalidName, NameTooLong
from sofs.volume.names import UPCASE, UPCASE_CRC32C, UPCASE_ID, NameHash, check, check_stream, upcase

GOLDEN = 0x60E3CC0CBA290000
"""The cookie of "some name" under the secret below."""

TABLE = [UPCASE.get(unit, unit) for unit in range(65_536)]


def test_the_upcase_table_is_the_one_that_its_id_names() -> None:
    assert UPCASE_ID == b"unicode-14.0-simple-1"
    assert crc32c(struct.pack("<65536H", *TABLE)) == UPCASE_CRC32C == 0x5C607FDA
    assert len(UPCASE) == 1187


def test_upcasing_twice_changes_nothing_more() -> None:
    assert all(TABLE[TABLE[unit]] == TABLE[unit] for unit in range(65_536))


def test_no_letter_becomes_an_ascii_one_unless_it_is_one() -> None:
    assert all(unit < 128 for unit in range(65_536) if TABLE[unit] < 128)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("readme.txt", "README.TXT"),
        ("straße", "STRAßE"),  # one unit to one unit: no SS
        ("ñandú", "ÑANDÚ"),
        ("ÿ", "Ÿ"),
        ("ıi", "ıI"),  # the dotless i stays itself
        ("µ", "µ"),
        ("ς", "Σ"),
        ("ǆǅ", "ǄǄ"),
        ("жук", "ЖУК"),
        ("ᾳ", "ᾼ"),
        ("ﬁ", "ﬁ"),
        ("𐐨", "𐐨"),  # beyond the basic plane units map to themselves
        ("日本語", "日本語"),
    ],
)
def test_golden_names(name: str, expected: str) -> None:
    assert upcase(name.encode()) == expected.encode()


def test_lone_surrogates_survive_and_other_bytes_fold_by_ascii() -> None:
    lone = b"\xed\xa0\x80x"
    assert upcase(lone) == b"\xed\xa0\x80X"
    check(lone)
    assert upcase(b"\xffabc\xe4") == b"\xffABC\xe4"


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"\0"])
def test_what_cannot_be_a_name(name: bytes) -> None:
    with pytest.raises(InvalidName):
        check(name)


@pytest.mark.parametrize("name", [b"...", b" ", b"a:b", b"a\\b", b"\n", b"\xff", b"x" * 255, "𐐨".encode() * 127])
def test_what_can_be_one(name: bytes) -> None:
    check(name)


@pytest.mark.parametrize("name", [b"x" * 256, "ü".encode() * 256, "𐐨".encode() * 128, b"\xff" * 256])
def test_names_end_at_255_units(name: bytes) -> None:
    with pytest.raises(NameTooLong):
        check(name)


def test_stream_names_have_no_colon() -> None:
    check_stream(b".")
    for name in (b"", b"a:b", b"a/b", b"a\\b", b"\0"):
        with pytest.raises(InvalidName):
            check_stream(name)
    with pytest.raises(NameTooLong):
        check_stream(b"s" * 256)


def test_the_hash_depends_on_the_secret_and_is_the_same_for_ever() -> None:
    hash_ = NameHash(b"secret" + bytes(26))
    assert hash_.first(b"Some Name") == hash_.first(b"SOME NAME") == GOLDEN
    assert hash_.first(b"some name") != NameHash(bytes(32)).first(b"some name")


@given(st.binary(min_size=1, max_size=40))
def test_every_name_has_a_cookie_beyond_the_reserved_ones(name: bytes) -> None:
    cookie = NameHash(bytes(32)).first(name)
    assert 1 << 15 <= cookie < 1 << 63 and cookie % (1 << 15) == 0
    assert cookie == NameHash(bytes(32)).first(upcase(name))
