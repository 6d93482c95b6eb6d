"""XDR: what the compiled codecs write and refuse."""

from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.nfs.xdr import I32, I64, U32, U64, Array, Bool, Fixed, Linked, Opaque, Switch, Void, XdrError, decode, encode, unpack


class Pair(NamedTuple):
    a: U32
    b: U64


class Everything(NamedTuple):
    first: Pair
    flag: Bool
    signed: I32
    longer: I64
    text: Annotated[bytes, Opaque(9)]
    fixed: Annotated[bytes, Fixed(8)]
    maybe: Pair | None
    number: U32 | None
    counted: Annotated[tuple[int, ...], Array(U32, 4)]
    linked: Annotated[tuple[Pair, ...], Linked(Pair, 3)]
    arm: Annotated[tuple[int, Any], Switch({0: Void, 7: Pair})]
    last: Pair


EXAMPLE = Everything(Pair(1, 2), True, -3, -4, b"hello", b"12345678", None, 5, (6, 7), (Pair(8, 9),), (7, Pair(10, 11)), Pair(12, 13))
BYTES = bytes.fromhex(
    "00000001 0000000000000002 00000001 fffffffd fffffffffffffffc"
    "00000005 68656c6c6f000000 3132333435363738 00000000 00000001 00000005"
    "00000002 00000006 00000007 00000001 00000008 0000000000000009 00000000"
    "00000007 0000000a 000000000000000b 0000000c 000000000000000d"
)


def test_the_layout_is_that_of_rfc_4506() -> None:
    assert encode(EXAMPLE) == BYTES
    assert decode(Everything, BYTES) == EXAMPLE


def test_every_prefix_is_refused() -> None:
    for length in range(len(BYTES)):
        with pytest.raises(XdrError):
            decode(Everything, BYTES[:length])


def test_what_follows_is_left_alone() -> None:
    assert unpack(Everything, memoryview(b"xx" + BYTES + b"more"), 2) == (EXAMPLE, 2 + len(BYTES))


class Flag(NamedTuple):
    flag: Bool


class Short(NamedTuple):
    text: Annotated[bytes, Opaque(3)]


class Few(NamedTuple):
    items: Annotated[tuple[int, ...], Array(U32, 2)]


class Chain(NamedTuple):
    items: Annotated[tuple[int, ...], Linked(U32, 2)]


class Choice(NamedTuple):
    arm: Annotated[tuple[int, Any], Switch({1: Void})]


class Maybe(NamedTuple):
    number: U32 | None


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Flag, "00000002"),
        (Short, "00000004 61626364"),
        (Short, "ffffffff"),
        (Few, "00000003 00000001 00000001 00000001"),
        (Few, "ffffffff"),
        (Chain, "00000001 00000001 00000001 00000001 00000001 00000001 00000000"),
        (Chain, "00000003"),
        (Choice, "00000000"),
        (Maybe, "00000002 00000000"),
    ],
)
def test_what_the_declaration_does_not_allow_is_refused(kind: type[Any], data: str) -> None:
    with pytest.raises(XdrError):
        decode(kind, bytes.fromhex(data))


numbers = st.integers(0, 2**32 - 1)
pairs = st.builds(Pair, numbers, st.integers(0, 2**64 - 1))
everything = st.builds(
    Everything,
    pairs,
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=9),
    st.binary(min_size=8, max_size=8),
    st.none() | pairs,
    st.none() | numbers,
    st.lists(numbers, max_size=4).map(tuple),
    st.lists(pairs, max_size=3).map(tuple),
    st.just((0, Void())) | st.tuples(st.just(7), pairs),
    pairs,
)


@given(everything)
def test_what_is_encoded_decodes_to_itself(value: Everything) -> None:
    data = encode(value)
    assert len(data) % 4 == 0
    assert unpack(Everything, memoryview(data), 0) == (value, len(data))


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_a_decode_error(data: bytes) -> None:
    try:
        value = decode(Everything, data)
    except XdrError:
        return
    assert decode(Everything, encode(value)) == value
