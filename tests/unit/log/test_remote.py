"""A log with copies on other nodes: what is acknowledged when, who is left out, the lease, learners, handing over."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from sofs.cluster import NodeId
from sofs.cluster.peers import NetworkPeer
from sofs.errors import Damaged, DiskFailed, Fenced, NotFound, Unavailable
from sofs.log import DamagedRecord
from sofs.log.configuration import BEGINNING, Configuration, LogSettings, Mark
from sofs.log.follower import Follower
from sofs.log.record import encode
from sofs.log.remote import RemoteReplica
from sofs.log.replica import FIRST, LocalReplica
from sofs.log.replicated import ReplicatedLog
from sofs.log.service import LogService
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.types import Level, Lsn
from tests.simulation.cluster_net import SimulatedCluster
from tests.unit.log.support import Machine

SEGMENT = 16 << 10
SETTINGS = LogSettings(SEGMENT, 16 * SEGMENT, sync_interval_s=1.0)
L = SETTINGS.lease.promise_s


class Numbers(Machine):
    def truncate(self, to: Lsn) -> None:
        self.applied.clear()


class Rig:
    """Node 1 coordinates; replica N lies on node N."""

    def __init__(self, cluster: SimulatedCluster, loop: SimulatedLoop) -> None:
        self.cluster = cluster
        self.clock = SimulatedClock(loop)
        self.files = {number: SimulatedFiles(SimulatedRandom(number), latency=Latency(1e-4, 2e-3)) for number in (1, 2, 3)}
        self.replicas: dict[int, LocalReplica] = {}
        self.machines = {number: Numbers() for number in (1, 2, 3)}
        self.services = {number: LogService(cluster[number]) for number in (1, 2, 3)}
        self.followers: dict[int, Follower] = {}
        self.configuration = Configuration(1, (1, 2, 3), coordinator=1)
        self.changes: list[Configuration] = []
        self.away = False
        for number, files in self.files.items():
            files.make_directory("/log")
            self.replicas[number] = LocalReplica(files, "/log", 77, number, SEGMENT)
            self.replicas[number].prepare(0)

    def follow(self, number: int, end: Mark = BEGINNING, checkpoint: Mark = BEGINNING, whole: bool = True) -> Follower:
        follower = self.followers[number] = Follower(
            self.clock,
            self.replicas[number],
            self.machines[number],
            configuration=self.configuration,
            end=end,
            stable=end,
            tail=(),
            checkpoint=checkpoint,
            whole=whole,
            settings=SETTINGS,
            read_configuration=self.read,
        )
        self.services[number].add(follower)
        return follower

    def remote(self, number: int) -> RemoteReplica:
        return RemoteReplica(self.cluster[1].peer(NodeId(number)), self.clock, number, f"node {number}", SETTINGS)

    def lead(self, *others: int) -> ReplicatedLog:
        self.remotes = {number: self.remote(number) for number in others}
        self.configuration = self.configuration._replace(replicas=(1, *others))
        arguments = self.clock, self.machines[1], [self.replicas[1]], self.configuration, self.change, BEGINNING, FIRST, SETTINGS
        self.log = ReplicatedLog(*arguments, list(self.remotes.values()))
        return self.log

    async def read(self) -> Configuration:
        await self.clock.sleep(0.001)
        return self.configuration

    async def change(self, wanted: Configuration) -> None:
        await self.clock.sleep(0.01)
        if self.away:
            raise Unavailable("the store does not answer")
        if wanted.version != self.configuration.version + 1:
            raise Fenced("somebody else changed the configuration")
        self.configuration = wanted
        self.changes.append(wanted)

    def told(self, lsn: Lsn, level: Level = Level.COMMITTED) -> list[float]:
        """When the gate opens."""
        heard: list[float] = []
        self.log.when(lsn, level, lambda: heard.append(self.clock.monotonic()))
        return heard

    async def reach(self, lsn: Lsn, level: Level = Level.COMMITTED) -> None:
        heard = self.told(lsn, level)
        while not heard:
            await self.clock.sleep(1e-3)

    def cut(self, number: int) -> None:
        self.cluster.part(1, number)

    def heal(self, number: int) -> None:
        self.cluster.heal(1, number)


def run(main: Callable[[Rig], Coroutine[Any, Any, None]], standbys: tuple[int, ...] = (2, 3)) -> None:
    async def start(loop: SimulatedLoop) -> None:
        cluster = await SimulatedCluster.start(loop, 3)
        rig = Rig(cluster, loop)
        for number in standbys:
            rig.follow(number)
        rig.lead(*standbys)
        if standbys:
            await rig.log.establish()
        await main(rig)
        await rig.log.close()
        for follower in rig.followers.values():
            follower.close()
        await cluster.close()

    simulate(start)


def test_what_all_have_is_committed_and_what_all_have_synced_is_stable() -> None:
    async def main(rig: Rig) -> None:
        lsn = rig.log.append(b"a", [b"payload"])
        committed, stable = rig.told(lsn), rig.told(lsn, Level.STABLE)
        await rig.clock.sleep(0)
        assert not committed, "no answer can have come yet"
        await rig.reach(lsn, Level.STABLE)
        assert committed[0] <= stable[0]
        for number in (2, 3):
            assert rig.machines[number].operations == rig.machines[1].operations == [b"a"]
            assert rig.followers[number].status.synced >= rig.log.stable
        assert rig.log.replicas == 3 and rig.log.serving()

    run(main)


def test_records_of_several_ticks_are_on_their_way_at_once() -> None:
    async def main(rig: Rig) -> None:
        lsns = []
        for number in range(50):
            lsns.append(rig.log.append(b"%d" % number))
            await asyncio.sleep(0)
        assert rig.log.committed <= lsns[0]
        begun = rig.clock.monotonic()
        await rig.reach(lsns[-1])
        assert rig.clock.monotonic() - begun < 0.01, "fifty round trips take longer"
        assert rig.machines[2].operations == [b"%d" % number for number in range(50)]

    run(main)


def test_who_does_not_answer_for_a_second_is_left_out_before_anything_more_is_acknowledged() -> None:
    async def main(rig: Rig) -> None:
        rig.cut(3)
        begun = rig.clock.monotonic()
        told = rig.told(rig.log.append(b"a"))
        while not told:
            await rig.clock.sleep(0.01)
            assert not told or rig.configuration.replicas == (1, 2)
        assert 0.7 < told[0] - begun < 1.6
        assert rig.log.replica_ids == (1, 2) and rig.log.version == 2
        await rig.reach(rig.log.append(b"b"), Level.STABLE)
        assert rig.followers[2].version == 2, "the other one has learned of it"

    run(main)


def test_while_the_store_is_away_nobody_is_left_out_and_nothing_is_served_once_promises_have_run_out() -> None:
    async def main(rig: Rig) -> None:
        rig.away = True
        rig.cut(3)
        told = rig.told(rig.log.append(b"a"))
        await rig.clock.sleep(2.0)
        assert rig.log.serving() and not told
        await rig.clock.sleep(L)
        read = rig.told(Lsn(0))
        assert not rig.log.serving() and not told and not read
        rig.away = False
        await rig.clock.sleep(1.0)
        assert told and read and rig.log.serving()

    run(main)


def test_what_answers_again_is_waited_for_although_it_is_being_left_out() -> None:
    async def main(rig: Rig) -> None:
        rig.away = True
        rig.cut(3)
        told = rig.told(rig.log.append(b"a"), Level.STABLE)
        await rig.clock.sleep(L + 2)
        assert not rig.log.serving() and not told
        rig.heal(3)
        await rig.clock.sleep(6)
        assert rig.log.serving() and told and rig.machines[3].operations == [b"a"]
        await rig.reach(rig.log.append(b"b"), Level.STABLE)
        assert rig.machines[3].operations == [b"a", b"b"] and not rig.changes
        rig.away = False
        await rig.clock.sleep(1)
        assert rig.log.replica_ids == (1, 2) and rig.log.serving()

    run(main)


def test_a_connection_that_is_had_back_in_time_costs_nobody_its_place() -> None:
    async def main(rig: Rig) -> None:
        for number in range(30):
            told = rig.told(rig.log.append(b"%d" % number))
            if number % 5 == 0:
                rig.cluster.lose(1, 2)
            while not told:
                await rig.clock.sleep(0.001)
        assert not rig.changes
        assert rig.machines[2].operations == rig.machines[3].operations == [b"%d" % number for number in range(30)]

    run(main)


def test_idle_standbys_are_beaconed_and_promise_on() -> None:
    async def main(rig: Rig) -> None:
        for _ in range(200):
            await rig.clock.sleep(0.1)
            assert rig.log.serving()
            for number in (2, 3):
                assert rig.followers[number].promised_until >= rig.remotes[number].promised_until + 0.009
        assert not rig.changes

    run(main)


def test_a_failed_disk_elsewhere_is_left_out_at_once() -> None:
    async def main(rig: Rig) -> None:
        rig.files[3].fail("sync", "/log", DiskFailed, times=1)
        begun = rig.clock.monotonic()
        await rig.reach(rig.log.append(b"a"), Level.STABLE)
        assert rig.clock.monotonic() - begun < 0.5 and rig.log.replica_ids == (1, 2)

    run(main)


def test_a_failed_disk_here_ends_the_log_and_records_nothing() -> None:
    async def main(rig: Rig) -> None:
        failures: list[Exception] = []
        rig.log.on_failure = failures.append
        rig.files[1].fail("sync", "/log", DiskFailed, times=1)
        told = rig.told(rig.log.append(b"a"), Level.STABLE)
        await rig.clock.sleep(2)
        assert isinstance(failures[0], DiskFailed) and not told and not rig.changes and not rig.log.serving()

    run(main)


def test_nobody_joins_a_log_that_has_failed() -> None:
    async def main(rig: Rig) -> None:
        await rig.log.close()
        with pytest.raises(Unavailable):
            rig.log.join(rig.remote(2))
        with pytest.raises(Unavailable):
            await rig.log.hold()

    run(main)


def test_whoever_obeys_a_newer_configuration_ends_the_log() -> None:
    async def main(rig: Rig) -> None:
        rig.configuration = Configuration(5, (2, 3), coordinator=2)
        rig.followers[3].adopt(rig.configuration)
        told = rig.told(rig.log.append(b"a"))
        await rig.clock.sleep(2)
        assert isinstance(rig.log.failure, Fenced) and not told and not rig.changes
        with pytest.raises(Unavailable):
            rig.log.append(b"b")

    run(main)


def test_a_learner_is_caught_up_and_counts_once_it_lacks_nothing() -> None:
    async def main(rig: Rig) -> None:
        for number in range(40):
            rig.log.append(b"%d" % number, [bytes(1000)])
            await rig.clock.sleep(0)
        await rig.log.sync()
        rig.follow(2, whole=False)
        remote = rig.remote(2)
        rig.log.join(remote)
        joining = asyncio.ensure_future(rig.log.promote(remote))
        for number in range(40, 80):
            await rig.reach(rig.log.append(b"%d" % number))
        await joining
        assert rig.configuration.replicas == (1, 2) and rig.followers[2].whole
        assert rig.followers[2].status.synced >= rig.log.stable
        await rig.reach(rig.log.append(b"80"), Level.STABLE)
        assert rig.machines[2].operations == [b"%d" % number for number in range(81)]

    run(main, standbys=())


def test_a_learner_whose_last_position_is_no_longer_in_the_log_has_to_be_made_anew() -> None:
    async def main(rig: Rig) -> None:
        for number in range(60):
            rig.log.append(b"%d" % number, [bytes(1000)])
        await rig.log.sync()
        rig.log.trim(rig.log.end)
        rig.log.append(b"60")
        rig.follow(2, whole=False)
        remote = rig.remote(2)
        rig.log.join(remote)
        with pytest.raises(Unavailable):
            await rig.log.promote(remote)
        assert remote.uncovered and rig.log.serving()

        hold, origin = await rig.log.hold()
        checkpoint = rig.log.mark
        rig.services[2].remove(2)
        rig.replicas[2].trim(1 << 40)
        for number in range(61, 100):
            rig.log.append(b"%d" % number, [bytes(1000)])
        await rig.log.sync()
        rig.log.trim(rig.log.end)
        assert rig.log.start <= origin.lsn, "it is held"
        rig.follow(2, end=origin, checkpoint=checkpoint, whole=False)
        remote = rig.remote(2)
        rig.log.join(remote)
        hold.release()
        await rig.log.promote(remote)
        assert rig.machines[2].operations == [b"%d" % number for number in range(61, 100)]
        data = bytearray(1000)
        waiting = rig.log.read(rig.machines[1].applied[-1][2], memoryview(data), 1)
        assert waiting is not None
        await waiting
        assert data == bytes(1000)

    run(main, standbys=())


def test_a_copy_that_has_lost_what_it_was_sent_is_sent_all_of_it_again_whenever_that_happens() -> None:
    async def main(rig: Rig) -> None:
        for number in range(14):
            rig.log.append(b"%d" % number, [bytes(10 << 10)])
        await rig.log.sync()
        rig.follow(3, whole=False)
        remote = rig.remote(3)
        rig.log.join(remote)
        for number in range(15):
            await rig.clock.sleep(0.001)
            rig.files[3].make_directory(f"/anew{number}")
            rig.replicas[3] = LocalReplica(rig.files[3], f"/anew{number}", 77, 3, SEGMENT)
            rig.replicas[3].prepare(0)
            rig.machines[3].applied.clear()
            rig.follow(3, whole=False)
        await rig.clock.sleep(SETTINGS.lease.beacon_s)  # with which it is noticed
        async with asyncio.timeout(2):
            await rig.log.promote(remote)
        assert rig.machines[3].operations == rig.machines[1].operations

    run(main, standbys=(2,))


def test_who_has_left_is_told_of_no_connection_any_more() -> None:
    async def main(rig: Rig) -> None:
        peer = rig.cluster[1].peer(NodeId(3))
        assert isinstance(peer, NetworkPeer)
        before = len(peer._watchers)
        for _ in range(5):
            remote = rig.remote(3)
            rig.log.join(remote)
            await rig.clock.sleep(0.1)
            rig.log.leave(remote)
        assert len(peer._watchers) == before

    run(main, standbys=(2,))


def test_nobody_holds_up_the_logs_space_for_long() -> None:
    async def main(rig: Rig) -> None:
        hold, _ = await rig.log.hold()
        for number in range(100):
            rig.log.append(b"%d" % number, [bytes(1000)])
            await rig.log.sync()
            rig.log.trim(rig.log.end)
        assert hold.broken and rig.log.start > 5 * SEGMENT

    run(main, standbys=())


def test_other_copies_can_be_read_and_mended() -> None:
    async def main(rig: Rig) -> None:
        rig.log.append(b"a", [b"payload!" * 100])
        await rig.log.sync()
        address = rig.machines[1].applied[0][2]
        rig.files[3].flip("/log/0000000000000000", address + 5)
        found = []
        for replica in range(3):
            data = bytearray(800)
            waiting = rig.log.read(address, memoryview(data), replica)
            if waiting is not None:
                await waiting
            found.append(bytes(data) == b"payload!" * 100)
        assert found == [True, True, False]
        rig.log.rewrite(address, b"payload!" * 100, 2)
        await rig.clock.sleep(0.1)
        data = bytearray(800)
        rig.replicas[3].read_now(address, memoryview(data))
        assert data == b"payload!" * 100

    run(main)


def test_a_record_that_is_damaged_here_is_fetched_from_another_node() -> None:
    async def main(rig: Rig) -> None:
        for number in range(10):
            rig.log.append(b"%d" % number, [b"payload!" * 10])
        await rig.log.sync()
        damaged = rig.machines[1].applied[4][0]
        rig.files[1].flip("/log/0000000000000000", damaged + 20)
        with pytest.raises(DamagedRecord) as found:
            list(rig.log.scan(FIRST, rig.log.stable))
        assert found.value.lsn == damaged
        assert not await rig.log.mend(damaged, previous=1), "one that does not follow the record before is none"
        assert await rig.log.mend(damaged)
        assert len([record for record in rig.log.scan(FIRST, rig.log.stable) if record.operations]) == 10

    run(main)


def test_a_learner_is_caught_up_although_a_record_is_damaged_here() -> None:
    async def main(rig: Rig) -> None:
        for number in range(10):
            rig.log.append(b"%d" % number, [b"payload!" * 10])
        await rig.log.sync()
        rig.files[1].flip("/log/0000000000000000", rig.machines[1].applied[4][0] + 20)
        rig.follow(3, whole=False)
        remote = rig.remote(3)
        rig.log.join(remote)
        await rig.log.promote(remote)
        assert rig.machines[3].operations == rig.machines[1].operations and rig.log.replicas == 3

    run(main, standbys=(2,))


def test_what_is_damaged_here_and_not_stable_comes_from_where_the_chain_of_checksums_leads_on() -> None:
    async def main(rig: Rig) -> None:
        for number in range(9):
            rig.log.append(b"%d" % number, [b"payload!" * 10])
        await rig.reach(rig.log.append(b"9", [b"payload!" * 10]))
        assert rig.log.stable <= rig.machines[1].applied[4][0]
        for number in (4, 5, 6):
            rig.files[1].flip("/log/0000000000000000", rig.machines[1].applied[number][0] + 20)
        # The second one has been started anew, and lost what it had.
        rig.followers[2].close()
        rig.files[2].make_directory("/anew")
        rig.replicas[2] = LocalReplica(rig.files[2], "/anew", 77, 2, SEGMENT)
        rig.replicas[2].prepare(0)
        rig.machines[2].applied.clear()
        rig.follow(2, whole=False)
        await rig.log.sync()
        await rig.clock.sleep(0.5)
        assert rig.machines[2].operations == rig.machines[1].operations
        assert rig.log.replica_ids == (1, 2, 3) and rig.log.serving()

    run(main)


def test_where_what_nobody_has_yet_is_damaged_here_the_copy_here_is_given_up_and_not_the_good_one() -> None:
    async def main(rig: Rig) -> None:
        await rig.reach(rig.log.append(b"a"), Level.STABLE)
        end = rig.followers[2].end
        rig.followers[2].close()
        told = rig.told(rig.log.append(b"b", [b"payload!" * 10]))
        rig.log.append(b"c", [b"payload!" * 10])
        await rig.clock.sleep(0.01)
        rig.files[1].flip("/log/0000000000000000", rig.machines[1].applied[1][0] + 20)
        rig.follow(2, end=end)
        await rig.clock.sleep(L + 1)
        assert isinstance(rig.log.failure, Damaged) and not told
        assert not rig.changes, "who has all that was acknowledged may take over"
        assert rig.followers[2].stand()

    run(main, standbys=(2,))


def test_what_another_has_in_the_place_of_a_damaged_record_is_not_taken_for_it() -> None:
    """A copy that was the coordinator's of an earlier configuration may have records that nobody else ever got."""

    async def main(rig: Rig) -> None:
        await rig.reach(rig.log.append(b"a"), Level.STABLE)
        mark = rig.log.mark
        _, other = encode(mark.lsn, mark.lsn, mark.version, mark.checksum, b"of another", 0, 0)
        rig.replicas[2].write(mark.lsn, [other])
        for number in range(3):
            rig.log.append(b"%d" % number)
        rig.followers[2].close()
        rig.files[1].flip("/log/0000000000000000", mark.lsn + 20)
        assert not await rig.log.mend(mark.lsn, mark.checksum)

    run(main, standbys=(2,))


def test_a_handed_over_log_is_stable_everywhere_and_serves_no_more() -> None:
    async def main(rig: Rig) -> None:
        adopted: list[Configuration] = []
        rig.followers[2].on_adopted = adopted.append
        told = rig.told(rig.log.append(b"a"), Level.STABLE)
        with capture_logs() as said:
            await rig.log.hand_over(Configuration(0, (), coordinator=2, incarnation=22))
        assert not [line for line in said if line["log_level"] == "error"], "nothing has failed"
        assert told, "what was asked before is answered"
        assert not rig.log.serving() and isinstance(rig.log.failure, Fenced)
        assert rig.configuration == Configuration(2, (1, 2, 3), coordinator=2, incarnation=22)
        follower = rig.followers[2]
        follower.adopt(rig.configuration)
        assert follower.stand(proof=True) and follower.status.synced == follower.end.lsn

    run(main)


def test_what_is_still_at_work_appends_nothing_behind_what_is_handed_over() -> None:
    """It would be acknowledged to nobody: whoever asked is to ask the next coordinator."""

    async def main(rig: Rig) -> None:
        rig.log.append(b"a")
        going = asyncio.ensure_future(rig.log.hand_over(Configuration(0, (), coordinator=2, incarnation=22)))
        await rig.clock.sleep(0)
        end = rig.log.end
        with pytest.raises(Unavailable, match="handed over"):
            rig.log.append(b"b")
        with pytest.raises(Unavailable, match="handed over"):
            await rig.log.hand_over(Configuration(0, (), coordinator=3, incarnation=33))
        await going
        assert rig.log.end == rig.log.stable == end

    run(main)


def test_who_loses_its_own_disk_does_not_take_out_the_others_that_it_was_about_to_leave_out() -> None:
    """They are in the configuration in force, have everything that was acknowledged, and may take over."""

    async def main(rig: Rig) -> None:
        await rig.reach(rig.log.append(b"a"), Level.STABLE)
        rig.away = True
        rig.cut(2)
        rig.log.append(b"b")
        await rig.clock.sleep(2)
        assert rig.log.replica_ids == (1,), "left out here, and not yet in the store"
        for operation in ("write", "sync"):
            rig.files[1].fail(operation, "/log")
        rig.log.append(b"c")
        await rig.clock.sleep(0.1)
        assert rig.log.failure is not None
        rig.away = False
        await rig.clock.sleep(5)
        assert not rig.changes and rig.followers[2].stand()

    run(main, standbys=(2,))


@pytest.mark.parametrize(("ends", "most"), [(True, 0.1), (False, 1.2)])
def test_a_learner_that_goes_away_in_the_last_moment_holds_nobody_up_for_long(ends: bool, most: float) -> None:
    async def main(rig: Rig) -> None:
        async def look() -> None:
            if ends:
                rig.followers[3].close()
            else:
                rig.cut(3)
            await rig.reach(rig.log.append(b"what it lacks"))

        rig.log.look = look
        rig.follow(3, whole=False)
        remote = rig.remote(3)
        rig.log.join(remote)
        promoting = asyncio.ensure_future(rig.log.promote(remote))
        began, longest = rig.clock.monotonic(), 0.0
        while rig.clock.monotonic() < began + 15:
            before = rig.clock.monotonic()
            await rig.reach(rig.log.append(b"a"))
            longest = max(longest, rig.clock.monotonic() - before)
            await rig.clock.sleep(0.01)
        with pytest.raises(Unavailable):
            await promoting
        assert longest < most

    run(main, standbys=(2,))


def test_nothing_pauses_for_a_change_while_the_store_is_away() -> None:
    async def main(rig: Rig) -> None:
        async def look() -> None:
            if rig.away:
                raise Unavailable("the store does not answer")

        rig.log.look = look
        rig.away = True
        rig.follow(3, whole=False)
        remote = rig.remote(3)
        rig.log.join(remote)
        with pytest.raises(Unavailable, match="store"):
            async with asyncio.timeout(30):
                await rig.log.promote(remote)
        rig.log.leave(remote)
        with pytest.raises(Unavailable, match="store"):
            async with asyncio.timeout(30):
                await rig.log.hand_over(Configuration(0, (2,), coordinator=2, incarnation=22))
        async with asyncio.timeout(1):
            await rig.reach(rig.log.append(b"a"), Level.STABLE)
        assert rig.log.serving() and rig.log.replica_ids == (1, 2)

    run(main, standbys=(2,))


def test_nothing_is_handed_over_to_a_copy_that_has_been_left_out_or_is_slow() -> None:
    async def main(rig: Rig) -> None:
        rig.cut(2)
        rig.log.append(b"a")
        with pytest.raises(Unavailable, match="left out"):
            await rig.log.hand_over(Configuration(0, (2,), coordinator=2, incarnation=22))
        rig.away = True
        rig.cut(3)
        rig.log.append(b"b")
        with pytest.raises(Unavailable, match="stable"):
            await rig.log.hand_over(Configuration(0, (3,), coordinator=3, incarnation=33))
        rig.away = False
        rig.heal(3)
        await rig.reach(rig.log.append(b"c"), Level.STABLE)
        assert rig.configuration.coordinator == 1

    run(main)


def test_a_standby_takes_over_with_its_own_log_and_the_others_are_brought_to_it() -> None:
    async def main(rig: Rig) -> None:
        for number in range(5):
            await rig.reach(rig.log.append(b"%d" % number))
        # Node 3 gets what node 2 does not, and nobody is told of it; then the coordinator is gone.
        rig.cut(2)
        rig.away = True
        rig.log.append(b"only at 3")
        await rig.clock.sleep(0.1)
        assert rig.machines[3].operations[-1] == b"only at 3"
        rig.cut(3)
        await rig.clock.sleep(L + 1)
        assert not rig.log.serving()

        follower = rig.followers[2]
        assert follower.stand()
        wanted = rig.configuration._replace(version=2, replicas=(2, 3), coordinator=2)
        rig.away = False
        await rig.change(wanted)
        lead = follower.retire()
        rig.services[2].remove(2)
        remote = RemoteReplica(rig.cluster[2].peer(NodeId(3)), rig.clock, 3, "node 3", SETTINGS)
        log = ReplicatedLog(rig.clock, rig.machines[2], [lead.replica], wanted, rig.change, lead.end, lead.stable, SETTINGS, [remote])
        assert not log.serving()
        await log.establish()
        assert log.serving() and log.replica_ids == (2, 3)
        log.append(b"after")
        await log.sync()
        while not rig.followers[3].settled:
            await rig.clock.sleep(0.001)
        assert rig.machines[3].operations == rig.machines[2].operations == [*(b"%d" % number for number in range(5)), b"after"]
        await log.close()
        with pytest.raises(Unavailable, match="somebody else changed"):
            await rig.log.sync()

    run(main)


def test_what_nobody_follows_with_is_not_found() -> None:
    async def main(rig: Rig) -> None:
        with pytest.raises(NotFound):
            await rig.services[1].status(NodeId(2), 99)
        status = await rig.services[1].status(NodeId(2), 2)
        assert (status.version, status.end) == (1, rig.followers[2].end) and status.whole

    run(main)
