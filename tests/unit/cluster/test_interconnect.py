"""Calls between nodes, over a simulated network and its faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sofs.cluster import Answer, Asked, Interconnect, NodeId, Outcome, Priority
from sofs.cluster import stream as streams
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.errors import Fenced, NotFound, NotSupported, PeerError, SofsError, SymlinkInPath, Unavailable
from sofs.runtime.ports import Connection
from sofs.runtime.simulated_loop import SimulatedLoop, simulate
from sofs.types import Lsn
from tests.simulation.cluster_net import PORT, SimulatedCluster

ONE, TWO, THREE = NodeId(1), NodeId(2), NodeId(3)


def on_cluster(main: Callable[[SimulatedCluster], Coroutine[Any, Any, None]], count: int = 2, **options: int) -> None:
    async def run(loop: SimulatedLoop) -> None:
        cluster = await SimulatedCluster.start(loop, count, **options)
        await main(cluster)
        await cluster.close()

    simulate(run)


def echo(asked: Asked) -> Answer:
    return Answer(b"<" + asked.body + b">", (bytes(asked.payload),) if asked.payload else ())


def test_the_class_is_what_the_interface_says() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        one: Interconnect = cluster[1]
        assert one.node == ONE

    on_cluster(main)


@pytest.mark.parametrize("node", [ONE, TWO], ids=["itself", "another"])
def test_an_answer_comes_back_with_body_and_payload(node: NodeId) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster[node].serve("echo", echo)
        peer = cluster[1].peer(node)
        for size in (0, 1, 70_000, 3 << 20):
            payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
            half = size // 2
            answer = await peer.call("echo", b"body", (payload[:half], memoryview(payload)[half:]))
            assert bytes(answer.body) == b"<body>"
            assert b"".join(answer.payload) == payload
            assert len(answer.payload) == (1 if size else 0)

    on_cluster(main)


@pytest.mark.parametrize("node", [ONE, TWO], ids=["itself", "another"])
def test_a_handler_that_waits_answers_later_and_holds_nobody_up(node: NodeId) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        go = asyncio.Event()

        async def slow(asked: Asked) -> Answer:
            body = bytes(asked.body)
            await go.wait()
            return Answer(b"slow " + body)

        cluster[node].serve("slow", lambda asked: later(slow, asked))
        cluster[node].serve("echo", echo)
        peer = cluster[1].peer(node)
        waiting = asyncio.ensure_future(peer.call("slow", b"x"))
        assert bytes((await peer.call("echo", b"y")).body) == b"<y>"
        assert not waiting.done()
        go.set()
        assert bytes((await waiting).body) == b"slow x"

    def later(slow: Callable[[Asked], Coroutine[Any, Any, Answer]], asked: Asked) -> Coroutine[Any, Any, Answer]:
        # What is needed behind the synchronous part is copied there.
        return slow(asked._replace(body=memoryview(bytes(asked.body))))

    on_cluster(main)


@pytest.mark.parametrize("node", [ONE, TWO], ids=["itself", "another"])
def test_what_a_handler_raises_is_what_the_caller_gets(node: NodeId) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        def failing(asked: Asked) -> Answer:
            error: Exception
            match bytes(asked.body):
                case b"gate":
                    error = NotFound("no such name")
                    error.gate = Lsn(4711)
                case b"link":
                    error = SymlinkInPath(b"/target", 7, True)
                case b"bug":
                    error = ZeroDivisionError("ours")
                case _:
                    error = Fenced("version 3 is over")
            raise error

        async def waiting(asked: Asked) -> Answer:
            await asyncio.sleep(0.01)
            raise Fenced("later")

        cluster[node].serve("failing", failing)
        cluster[node].serve("waiting", waiting)
        peer = cluster[1].peer(node)
        with pytest.raises(NotFound, match="no such name") as found:
            await peer.call("failing", b"gate")
        assert found.value.gate == 4711
        with pytest.raises(SymlinkInPath) as link:
            await peer.call("failing", b"link")
        assert (link.value.target, link.value.unparsed, link.value.relative) == (b"/target", 7, True)
        with pytest.raises(Fenced, match="version 3"):
            await peer.call("failing", b"")
        with pytest.raises(Unavailable):
            await peer.call("failing", b"bug")
        with pytest.raises(Fenced, match="later"):
            await peer.call("waiting", b"")
        with pytest.raises(NotSupported, match="nothing"):
            await peer.call("nothing", b"")
        cluster[node].complete = False
        with pytest.raises(Unavailable, match="starting"):
            await peer.call("nothing", b"")

    on_cluster(main)


@pytest.mark.parametrize("node", [ONE, TWO], ids=["itself", "another"])
def test_messages_of_one_priority_arrive_in_the_order_of_their_calls(node: NodeId) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        seen: list[int] = []

        def note(asked: Asked) -> Answer:
            seen.append(int(bytes(asked.body)))
            return Answer(b"")

        cluster[node].serve("note", note)
        peer = cluster[1].peer(node)
        calls = []
        for number in range(500):
            if number % 7 == 0:
                peer.notify("note", b"%d" % number)
            else:
                calls.append(peer.call("note", b"%d" % number, (bytes(number * 97 % 5000),)))
        await asyncio.gather(*calls)
        assert seen == list(range(500))

    on_cluster(main)


@pytest.mark.parametrize("node", [ONE, TWO], ids=["itself", "another"])
def test_one_callback_that_fails_keeps_no_other_from_its_answer(node: NodeId) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster[node].serve("echo", echo)
        peer = cluster[1].peer(node)
        told: list[Outcome] = []

        def broken(outcome: Outcome) -> None:
            raise ZeroDivisionError("ours")

        for then in (told.append, broken, told.append, broken, told.append):
            peer.ask("echo", b"x", (), then)
        await asyncio.sleep(1)
        assert len(told) == 3

    on_cluster(main)


def test_callbacks_get_answers_without_a_future() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster[2].serve("echo", echo)
        peer = cluster[1].peer(TWO)
        outcomes: list[Outcome] = []
        bodies: list[bytes] = []

        def then(outcome: Outcome) -> None:
            outcomes.append(outcome)
            if isinstance(outcome, Answer):
                bodies.append(bytes(outcome.body))

        peer.ask("echo", b"a", (), then)
        peer.ask("none", b"b", (), then)
        assert outcomes == []
        await asyncio.sleep(1)
        assert bodies == [b"<a>"] and isinstance(outcomes[1], NotSupported)

    on_cluster(main)


def test_a_call_ends_at_its_deadline_and_others_go_on() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        async def never(asked: Asked) -> Answer:
            await asyncio.Event().wait()
            raise AssertionError

        cluster[2].serve("never", never)
        cluster[2].serve("echo", echo)
        peer = cluster[1].peer(TWO)
        start = cluster.loop.time()
        long = asyncio.ensure_future(peer.call("never", b"", deadline_s=60))
        with pytest.raises(Unavailable, match="in time"):
            await peer.call("never", b"", deadline_s=1)
        assert 1 <= cluster.loop.time() - start < 1.1
        assert bytes((await peer.call("echo", b"")).body) == b"<>"
        # A handler that waits long is no reason to give the connection up: pings are answered.
        await asyncio.sleep(50)
        assert peer.connected and not long.done()
        with pytest.raises(Unavailable, match="in time"):
            await long
        assert 60 <= cluster.loop.time() - start < 60.1

    on_cluster(main)


def test_who_is_no_member_and_who_does_not_listen_cannot_be_reached() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        with pytest.raises(Unavailable, match="no member"):
            await cluster[1].peer(NodeId(77)).call("echo", b"", deadline_s=60)
        cluster.crash(2)
        start = cluster.loop.time()
        with pytest.raises(Unavailable, match="refused"):
            await cluster[1].peer(TWO).call("echo", b"", deadline_s=60)
        assert cluster.loop.time() - start < 1, "a refusal is known at once"

    on_cluster(main)


def test_a_broken_connection_ends_the_calls_under_way_and_is_made_again() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        go = asyncio.Event()

        async def wait(asked: Asked) -> Answer:
            await go.wait()
            return Answer(b"")

        cluster[2].serve("wait", wait)
        cluster[2].serve("echo", echo)
        peer = cluster[1].peer(TWO)
        changes: list[bool] = []
        peer.on_change(changes.append)
        call = asyncio.ensure_future(peer.call("wait", b"", deadline_s=60))
        await asyncio.sleep(0.1)
        cluster.lose(1, 2)
        with pytest.raises(Unavailable, match="broke"):
            await call
        assert bytes((await peer.call("echo", b"")).body) == b"<>"
        assert changes == [True, False, True]

    on_cluster(main)


def test_a_peer_that_starts_anew_is_known_by_its_new_incarnation() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster[2].serve("echo", echo)
        peer = cluster[1].peer(TWO)
        assert peer.incarnation == 0
        await peer.call("echo", b"")
        first = cluster[2].incarnation
        assert peer.incarnation == first
        cluster.crash(2)
        await asyncio.sleep(30)
        assert not peer.connected
        new = await cluster.open(2)
        new.serve("echo", echo)
        start = cluster.loop.time()
        assert bytes((await peer.call("echo", b"")).body) == b"<>"
        assert cluster.loop.time() - start < 0.1, "a call does not wait for the pause between attempts"
        assert peer.incarnation == new.incarnation != first

    on_cluster(main)


def test_a_peer_that_is_heard_of_is_connected_to_without_a_call() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster[2].serve("echo", echo)
        cluster[1].serve("echo", echo)
        peer = cluster[1].peer(TWO)
        await peer.call("echo", b"")
        cluster.crash(2)
        await asyncio.sleep(60)
        new = await cluster.open(2)
        await new.peer(ONE).call("echo", b"")
        await asyncio.sleep(0.1)
        assert peer.connected and peer.incarnation == new.incarnation

    on_cluster(main)


@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.01, 0.019, 0.03])
def test_a_peer_that_is_heard_of_right_after_a_failed_attempt_is_connected_to_at_once(after_s: float) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        peer = cluster[1].peer(TWO)
        cluster.crash(2)
        for _ in range(8):  # the pauses have become long
            with pytest.raises(Unavailable):
                await peer.call("echo", b"", deadline_s=60)
            await asyncio.sleep(3)
        with pytest.raises(Unavailable):
            await peer.call("echo", b"", deadline_s=60)
        await asyncio.sleep(after_s)
        (await cluster.open(2)).serve("echo", echo)
        cluster[1].peer(TWO).heard_of(cluster[2].incarnation)  # type: ignore[union-attr]  # another node
        await asyncio.sleep(0.1)
        assert peer.connected

    on_cluster(main)


def test_a_peer_that_is_heard_of_during_an_attempt_is_tried_again_at_once() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        peer = cluster[1].peer(TWO)
        cluster.part(1, 2)
        call = asyncio.ensure_future(peer.call("echo", b"", deadline_s=60))
        await asyncio.sleep(streams.CONNECT_S / 2)
        cluster.heal(1, 2)
        cluster[2].serve("echo", echo)
        cluster[1].peer(TWO).heard_of(cluster[2].incarnation)  # type: ignore[union-attr]  # another node
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert peer.connected

    on_cluster(main)


def test_a_peer_whose_host_takes_connections_and_whose_process_does_not_answer_is_tried_at_each_address_and_given_up() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster.members.add(TWO)
        ends: list[Mute] = []

        class Mute:
            def __init__(self, connection: Connection) -> None:
                self.connection = connection
                ends.append(self)

            def received(self, data: memoryview) -> None:
                pass

            def closed(self, reason: str) -> None:
                pass

        for cable in (0, 1):
            await cluster.network.host(cluster.address(2, cable)).listen(cluster.address(2, cable), PORT, Mute)
        began = cluster.loop.time()
        with pytest.raises(Unavailable, match=r"no answer; .*no answer"):
            await cluster[1].peer(TWO).call("echo", b"", deadline_s=60)
        assert cluster.loop.time() - began < 3 * streams.CONNECT_S
        assert len(ends) == 2

    on_cluster(main, 1, cables=2)


def test_a_silent_peer_is_given_up_and_found_again_when_the_partition_heals() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster[2].serve("echo", echo)
        peer = cluster[1].peer(TWO)
        await peer.call("echo", b"")
        cluster.part(1, 2)
        with pytest.raises(Unavailable):
            await peer.call("echo", b"", deadline_s=1)
        await asyncio.sleep(5)
        assert not peer.connected
        with pytest.raises(Unavailable):
            await peer.call("echo", b"", deadline_s=1)
        cluster.heal(1, 2)
        await asyncio.sleep(10)
        assert peer.connected
        assert bytes((await peer.call("echo", b"", deadline_s=1)).body) == b"<>"

    on_cluster(main)


def test_nothing_sent_before_a_break_arrives_after_what_is_sent_later() -> None:
    """A partition holds messages back; the caller gives the connection up and connects anew; both arrive when it heals."""

    async def main(cluster: SimulatedCluster) -> None:
        seen: list[int] = []

        def note(asked: Asked) -> Answer:
            seen.append(int(bytes(asked.body)))
            return Answer(b"")

        cluster[2].serve("note", note)
        peer = cluster[1].peer(TWO)
        for number in range(3000):
            peer.notify("note", b"%d" % number)
            if cluster.random.chance(0.02):
                cluster.lose(1, 2)
            if cluster.random.chance(0.01):
                cluster.part(1, 2)
                await asyncio.sleep(cluster.random.fraction() * 10)
                cluster.heal(1, 2)
            await asyncio.sleep(cluster.random.fraction() * 0.002)
        await asyncio.sleep(10)
        assert len(seen) > 300, "a third arrives on average, depending on how long the breaks are"
        assert seen == sorted(set(seen))

    for seed in range(5):
        on_cluster(main, seed=seed)


def test_several_cables_are_used_together_and_in_turn() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster[2].serve("echo", echo)
        peer = cluster[1].peer(TWO)
        for priority in Priority:
            await peer.call("echo", b"", priority=priority)
        used = {link.place for link in cluster[2]._links}
        assert used == {"10.0.0.1", "10.1.0.1"} or len({place.split(".")[1] for place in used}) == 2
        for priority in Priority:
            cluster.part(1, 2, cable=0)
            await asyncio.sleep(10)
            assert bytes((await peer.call("echo", b"", priority=priority)).body) == b"<>"

    on_cluster(main, cables=2)


def test_priorities_do_not_wait_for_each_other() -> None:
    """Each has a connection of its own; what is held up on one cable does not hold up the others."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster[2].serve("echo", echo)
        peer = cluster[1].peer(TWO)
        for priority in Priority:
            await peer.call("echo", b"", priority=priority)
        cluster.part(1, 2, cable=0)
        outcomes = await asyncio.gather(
            *(asyncio.ensure_future(peer.call("echo", b"", priority=priority, deadline_s=1)) for priority in Priority), return_exceptions=True
        )
        assert sorted(isinstance(outcome, Unavailable) for outcome in outcomes) in ([False, False, True], [False, True, True])

    on_cluster(main, cables=2)


def test_what_is_under_way_is_bounded_and_the_rest_waits_then_is_refused() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        go = asyncio.Event()
        arrived = 0

        async def wait(asked: Asked) -> Answer:
            nonlocal arrived
            arrived += 1
            await go.wait()
            return Answer(b"")

        cluster[2].serve("wait", wait)
        peer = cluster[1].peer(TWO)
        piece = bytes(1 << 20)
        calls = [asyncio.ensure_future(peer.call("wait", b"", (piece,), priority=Priority.REBUILD, deadline_s=60)) for _ in range(100)]
        await asyncio.sleep(1)
        # Before there was a connection all had to wait. With their heads one less of them fits into each bound.
        assert arrived == streams.UNDER_WAY[Priority.REBUILD] // len(piece) - 1
        refused = [call for call in calls if call.done()]
        assert len(refused) == 100 - (streams.WAITING // len(piece) - 1)
        assert all(isinstance(call.exception(), Unavailable) for call in refused)
        go.set()
        await asyncio.gather(*(call for call in calls if call not in refused))
        assert arrived == 100 - len(refused)

    on_cluster(main)


def test_stopping_ends_calls_under_way_and_waiting() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        async def never(asked: Asked) -> Answer:
            await asyncio.Event().wait()
            raise AssertionError

        cluster[2].serve("never", never)
        call = asyncio.ensure_future(cluster[1].peer(TWO).call("never", b"", deadline_s=60))
        own = asyncio.ensure_future(cluster[2].peer(TWO).call("never", b"", deadline_s=60))
        await asyncio.sleep(0.1)
        await cluster[2].close()
        for each in (call, own):
            with pytest.raises(Unavailable):
                await each
        await cluster[1].close()
        with pytest.raises(Unavailable):
            await cluster[1].peer(TWO).call("never", b"", deadline_s=60)

    on_cluster(main)


def test_a_handler_that_finds_nonsense_drops_the_connection() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        def strict(asked: Asked) -> Answer:
            raise PeerError("nonsense")

        cluster[2].serve("strict", strict)
        with pytest.raises(Unavailable, match="broke"):
            await cluster[1].peer(TWO).call("strict", b"")

    on_cluster(main)


def refusing(reason: str) -> Callable[..., str]:
    return lambda hello: reason


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"cluster": "other"}, "another cluster"), ({"admit": refusing("node 1 was evicted")}, "evicted")],
    ids=["cluster", "admission"],
)
def test_a_refusal_says_why(options: dict[str, Any], reason: str) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        former = cluster[2]
        await former.close()
        host = cluster.network.host(cluster.address(2))
        wrong = NetworkInterconnect(former._clock, cluster.random, host, (TWO, former.incarnation), cluster.addresses, **options)
        await wrong.listen(cluster.address(2), 4700)
        cluster.nodes[2] = wrong
        with pytest.raises(Unavailable, match=reason):
            await cluster[1].peer(TWO).call("echo", b"")

    on_cluster(main)


def test_an_address_of_somebody_else_is_noticed() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster.members.add(THREE)
        original = cluster.addresses
        cluster[1]._peers.clear()
        cluster[1]._addresses = lambda node: original(TWO)
        with pytest.raises(Unavailable, match="this is node 0000000000000002"):
            await cluster[1].peer(THREE).call("echo", b"")

    on_cluster(main)


def test_random_faults_never_leave_a_call_without_an_outcome() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        for number in (1, 2, 3):
            cluster[number].serve("echo", echo)
        outcomes: list[Answer | BaseException] = []

        async def caller(number: int) -> None:
            chance = cluster.random
            for _ in range(150):
                node = cluster.nodes.get(number)
                if node is None:
                    await asyncio.sleep(0.1)
                    continue
                peer = node.peer(NodeId(1 + chance.below(3)))
                priority = Priority(chance.below(3))
                call = asyncio.ensure_future(
                    peer.call("echo", b"x", (bytes(chance.below(200_000)),), priority=priority, deadline_s=0.5 + chance.fraction())
                )
                done, _ = await asyncio.wait([call], timeout=2)
                assert done, "every call has an outcome by its deadline"
                error = call.exception()
                assert error is None or isinstance(error, SofsError)
                outcomes.append(error or call.result())
                await asyncio.sleep(chance.fraction() * 0.05)

        async def faults() -> None:
            chance = cluster.random
            while True:
                await asyncio.sleep(chance.fraction() * 0.5)
                one, other = 1 + chance.below(3), 1 + chance.below(3)
                kind = chance.below(3)
                if kind == 0:
                    cluster.lose(one, other)
                elif kind == 1 and one != other:
                    cluster.part(one, other)
                    await asyncio.sleep(chance.fraction())
                    cluster.heal(one, other)
                elif chance.chance(0.3):
                    node = cluster.nodes.pop(one, None)
                    if node is not None:
                        await node.close()
                        await asyncio.sleep(chance.fraction())
                        (await cluster.open(one)).serve("echo", echo)

        background = asyncio.ensure_future(faults())
        await asyncio.gather(*(caller(number) for number in (1, 2, 3)))
        background.cancel()
        answered = sum(isinstance(outcome, Answer) for outcome in outcomes)
        assert answered > 100

    for seed in range(10):
        on_cluster(main, 3, seed=seed)


def test_who_does_not_take_its_answers_is_not_heard_until_it_has() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        served = 0
        answer = bytes(1 << 20)

        def give(asked: Asked) -> Answer:
            nonlocal served
            served += 1
            return Answer(b"", (answer,))

        cluster[2].serve("give", give)
        peer = cluster[1].peer(TWO)
        await peer.call("give", b"")
        # From here on answers do not arrive, and questions do.
        cluster.network.block(cluster.address(2), cluster.address(1))
        calls = [asyncio.ensure_future(peer.call("give", b"", deadline_s=60)) for _ in range(200)]
        await asyncio.sleep(1)
        assert 16 < served < 25, "each answer has 1 MiB, and what is congested has 16"
        cluster.heal(1, 2)
        answers = await asyncio.gather(*calls)
        assert served == 201 and all(len(each.payload[0]) == 1 << 20 for each in answers)

    on_cluster(main)


def test_who_is_evicted_is_disconnected_both_ways() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        refused: set[int] = set()
        for number in (1, 2, 3):
            cluster[number].serve("echo", echo)
            cluster[number]._admit = lambda hello: "it was evicted" if hello.node in refused else ""
        for one in (1, 2, 3):
            for other in (1, 2, 3):
                await cluster[one].peer(NodeId(other)).call("echo", b"")
        refused.add(3)
        cluster.members.discard(THREE)
        for number in (1, 2):
            cluster[number].review()
        await asyncio.sleep(1)
        assert not cluster[1].peer(THREE).connected and not cluster[3].peer(ONE).connected
        assert cluster[1].peer(TWO).connected and cluster[2].peer(ONE).connected
        with pytest.raises(Unavailable, match="evicted"):
            await cluster[3].peer(ONE).call("echo", b"")
        with pytest.raises(Unavailable, match="no member"):
            await cluster[1].peer(THREE).call("echo", b"")

    on_cluster(main, 3)


def test_a_node_that_did_not_run_for_a_while_gives_nobody_up_for_that() -> None:
    """Its clock says that nothing was heard for long; but it was itself that did not listen."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster[2].serve("echo", echo)
        peer = cluster[1].peer(TWO)
        await peer.call("echo", b"")
        changes: list[bool] = []
        peer.on_change(changes.append)
        for _ in range(5):
            for number in (1, 2):
                cluster[number]._clock._uptime += 100.0  # type: ignore[attr-defined]
            await asyncio.sleep(30)
        assert peer.connected and not changes
        cluster.part(1, 2)
        await asyncio.sleep(10)
        assert not peer.connected

    on_cluster(main)
