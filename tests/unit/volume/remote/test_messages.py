"""Everything that can be said about a volume survives the way to another node, and what is no message is refused."""

import inspect
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.errors import PeerError
from sofs.locks import GrantKind
from sofs.types import Inode, Level, Lsn, OpenId
from sofs.volume import api
from sofs.volume.api import Attributes, Binding, Dropped, FencedOff, Noticed, Recall, Reply, Request, Revoked, SlotToken, Target, Token
from sofs.volume.handlers import HANDLERS
from sofs.volume.remote import messages
from sofs.volume.remote.messages import HEAD, Answered, Call, Elsewhere, Kind, Reached, ReadAnswer, ReadAsk, Told, When, WriteAsk
from sofs.volume.remote.repeating import REPEATABLE
from tests.unit.volume.remote.strategies import any_of

_FEW = settings(max_examples=20)
_TOKENS = st.one_of(st.none(), any_of(Token)), st.one_of(st.none(), any_of(SlotToken))


def public(base: type[Any]) -> set[type[Any]]:
    return {each for each in vars(api).values() if inspect.isclass(each) and issubclass(each, base) and each is not base}


def test_the_table_holds_every_request_and_every_reply() -> None:
    assert public(Request) <= set(messages.requests())
    assert public(Reply) | {Reply} <= set(messages.replies())
    assert set(HANDLERS) <= set(messages.requests())
    assert set(messages.requests()) == set(HANDLERS), "what can be asked has a handler"


def test_what_may_be_repeated_is_a_request() -> None:
    assert set(messages.requests()) >= REPEATABLE


@pytest.mark.parametrize("kind", messages.requests(), ids=lambda kind: kind.__name__)
@_FEW
@given(data=st.data())
def test_a_request_arrives_as_it_was(kind: type[Request], data: st.DataObject) -> None:
    sent = Call(data.draw(st.integers(0, 9)), data.draw(any_of(Binding)), data.draw(_TOKENS[0]), data.draw(_TOKENS[1]), data.draw(any_of(kind)))
    body = messages.encode_head(Kind.CALL, 1, 2, 3, 4) + messages.encode(sent)
    assert messages.decode_head(body) == (Kind.CALL, 1, 2, 3, 4)
    came = messages.decode_rest(Kind.CALL, memoryview(body))
    assert (came.snapshot, came.by, came.plain, came.slot_token, came.request) == (sent.snapshot, sent.by, sent.plain, sent.slot_token, sent.request)
    assert type(came.request) is kind and type(came.by) is Binding


@pytest.mark.parametrize("kind", messages.replies(), ids=lambda kind: kind.__name__)
@_FEW
@given(data=st.data())
def test_a_reply_arrives_as_it_was(kind: type[Reply], data: st.DataObject) -> None:
    reply = data.draw(any_of(kind))
    expected = repr(reply)
    came = messages.decode_answer(memoryview(messages.encode_answer(Answered(Lsn(1), 2, reply))))
    assert isinstance(came, Answered)
    assert (came.stable, came.verifier) == (1, 2)
    assert type(came.reply) is kind and repr(came.reply) == expected


@_FEW
@given(any_of(Target), any_of(Binding), st.integers(-1, 2**63 - 1), *_TOKENS)
def test_reads_and_writes_arrive_as_they_were(target: Any, by: Binding, offset: int, plain: Any, slot: Any) -> None:
    for kind, sent in (
        (Kind.READ, ReadAsk(0, by, target, offset, 4096)),
        (Kind.WRITE, WriteAsk(by, plain, slot, target, offset, Level.STABLE)),
        (Kind.WHEN, When(Lsn(7))),
    ):
        assert messages.decode_rest(kind, bytes(HEAD.size) + messages.encode(sent)) == sent  # type: ignore[arg-type]


@_FEW
@given(any_of(Attributes))
def test_other_answers_arrive_as_they_were(attributes: Attributes) -> None:
    for sent in (ReadAnswer(Lsn(1), 2, True, Lsn(3), attributes), ReadAnswer(Lsn(1), 2, False, Lsn(3), None), Reached(Lsn(4), 5), Elsewhere()):
        assert messages.decode_answer(messages.encode_answer(sent)) == sent


@_FEW
@given(any_of(Recall), st.binary())
def test_upcalls_arrive_as_they_were(recall: Recall, name: bytes) -> None:
    opens = (OpenId(1), OpenId(2))
    told = Told(1, 2, 3, [recall, Revoked(Inode(1), name, GrantKind.LEASE, opens, OpenId(0)), Dropped(OpenId(3)), Noticed(OpenId(4), 5, name)])
    told.upcalls.append(FencedOff(6))
    assert messages.decode_told(messages.encode(told)) == told


@given(st.binary(max_size=80), st.integers(0, 9))
def test_what_is_no_message_is_the_peers_fault(data: bytes, kind: int) -> None:
    for decode in (messages.decode_head, messages.decode_answer, messages.decode_told, lambda body: messages.decode_rest(kind, body)):
        try:
            decode(data)
        except PeerError:
            pass


@pytest.mark.parametrize("kind", [Kind.CANCEL, Kind.SUBSCRIBE, 0, 99])
def test_a_question_that_has_nothing_to_say_must_not_say_anything(kind: int) -> None:
    with pytest.raises(PeerError):
        messages.decode_rest(kind, bytes(HEAD.size + 1))
