"""Questions about one volume on their way to whichever node coordinates it, repeated until they are answered.

All that is under way is kept in the order in which it was asked. When anything goes wrong (a connection breaks, the other node refuses, another one
coordinates), a new *era* begins: everything without an answer is asked again, in order, and what is new stands behind it. A reply counts whichever
era it belongs to; but that something was refused counts only if it has not been asked again since, for what is refused leaves no token, and may be
carried out when it arrives once more. A question that changes something is never given up once it has been sent: it may have been carried out, and only
the coordinator can tell.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable

import structlog

from sofs.cluster import Answer, Interconnect, NodeId, Peer
from sofs.errors import Fenced, PeerError, SofsError, Unavailable
from sofs.runtime.ports import Buffer, Clock, Timer
from sofs.types import Lsn, VolumeId
from sofs.volume.remote.messages import Answered, Elsewhere, Kind, Reached, ReadAnswer, decode_answer, encode_head
from sofs.volume.remote.serving import SERVICE

PATIENCE_S = 120.0
"""What has certainly not been carried out is given up after this."""
_FOREVER_S = 1e8
_SHORTEST_S, _LONGEST_S = 0.02, 0.3
"""Between two tries of what was refused, when nothing else calls for one."""
_LOOK_S = 1.0

Found = Answered | ReadAnswer | Reached
Then = Callable[[Found | SofsError, Buffer], None]
"""The answer with its payload, which is valid during the call only; or the error."""


class Question:
    """One that has not been answered."""

    __slots__ = ("deadline", "done", "era", "kind", "number", "payload", "repeatable", "rest", "sent", "sequence", "slot", "then")

    def __init__(self, kind: Kind, rest: bytes, payload: Buffer, slot: int, sequence: int, repeatable: bool, deadline: float, then: Then) -> None:
        self.kind = kind
        self.rest = rest
        self.payload = payload
        self.slot = slot
        self.sequence = sequence
        self.repeatable = repeatable
        self.deadline = deadline
        self.then = then
        self.number = 0
        """Its place in the order of all."""
        self.sent = False
        """Ever."""
        self.era = 0
        """In which it was sent last."""
        self.done = False


class Asker:
    """All questions of this process about one volume."""

    def __init__(self, interconnect: Interconnect, clock: Clock, volume: VolumeId) -> None:
        self._interconnect = interconnect
        self._clock = clock
        self._volume = volume
        self.stable = Lsn(0)
        """Everything below is known to be stable."""
        self.verifier = 0
        """0: not known yet."""
        self.subscription = 0
        """The number of the newest subscription; 0 while this process does not listen."""
        self.other_verifier: Callable[[], None] = lambda: None
        """Called when the verifier is another one than before."""
        self.subscribed: Callable[[Fenced | None], None] = lambda refusal: None
        """Called whenever a subscription has been answered, or refused because this process counts as dead."""
        self.idle: Callable[[], None] = lambda: None
        """Called when the last question has been answered."""
        self.heard: Callable[[], None] = lambda: None
        """Called with every answer, before whoever asked is told."""
        self._listening = False
        self._questions: dict[int, Question] = {}
        self._unsent: deque[Question] = deque()
        self._number = 0
        self._sequences: list[int] = []
        self._free: list[int] = []
        self._node = NodeId(0)
        self._peer: Peer | None = None
        self._watched: dict[NodeId, None] = {}
        self._era = 1
        self._held = False
        """Nothing is sent until the pause is over, or another node coordinates."""
        self._pause_s = _SHORTEST_S
        self._timer: Timer | None = None
        self._looking = False

    @property
    def busy(self) -> bool:
        return bool(self._questions)

    # Where to

    def go(self, node: NodeId, listen: bool) -> None:
        """That node coordinates the volume now; 0: nobody does. `listen`: this process wants to hear the volume's upcalls from there."""
        self._node, self._listening = node, listen and bool(node)
        self._peer = self._interconnect.peer(node) if node else None
        if node and node not in self._watched and node != self._interconnect.node:
            self._watched[node] = None
            self._interconnect.peer(node).on_change(lambda connected: self._connection(node, connected))
        self._begin_anew()
        self._pause_s = _SHORTEST_S
        self._resume()

    def _connection(self, node: NodeId, connected: bool) -> None:
        if node != self._node:
            return
        if not connected:
            self._begin_anew()
            self._pause()
        elif self._held:
            self._resume()

    def _begin_anew(self) -> None:
        self._era += 1
        self.subscription = 0
        self._unsent = deque(self._questions.values())

    def _pause(self) -> None:
        self._held = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(self._pause_s, self._resume)
        self._pause_s = min(self._pause_s * 2, _LONGEST_S)
        self._look_later()

    def _resume(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._held = False
        if self._peer is None:
            self._held = True
            self._look_later()
            return
        if self._listening and not self.subscription:
            self._subscribe()
        while self._unsent and not self._held:
            question = self._unsent.popleft()
            if not question.done:
                self._send(question)

    # Asking

    def ask(self, kind: Kind, rest: bytes, payload: Buffer, repeatable: bool, then: Then, *, patience_s: float = PATIENCE_S) -> Question:
        """Sends it, or has it wait its turn. `then` is called once, later."""
        if self._free:
            slot = self._free.pop()
        else:
            slot = len(self._sequences)
            self._sequences.append(0)
        self._sequences[slot] = sequence = self._sequences[slot] + 1
        return self._add(Question(kind, rest, payload, slot, sequence, repeatable, self._clock.monotonic() + patience_s, then))

    def _add(self, question: Question) -> Question:
        self._number = question.number = self._number + 1
        self._questions[question.number] = question
        if self._held or self._unsent or self._peer is None:
            self._unsent.append(question)
            self._look_later()
        else:
            self._send(question)
        return question

    def take_back(self, question: Question, then: Then) -> None:
        """The question's own `then` is not called any more; `then` is told what it was answered if it had been carried out, else an error."""
        question.done = True
        del self._questions[question.number]
        if not question.sent:
            self._free.append(question.slot)
            self._rest()
            return
        self._add(Question(Kind.CANCEL, b"", b"", question.slot, question.sequence, True, math.inf, then))

    def _send(self, question: Question) -> None:
        assert self._peer is not None
        question.sent, question.era, era = True, self._era, self._era
        head = encode_head(question.kind, question.slot, era, self._volume, question.sequence)
        payload = (question.payload,) if question.payload else ()
        self._peer.ask(SERVICE, head + question.rest, payload, lambda outcome: self._answered(question, era, outcome), deadline_s=_FOREVER_S)

    def _subscribe(self) -> None:
        assert self._peer is not None
        era = self.subscription = self._era
        head = encode_head(Kind.SUBSCRIBE, 0, era, self._volume, era)
        self._peer.ask(SERVICE, head, (), lambda outcome: self._heard(era, outcome), deadline_s=_FOREVER_S)

    # Answers

    def _heard(self, era: int, outcome: Answer | SofsError) -> None:
        """Of the subscription."""
        found = self._understood(outcome)
        if found is None or (isinstance(found, SofsError) and not isinstance(found, Fenced)):
            self._refused(era)
        elif self._is_of_another(found):
            asyncio.get_running_loop().call_soon(self._listens, era, found)
        else:
            self._listens(era, found)

    def _listens(self, era: int, found: Found | Fenced) -> None:
        if era == self.subscription:
            self.heard()
            if not isinstance(found, SofsError):
                self._note(found)
            self.subscribed(found if isinstance(found, Fenced) else None)

    def _is_of_another(self, found: Found | SofsError) -> bool:
        """Whether an answer brings another verifier. Then it counts in the loop's next round, behind all who were answered before: what they tell their clients
        was done under the former one, and has to say so, or data that was lost since would never be missed."""
        return not isinstance(found, SofsError) and self.verifier not in (0, found.verifier)

    def _answered(self, question: Question, era: int, outcome: Answer | SofsError) -> None:
        if question.done:
            return
        found = self._understood(outcome)
        if found is None:
            self._refused(era)
            return
        payload: Buffer = b""
        if isinstance(outcome, Answer) and outcome.payload and len(outcome.body):
            payload = outcome.payload[0]
        if self._is_of_another(found):
            asyncio.get_running_loop().call_soon(self._counts, question, era, found, bytes(payload))
        else:
            self._counts(question, era, found, payload)

    def _counts(self, question: Question, era: int, found: Found | SofsError, payload: Buffer) -> None:
        if question.done:
            return
        self._pause_s = _SHORTEST_S
        self.heard()
        if not isinstance(found, SofsError):
            self._note(found)
        elif era != question.era and not question.repeatable:
            return
        self._finish(question, found, payload)

    def _finish(self, question: Question, found: Found | SofsError, payload: Buffer = b"") -> None:
        question.done = True
        del self._questions[question.number]
        self._free.append(question.slot)
        question.then(found, payload)
        self._rest()

    def _rest(self) -> None:
        if not self._questions:
            self.idle()

    def _understood(self, outcome: Answer | SofsError) -> Found | SofsError | None:
        """None: it has to be asked again."""
        if isinstance(outcome, SofsError):
            return None if isinstance(outcome, Unavailable) else outcome
        try:
            found = decode_answer(outcome.body if len(outcome.body) else outcome.payload[0] if outcome.payload else b"")
        except PeerError as error:
            structlog.get_logger(component="volume").error("answer_not_understood", node=f"{self._node:016x}", reason=str(error))
            return None
        return None if isinstance(found, Elsewhere) else found

    def _refused(self, era: int) -> None:
        """What belongs to an earlier era has been asked again already."""
        if era == self._era:
            self._begin_anew()
            self._pause()

    def _note(self, found: Found) -> None:
        if found.verifier != self.verifier:
            self.verifier, self.stable = found.verifier, Lsn(0)
            # Also the first one that is heard of: an answer may come before the subscription does, and is told with it.
            self.other_verifier()
        if found.stable > self.stable:
            self.stable = found.stable

    # Patience

    def _look_later(self) -> None:
        if not self._looking and self._questions:
            self._looking = True
            self._clock.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Gives up what has waited too long and certainly was not carried out, or changes nothing."""
        self._looking = False
        if not self._held:
            return
        now = self._clock.monotonic()
        for question in [each for each in self._questions.values() if each.deadline <= now and (each.repeatable or not each.sent)]:
            if not question.done:
                self._finish(question, Unavailable("nobody serves the volume"))
        self._look_later()
