"""The life of a grant, as a table of every state and every input.

A state is written as the rights held, then `>` and what may be kept while it is being recalled, then `:` and what the holder was last
told, where that differs. A result ends in `!` when the holder is told something; `gone` is no grant, `no` a refusal.
"""

import pytest

from sofs.errors import InvalidArgument, NotRecalled
from sofs.locks.grants import HANDLE, READ, WRITE, Grant, GrantKind, acknowledge, must_wait, recall

LETTERS = {"R": READ, "W": WRITE, "H": HANDLE, "0": 0}
INPUTS = ["take W", "take H", "take WH", "take RWH", "ack 0", "ack R", "ack RH", "ack RW", "ack RWH"]

LEASE = """
state     | take W   | take H   | take WH | take RWH | ack 0 | ack R | ack RH | ack RW | ack RWH
0         | 0        | 0        | 0       | 0        | no    | no    | no     | no     | no
R         | R        | R        | R       | 0!       | no    | no    | no     | no     | no
RH        | RH       | RH>R!    | RH>R!   | RH>0!    | no    | no    | no     | no     | no
RW        | RW>R!    | RW       | RW>R!   | RW>0!    | no    | no    | no     | no     | no
RWH       | RWH>RH!  | RWH>RW!  | RWH>R!  | RWH>0!   | no    | no    | no     | no     | no
RH>R      | RH>R     | RH>R     | RH>R    | RH>0:R   | 0     | R     | no     | no     | no
RH>0      | RH>0     | RH>0     | RH>0    | RH>0     | 0     | no    | no     | no     | no
RH>0:R    | RH>0:R   | RH>0:R   | RH>0:R  | RH>0:R   | 0     | 0!    | no     | no     | no
RW>R      | RW>R     | RW>R     | RW>R    | RW>0:R   | 0     | R     | no     | no     | no
RW>0      | RW>0     | RW>0     | RW>0    | RW>0     | 0     | no    | no     | no     | no
RW>0:R    | RW>0:R   | RW>0:R   | RW>0:R  | RW>0:R   | 0     | 0!    | no     | no     | no
RWH>RH    | RWH>RH   | RWH>R:RH | RWH>R:RH| RWH>0:RH | 0     | R     | RH     | no     | no
RWH>RW    | RWH>R:RW | RWH>RW   | RWH>R:RW| RWH>0:RW | 0     | R     | no     | RW     | no
RWH>R     | RWH>R    | RWH>R    | RWH>R   | RWH>0:R  | 0     | R     | no     | no     | no
RWH>0     | RWH>0    | RWH>0    | RWH>0   | RWH>0    | 0     | no    | no     | no     | no
RWH>R:RH  | RWH>R:RH | RWH>R:RH | RWH>R:RH| RWH>0:RH | 0     | R     | RH>R!  | no     | no
RWH>R:RW  | RWH>R:RW | RWH>R:RW | RWH>R:RW| RWH>0:RW | 0     | R     | no     | RW>R!  | no
RWH>0:RH  | RWH>0:RH | RWH>0:RH | RWH>0:RH| RWH>0:RH | 0     | 0!    | RH>0:R!| no     | no
RWH>0:RW  | RWH>0:RW | RWH>0:RW | RWH>0:RW| RWH>0:RW | 0     | 0!    | no     | RW>0:R!| no
RWH>0:R   | RWH>0:R  | RWH>0:R  | RWH>0:R | RWH>0:R  | 0     | 0!    | no     | no     | no
"""

OPLOCK = """
state     | take W   | take H   | take WH | take RWH | ack 0 | ack R | ack RH | ack RW | ack RWH
R         | R        | R        | R       | gone!    | no    | no    | no     | no     | no
RW        | RW>R!    | RW       | RW>R!   | RW>0!    | no    | no    | no     | no     | no
RWH       | RWH>R!   | RWH>R!   | RWH>R!  | RWH>0!   | no    | no    | no     | no     | no
RW>R      | RW>R     | RW>R     | RW>R    | RW>0:R   | gone  | R     | no     | no     | no
RW>0      | RW>0     | RW>0     | RW>0    | RW>0     | gone  | no    | no     | no     | no
RW>0:R    | RW>0:R   | RW>0:R   | RW>0:R  | RW>0:R   | gone  | gone! | no     | no     | no
RWH>R     | RWH>R    | RWH>R    | RWH>R   | RWH>0:R  | gone  | R     | no     | no     | no
RWH>0     | RWH>0    | RWH>0    | RWH>0   | RWH>0    | gone  | no    | no     | no     | no
RWH>0:R   | RWH>0:R  | RWH>0:R  | RWH>0:R | RWH>0:R  | gone  | gone! | no     | no     | no
"""

DELEGATION = """
state     | take W   | take H   | take WH | take RWH | ack 0 | ack R | ack RH | ack RW | ack RWH
R         | R        | R        | R       | R>0!     | no    | no    | no     | no     | no
RW        | RW>0!    | RW       | RW>0!   | RW>0!    | no    | no    | no     | no     | no
R>0       | R>0      | R>0      | R>0     | R>0      | gone  | no    | no     | no     | no
RW>0      | RW>0     | RW>0     | RW>0    | RW>0     | gone  | no    | no     | no     | no
"""


def bits(text: str) -> int:
    return sum(LETTERS[letter] for letter in text)


def parse(kind: GrantKind, text: str) -> Grant:
    rights, _, rest = text.partition(">")
    target, _, told = (rest or rights).partition(":")
    return Grant(b"key", kind, bits(rights), bits(target), bits(told or target))


def show(grant: Grant | None, tell: int | None) -> str:
    def letters(value: int) -> str:
        return "".join(letter for letter in "RWH" if value & LETTERS[letter]) or "0"

    text = "gone"
    if grant is not None:
        text = letters(grant.rights)
        if grant.recalling:
            text += ">" + letters(grant.target)
            text += ":" + letters(grant.told) if grant.told != grant.target else ""
    if grant is not None and tell is not None:
        assert tell == grant.told
    return text + ("!" if tell is not None else "")


def rows(kind: GrantKind, table: str) -> list[tuple[GrantKind, str, str, str]]:
    head, *lines = table.strip().splitlines()
    inputs = [cell.strip() for cell in head.split("|")][1:]
    assert inputs == INPUTS
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [(kind, state, given, wanted) for state, *row in cells for given, wanted in zip(inputs, row, strict=True)]


ROWS = [*rows(GrantKind.LEASE, LEASE), *rows(GrantKind.OPLOCK, OPLOCK), *rows(GrantKind.DELEGATION, DELEGATION)]


@pytest.mark.parametrize(("kind", "state", "given", "wanted"), ROWS)
def test_every_state_and_input(kind: GrantKind, state: str, given: str, wanted: str) -> None:
    grant = parse(kind, state)
    word, value = given.split()
    if wanted == "no":
        with pytest.raises(InvalidArgument if grant.recalling else NotRecalled):
            acknowledge(grant, bits(value))
        return
    after, tell = (recall if word == "take" else acknowledge)(grant, bits(value))
    assert show(after, tell) == wanted
    if after is not None:
        # What follows an answer is told with the epoch that the holder knows (smbtorture smb2.lease.v2_breaking3).
        assert after.epoch == grant.epoch + (tell is not None and word == "take")


@pytest.mark.parametrize("kind", list(GrantKind))
def test_the_table_has_every_state_that_can_be_reached(kind: GrantKind) -> None:
    known = {state for row_kind, state, _, _ in ROWS if row_kind is kind}
    reached = {wanted.rstrip("!") for row_kind, _, _, wanted in ROWS if row_kind is kind} - {"gone", "no"}
    assert reached <= known


@pytest.mark.parametrize(
    ("kind", "state", "take", "waits"),
    [
        (GrantKind.LEASE, "RWH>RH", "W", True),
        (GrantKind.LEASE, "RWH>RW", "H", True),
        (GrantKind.LEASE, "RWH>RW", "W", True),
        (GrantKind.LEASE, "RH>0", "W", False),
        (GrantKind.LEASE, "RH>R", "W", False),
        (GrantKind.LEASE, "RH>R", "H", True),
        (GrantKind.LEASE, "R", "RWH", False),
        (GrantKind.OPLOCK, "RW>R", "W", True),
        (GrantKind.DELEGATION, "R>0", "RWH", True),
        (GrantKind.DELEGATION, "RW>0", "W", True),
        (GrantKind.DELEGATION, "R>0", "W", False),
    ],
)
def test_others_wait_only_for_what_they_cannot_do_without(kind: GrantKind, state: str, take: str, waits: bool) -> None:
    assert must_wait(parse(kind, state), bits(take)) is waits
