"""A standby's side: what it takes, skips, cuts off, refuses and promises."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sofs.errors import Damaged, DiskFailed, NoSpace, Unavailable
from sofs.log.configuration import BEGINNING, Configuration, LogSettings, Mark
from sofs.log.follower import Follower
from sofs.log.messages import Ack, Append, Result, Sync
from sofs.log.record import encode, payload_sum
from sofs.log.recovery import recover
from sofs.log.replica import FIRST, LocalReplica
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.types import Lsn

SEGMENT = 16 << 10
SETTINGS = LogSettings(SEGMENT, 8 * SEGMENT)
L = SETTINGS.lease.promise_s


class Author:
    """A coordinator's log, as bytes."""

    def __init__(self, version: int = 1, mark: Mark = BEGINNING, stable: Lsn = FIRST) -> None:
        self.mark = mark
        self.version = version
        self.stable = stable

    def write(self, *batches: bytes, payload: bytes = b"") -> tuple[Mark, bytes]:
        """The mark before, and the records' bytes."""
        before, written = self.mark, b""
        for operations in batches:
            lsn = self.mark.lsn
            size = 48 + len(operations) + 7 & -8
            if lsn % SEGMENT + size + len(payload) > SEGMENT or lsn % SEGMENT == 0:
                lsn = Lsn((lsn + SEGMENT - 1) // SEGMENT * SEGMENT + FIRST)
            checksum, data = encode(lsn, self.stable, self.version, self.mark.checksum, operations, len(payload), payload_sum([payload]))
            data += payload + bytes(-len(payload) % 8)
            written += data
            self.mark = Mark(Lsn(lsn + len(data)), checksum, self.version)
        return before, written


class Machine:
    def __init__(self) -> None:
        self.applied: list[tuple[Lsn, bytes]] = []
        self.truncations: list[Lsn] = []

    def apply(self, lsn: Lsn, operations: bytes, address: int) -> None:
        self.applied.append((lsn, operations))

    def truncate(self, to: Lsn) -> None:
        """As one whose checkpoint is the log's beginning."""
        self.truncations.append(to)
        self.applied.clear()

    @property
    def operations(self) -> list[bytes]:
        return [operations for _, operations in self.applied]


class Rig:
    def __init__(self, loop: SimulatedLoop) -> None:
        self.files = SimulatedFiles(SimulatedRandom(1), latency=Latency(1e-4, 2e-3))
        self.files.make_directory("/log")
        self.clock = SimulatedClock(loop)
        self.machine = Machine()
        self.configuration = Configuration(1, (7, 8), coordinator=1)
        self.away = False
        self.replica = LocalReplica(self.files, "/log", 77, 7, SEGMENT)
        self.follower = self.follow()

    def follow(self, whole: bool = True, promised: bool = True, checkpoint: Mark = BEGINNING) -> Follower:
        return Follower(
            self.clock,
            self.replica,
            self.machine,
            configuration=Configuration(1, (7, 8), coordinator=1),
            end=BEGINNING,
            stable=BEGINNING,
            tail=(),
            checkpoint=checkpoint,
            whole=whole,
            settings=SETTINGS,
            read_configuration=self.read,
            promised=promised,
        )

    async def read(self) -> Configuration:
        await self.clock.sleep(0.01)
        if self.away:
            raise Unavailable("the store does not answer")
        return self.configuration

    def send(
        self, after: Mark, data: bytes, version: int = 1, stable: Lsn = FIRST, committed: Lsn = FIRST, start: Lsn = FIRST, sync: bool = False
    ) -> Ack:
        answer = self.follower.append(Append(7, version, after, stable, committed, start, sync), memoryview(data))
        assert isinstance(answer, Ack)
        return answer


def run(main: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def start(loop: SimulatedLoop) -> None:
        await main(Rig(loop))

    simulate(start)


def test_records_are_written_applied_and_acknowledged() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        for number in range(60):
            ack = rig.send(*author.write(b"%d" % number, b"and %d" % number, payload=b"p" * 700))
            assert (ack.outcome, ack.common, ack.end) == (Result.DONE, author.mark.lsn, None)
        assert rig.follower.end == rig.follower.mark == author.mark
        assert rig.machine.operations[:2] == [b"0", b"and 0"] and len(rig.machine.applied) == 120
        found: list[bytes] = []
        recover([rig.replica], BEGINNING, 1, lambda: True, lambda lsn, operations, address: found.append(operations))
        assert found == rig.machine.operations, "and a recovery finds them, over several segments"

    run(main)


def test_what_comes_twice_is_skipped_and_what_begins_below_the_end_is_completed() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        first, second = author.write(b"a", b"b"), author.write(b"c")
        third = author.write(b"d")
        for message in (first, second, first, second, (first[0], first[1] + second[1] + third[1]), first):
            assert rig.send(*message).outcome == Result.DONE
        assert rig.machine.operations == [b"a", b"b", b"c", b"d"] and not rig.machine.truncations
        assert rig.send(*first).common == author.mark.lsn, "and nothing is taken back by a late message"

    run(main)


def test_a_gap_is_refused_and_the_answer_says_what_is_here() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        rig.send(*author.write(b"a"))
        end = rig.follower.end
        author.write(b"lost")
        ack = rig.send(*author.write(b"c"))
        assert (ack.outcome, ack.stable, ack.end) == (Result.ELSEWHERE, BEGINNING, end)
        assert rig.machine.operations == [b"a"] and rig.follower.end == end

    run(main)


@pytest.mark.parametrize("at", [4, 9, 20, 26, 30, 34, 40, 44, 50, 70, 100])
def test_a_message_of_which_any_byte_is_wrong_leaves_no_trace(at: int) -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        rig.send(*author.write(b"a"))
        after, data = author.write(b"operations", b"more", payload=b"p" * 30)
        steps = rig.files.steps
        with pytest.raises(Damaged):
            rig.send(after, data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        for cut in (1, 47, 60, len(data) - 1):
            with pytest.raises(Damaged):
                rig.send(after, data[:cut])
        assert rig.files.steps == steps and rig.machine.operations == [b"a"]
        assert rig.send(after, data).outcome == Result.DONE

    run(main)


def test_a_broken_chain_is_refused() -> None:
    async def main(rig: Rig) -> None:
        author, other = Author(), Author()
        rig.send(*author.write(b"a"))
        other.write(b"b")
        after, data = other.write(b"c")
        with pytest.raises(Damaged, match="does not follow"):
            rig.send(author.mark, data)
        assert rig.send(after, data).outcome == Result.ELSEWHERE

    run(main)


def test_a_new_coordinators_first_record_cuts_off_what_it_does_not_have() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        rig.send(*author.write(b"a", b"b"))
        successor = Author(2, author.mark)
        rig.send(*author.write(b"never committed", b"nor this"))
        old = author.mark
        rig.follower.adopt(Configuration(2, (7, 8), coordinator=2))
        ack = rig.send(*successor.write(b"c"), version=2)
        assert ack.outcome == Result.DONE and ack.common == successor.mark.lsn < old.lsn
        assert rig.machine.truncations == [successor.write()[0].lsn - 56]
        while not rig.follower.settled:
            await rig.clock.sleep(0.001)
        assert rig.machine.operations == [b"a", b"b", b"c"]
        found: list[bytes] = []
        recover([rig.replica], BEGINNING, 2, lambda: False, lambda lsn, operations, address: found.append(operations))
        assert found == [b"a", b"b", b"c"], "what was cut off is never met again"

    run(main)


def test_only_what_is_known_to_be_common_is_acknowledged() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        rig.send(*author.write(b"a"))
        here = author.mark
        rig.send(*author.write(b"b"), stable=here.lsn)
        rig.follower.adopt(Configuration(2, (7, 8), coordinator=2))
        ack = rig.send(here, b"", version=2)
        assert (ack.outcome, ack.common) == (Result.DONE, here.lsn), "it has more, and nobody knows whether that is the same"
        successor = Author(2, here)
        assert rig.send(*successor.write(b"c"), version=2, stable=Lsn(1 << 40)).common == successor.mark.lsn

    run(main)


def test_what_is_stable_or_known_to_be_common_is_never_cut_off() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        rig.send(*author.write(b"a"))
        first = author.mark
        rig.send(*author.write(b"b"))
        other = Author(1, first)
        with pytest.raises(Damaged, match=r"up to .* it was the same"):
            rig.send(*other.write(b"x"))
        rig.send(author.mark, b"", stable=author.mark.lsn)
        rig.follower.adopt(Configuration(2, (7, 8), coordinator=2))
        other = Author(2, first)
        with pytest.raises(Damaged, match="is stable"):
            rig.send(*other.write(b"y"), version=2)
        assert rig.machine.operations == [b"a", b"b"]

    run(main)


def test_an_older_coordinator_is_fenced_and_a_newer_one_is_learned_of_in_the_store() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        adopted: list[int] = []
        rig.follower.on_adopted = lambda configuration: adopted.append(configuration.version)
        rig.away = True
        assert rig.send(*author.write(b"a"), version=3).outcome == Result.BEHIND
        await rig.clock.sleep(0.1)
        assert rig.send(BEGINNING, b"", version=3).outcome == Result.BEHIND and not adopted
        rig.away, rig.configuration = False, Configuration(3, (7,), coordinator=2)
        await rig.clock.sleep(0.1)
        rig.send(BEGINNING, b"", version=3)
        await rig.clock.sleep(0.1)
        assert adopted == [3]
        assert rig.send(BEGINNING, b"", version=3).outcome == Result.DONE
        for version in (1, 2):
            ack = rig.send(BEGINNING, Author(version).write(b"late")[1], version=version)
            assert (ack.outcome, ack.version) == (Result.FENCED, 3)
        assert not rig.machine.applied

    run(main)


def test_a_sync_is_answered_when_it_is_done_and_counts_only_what_was_there_when_it_began() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        after, data = author.write(b"a")
        first = rig.follower.append(Append(7, 1, after, FIRST, FIRST, FIRST, True), memoryview(data))
        assert not isinstance(first, Ack)
        here = author.mark.lsn
        assert rig.send(*author.write(b"b")).synced == FIRST
        second = rig.follower.sync(Sync(7, 1, author.mark.lsn))
        assert not isinstance(second, Ack)
        assert (await first).synced == here
        assert (await second).synced == author.mark.lsn

    run(main)


def test_a_sync_under_way_says_nothing_about_what_is_written_in_the_place_of_what_was_cut_off() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        rig.send(*author.write(b"a"))
        successor = Author(2, author.mark)
        after, data = author.write(b"b")
        answer = rig.follower.append(Append(7, 1, after, FIRST, FIRST, FIRST, True), memoryview(data))
        rig.follower.adopt(Configuration(2, (7, 8), coordinator=2))
        assert rig.send(*successor.write(b"c"), version=2).synced < successor.mark.lsn
        assert not isinstance(answer, Ack)
        ack = await answer
        assert ack.outcome == Result.BEHIND and ack.synced < successor.mark.lsn
        done = rig.follower.sync(Sync(7, 2, successor.mark.lsn))
        assert not isinstance(done, Ack)
        assert (await done).synced == successor.mark.lsn

    run(main)


def test_a_failed_write_or_sync_ends_it() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        failures: list[Exception] = []
        rig.follower.on_failure = failures.append
        rig.files.fail("sync", "/log", times=1)
        after, data = author.write(b"a")
        answer = rig.follower.append(Append(7, 1, after, FIRST, FIRST, FIRST, True), memoryview(data))
        assert not isinstance(answer, Ack)
        with pytest.raises(DiskFailed):
            await answer
        with pytest.raises(DiskFailed):
            rig.send(*author.write(b"b"))
        assert len(failures) == 1 and not rig.follower.stand(proof=True)

    run(main)


def test_a_segment_that_cannot_be_made_ends_it_unless_there_is_no_space() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        fault = rig.files.fail("allocate", "/log", NoSpace)
        first = author.write(b"a")
        with pytest.raises(NoSpace):
            rig.send(*first)
        assert rig.follower.failure is None
        rig.files.faults.remove(fault)
        assert rig.send(*first).outcome == Result.DONE
        rig.files.fail("allocate", "/log", DiskFailed)
        with pytest.raises(DiskFailed):
            rig.send(*author.write(b"b", payload=bytes(12_000)))
        assert isinstance(rig.follower.failure, DiskFailed)

    run(main)


def test_it_stands_only_when_its_promise_has_run_out_by_its_clock() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        assert not rig.follower.stand(), "after a restart it waits first"
        await rig.clock.sleep(L - 0.1)
        rig.send(*author.write(b"a"))
        await rig.clock.sleep(L - 0.01)
        assert not rig.follower.stand()
        await rig.clock.sleep(0.02)
        assert rig.follower.stand()
        assert rig.send(author.mark, b"").outcome == Result.BEHIND, "nothing is promised from now on"
        rig.follower.resume(Configuration(2, (7, 8), coordinator=2))
        assert rig.send(author.mark, b"").outcome == Result.FENCED
        assert rig.send(author.mark, b"", version=2).outcome == Result.DONE
        assert not rig.follower.stand()
        assert rig.follower.stand(proof=True), "the coordinator is known to have ended"
        lead = rig.follower.retire()
        assert (lead.end, lead.replica) == (author.mark, rig.replica)
        with pytest.raises(Unavailable):
            await rig.follower.sync_all()

    run(main)


def test_what_lost_its_memory_does_not_stand_until_it_has_again_what_was_committed() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        rig.follower = rig.follow(whole=False, promised=False)
        whole: list[bool] = []
        rig.follower.on_whole = lambda: whole.append(True)
        messages = [author.write(b"a"), author.write(b"b")]
        rig.send(*messages[0], committed=author.mark.lsn)
        assert not rig.follower.stand(proof=True) and not whole
        assert rig.follower.stand(proof=True, broken=True)
        rig.follower.resume(rig.configuration)
        rig.send(*messages[1], committed=author.mark.lsn)
        assert rig.follower.stand(proof=True)
        assert len(whole) == 1

    run(main)


def test_a_learners_log_is_not_applied_below_the_checkpoint_it_was_given() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        before = author.write(b"a", b"b")
        checkpoint = author.mark
        rig.follower = rig.follow(whole=False, checkpoint=checkpoint)
        assert rig.follower.mark == checkpoint
        first = Author()
        rig.send(*first.write(b"a"), committed=BEGINNING.lsn)
        early = rig.follower.status
        assert not early.whole, "what lies below the checkpoint is missing yet"
        rig.send(*before)
        rig.send(*author.write(b"c"), committed=author.mark.lsn)
        assert rig.machine.operations == [b"c"] and rig.follower.status.whole and rig.follower.end == author.mark

    run(main)


def test_a_learners_log_that_does_not_lead_to_its_checkpoint_is_damaged() -> None:
    async def main(rig: Rig) -> None:
        author, other = Author(), Author()
        author.write(b"a", b"b")
        rig.follower = rig.follow(whole=False, checkpoint=author.mark)
        with pytest.raises(Damaged, match="does not lead to the checkpoint"):
            rig.send(*other.write(b"x", b"y", b"z"))
        assert isinstance(rig.follower.failure, Damaged)

    run(main)


def test_it_trims_what_the_coordinator_and_its_own_checkpoint_allow() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        marks = []
        for _ in range(100):
            rig.send(*author.write(b"x", payload=bytes(1000)))
            marks.append(author.mark)
        rig.send(author.mark, b"", stable=author.mark.lsn, start=Lsn(5 * SEGMENT + FIRST))
        assert rig.replica.segments()[0] == 0, "its checkpoint stands at the beginning"
        rig.follower.checkpoint = next(mark for mark in marks if mark.lsn > 3 * SEGMENT + FIRST)
        rig.send(author.mark, b"", stable=author.mark.lsn, start=Lsn(5 * SEGMENT + FIRST))
        assert rig.replica.segments()[0] == 3
        rig.follower.checkpoint = author.mark
        rig.send(author.mark, b"", stable=author.mark.lsn, start=Lsn(5 * SEGMENT + FIRST))
        assert rig.replica.segments()[0] == 5

    run(main)


def test_who_waits_for_something_to_be_stable_is_told_or_told_that_it_never_will_be() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        rig.send(*author.write(b"a"))
        successor = Author(2, author.mark)
        stable = rig.follower.sync_all()
        rig.send(*author.write(b"b"))
        never = rig.follower.sync_all()
        rig.send(author.mark, b"", stable=successor.mark.lsn)
        async with asyncio.timeout(1):
            await stable
        rig.follower.adopt(Configuration(2, (7, 8), coordinator=2))
        rig.send(*successor.write(b"c"), version=2)
        with pytest.raises(Unavailable, match="never committed"):
            await never

    run(main)


def test_what_is_stable_elsewhere_is_waited_for_until_this_disk_has_it() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        rig.files.sync_directory("/")
        rig.send(*author.write(b"a"))
        rig.send(author.mark, b"", stable=author.mark.lsn)  # nobody has asked this copy to sync: it is a learner
        await rig.follower.reach(Lsn(author.mark.lsn - 1))
        left = LocalReplica(rig.files.after_power_loss(), "/log", 77, 7, SEGMENT)
        found: list[bytes] = []
        recover([left], BEGINNING, 1, lambda: False, lambda lsn, operations, address: found.append(operations))
        assert found == [b"a"]

    run(main)


def test_what_records_call_stable_is_not_said_to_be_on_a_disk_of_which_only_the_checkpoint_is_known() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        after, data = author.write(b"a")
        rig.send(after, data)
        again = Follower(
            rig.clock,
            rig.replica,
            rig.machine,
            configuration=rig.configuration,
            end=author.mark,
            stable=author.mark,
            tail=(),
            checkpoint=BEGINNING,
            whole=True,
            settings=SETTINGS,
            read_configuration=rig.read,
        )
        assert again.status.synced == FIRST
        answer = again.sync(Sync(7, 1, author.mark.lsn))
        assert not isinstance(answer, Ack) and again.common == author.mark.lsn
        assert (await answer).synced == author.mark.lsn

    run(main)


def test_what_was_appended_while_the_machine_catches_up_is_applied_once_and_in_order() -> None:
    async def main(rig: Rig) -> None:
        author = Author()
        rig.send(*author.write(*[b"%d" % number for number in range(700)]))
        successor = Author(2, author.mark)
        rig.send(*author.write(b"cut off"))
        rig.follower.adopt(Configuration(2, (7, 8), coordinator=2))
        for number in range(700, 730):
            rig.send(*successor.write(b"%d" % number), version=2)
            await rig.clock.sleep(0)
        while not rig.follower.settled:
            await rig.clock.sleep(0.001)
        rig.send(*successor.write(b"730"), version=2)
        assert rig.machine.operations == [b"%d" % number for number in range(731)]

    run(main)
