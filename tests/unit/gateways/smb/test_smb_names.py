"""Names on the wire, patterns, message ids, and small encodings."""

import random
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.smb import contexts
from gateways.smb.credits import LIMIT, STRANGER_LIMIT, Window
from gateways.smb.info import extended
from gateways.smb.names import from_wire, parse_path, to_wire
from gateways.smb.patterns import matcher
from gateways.smb.status import STATUS, Failure, Status, is_error, status_of
from sofs import errors


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")))
def test_any_stored_name_has_a_form_on_the_wire_that_leads_back(name: bytes) -> None:
    shown = to_wire(name)
    assert not set(shown) & set('\\/:*?"<>|')
    assert shown[-1] not in " ."
    assert from_wire(shown) == name


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (b"plain.txt", "plain.txt"),
        ("grüße 日本 🎉".encode(), "grüße 日本 🎉"),
        (b"a:b*c", "a\uf022b\uf021c"),
        (b"back\\slash", "back\uf026slash"),
        (b"ends with dot.", "ends with dot\uf029"),
        (b"ends with space ", "ends with space\uf028"),
        (b"\x01control", "\uf001control"),
        (b"latin \xe9", "latin \uf0e9"),
        ("\ud800lone".encode("utf-8", "surrogatepass"), "\ud800lone"),
        ("\uf021real".encode(), "\uf0ef\uf080\uf0a1real"),
    ],
)
def test_names_appear_as_linux_and_macos_expect(stored: bytes, shown: str) -> None:
    assert to_wire(stored) == shown
    assert from_wire(shown) == stored


def test_paths_split_into_components_and_a_stream() -> None:
    assert parse_path("") == ((), b"", False)
    assert parse_path("a\\b c\\d") == ((b"a", b"b c", b"d"), b"", False)
    assert parse_path("a\\") == ((b"a",), b"", False)
    assert parse_path("f:s") == ((b"f",), b"s", True)
    assert parse_path("d\\f:s:$data") == ((b"d", b"f"), b"s", True)
    assert parse_path("f::$DATA") == ((b"f",), b"", True)
    assert parse_path("a\\b\\..\\c\\..") == ((b"a",), b"", False)
    assert parse_path("a\\..") == ((), b"", False)


@pytest.mark.parametrize(
    "path",
    ["\\a", "a\\\\b", "..\\b", "a\\..\\..", "a*\\..", ".", "a*", "a\\b?", "a/b", "f:s:$INDEX", "f:", "f:s:", "f:a:b:c", "x" * 256, "a\x01", "f:s\\b"],
)
def test_paths_that_name_nothing_are_refused(path: str) -> None:
    with pytest.raises(Failure):
        parse_path(path)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*", ["a", "a.b", ".x"], []),
        ("*.txt", ["a.TXT", ".txt", "a.b.txt"], ["a.txt.b", "txt"]),
        ("a?c", ["abc", "A.C"], ["ac", "abbc"]),
        ("<.txt", ["a.txt", "a.b.txt"], ["a.txt.b"]),
        ("<", ["a", "ab"], ["a.b"]),
        ('<"*', ["a", "a.b", "a.b.c"], []),
        ("a>>", ["a", "ab", "abc"], ["abcd", "a.b"]),
        ("a>>.b", ["a.b", "axx.b"], ["axxx.b"]),
        ('a"', ["a", "a."], ["ab", "a.b"]),
        ("f*o*r*x", ["foorx", "four x"], ["fox"]),
        ("[a]+", ["[A]+"], ["a"]),
        ("*a*b*c*", ["xaxbxcx", "abc"], ["acb"]),
    ],
)
def test_patterns_match_as_dos_meant_them(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = matcher(pattern)
    assert [name for name in yes if not matches(name)] == []
    assert [name for name in no if matches(name)] == []


@pytest.mark.parametrize("pattern", ["*a" * 60 + "b", "<a" * 60 + "b", "*?" * 255, "<" + "a" * 250 + "b", "*" + "a" * 100 + "*" + "a" * 100 + "b"])
def test_no_pattern_is_slow(pattern: str) -> None:
    """Each step over a character of the name is a few operations: counted, not timed."""
    matches, steps = matcher(pattern), 0

    def count(frame: object, event: str, argument: object) -> object:
        nonlocal steps
        steps += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)  # type: ignore[arg-type]  # a line is an event
    try:
        matches("a" * 255)
    finally:
        sys.settrace(before)
    assert steps < 255 * 20


def _slow(pattern: str, name: str) -> bool:
    """MS-FSA 2.1.4.4 word for word."""

    def match(place: int, at: int) -> bool:
        if place == len(pattern):
            return at == len(name)
        wanted, char = pattern[place], name[at : at + 1]
        rest = place + 1
        if wanted == "*":
            return match(rest, at) or (bool(char) and match(place, at + 1))
        if wanted == "<":
            return match(rest, at) or (bool(char) and at != name.rfind(".") and match(place, at + 1))
        if wanted == ">":
            return (char in ("", ".") and match(rest, at)) or (char not in ("", ".") and match(rest, at + 1))
        if wanted == '"':
            return (not char and match(rest, at)) or (char == "." and match(rest, at + 1))
        return bool(char) and wanted in ("?", char) and match(rest, at + 1)

    return match(0, 0)


def test_patterns_match_as_the_specification_has_it() -> None:
    chance = random.Random(3)
    for _ in range(20_000):
        pattern = "".join(chance.choice('ab.*?<>"') for _ in range(chance.randrange(1, 8)))
        name = "".join(chance.choice("ab.") for _ in range(chance.randrange(1, 8)))
        assert matcher(pattern)(name) == _slow(pattern.upper(), name.upper()), (pattern, name)


def test_message_ids_are_used_once_and_within_what_was_granted() -> None:
    window = Window()
    assert not window.take(1, 1)
    assert window.take(0, 1)
    assert not window.take(0, 1)
    assert window.grant(10, True) == 10
    assert window.take(5, 2) and window.take(1, 4) and not window.take(6, 1)
    assert window.take(7, 4) and not window.take(11, 1)
    assert window.grant(0, True) == 1, "a client is never left without a credit"


def test_grants_are_bounded_whatever_is_asked() -> None:
    chance = random.Random(4)
    for known, limit in ((True, LIMIT), (False, STRANGER_LIMIT)):
        window = Window()
        for _ in range(2000):
            low = window._low
            free = [number for number in range(low, min(window._high, low + 50)) if number not in window._used]
            number = chance.choice(free)
            assert window.take(number, 1)
            window.grant(chance.choice((0, 1, 512, 65535)), known)
            assert window._high - window._low <= 2 * limit
            assert 1 <= window._high - window._low - len(window._used) <= limit


def test_every_outcome_has_its_status() -> None:
    def all_of(kind: type[errors.SofsError]) -> set[type[errors.SofsError]]:
        return {kind}.union(*(all_of(each) for each in kind.__subclasses__()))

    known = {kind for kind in all_of(errors.SofsError) if kind.__module__ == "sofs.errors"}
    assert known == set(STATUS)
    assert status_of(errors.NotFound()) is Status.OBJECT_NAME_NOT_FOUND
    assert status_of(Failure(Status.LOGON_FAILURE)) is Status.LOGON_FAILURE
    assert is_error(Status.ACCESS_DENIED) and not is_error(Status.BUFFER_OVERFLOW) and not is_error(Status.MORE_PROCESSING_REQUIRED)


def test_contexts_and_extended_attributes_encode_as_they_decode() -> None:
    some = [(b"MxAc", b"12345678"), (b"QFid", bytes(32)), (b"none", b"")]
    assert contexts.decode(memoryview(contexts.encode(some))) == dict(some)
    pairs = [(b"USER", b"value"), (b"B", b""), (b"LONGER NAME", bytes(100))]
    data, whole = extended.encode(pairs, 10_000)
    assert whole and extended.decode(memoryview(data)) == pairs
    data, whole = extended.encode(pairs, 40)
    assert not whole and extended.decode(memoryview(data)) == pairs[:2]


def test_malformed_contexts_and_extended_attributes_are_refused_at_every_length() -> None:
    good = contexts.encode([(b"MxAc", b"12345678"), (b"AlSi", bytes(8))])
    for length in range(len(good)):
        with pytest.raises(Failure):
            contexts.decode(memoryview(good[:length]))
    endless = struct.pack("<IHHHHI", 24, 16, 4, 0, 0, 0) + b"AAAA" + bytes(4)
    with pytest.raises(Failure):
        contexts.decode(memoryview(endless * 100))
    data, _ = extended.encode([(b"USER", b"value"), (b"B", b"x")], 1000)
    for length in range(len(data)):
        with pytest.raises(Failure):
            extended.decode(memoryview(data[:length]))
