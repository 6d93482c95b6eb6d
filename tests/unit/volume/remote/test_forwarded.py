"""One volume, used from another node: connections break, processes end, the volume moves; what was asked is carried out once."""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sofs.cluster import Answer
from sofs.errors import Closed, DiskFailed, Exists, Fenced, LockConflict, NotFound, NotSupported, SharingViolation, Unavailable
from sofs.locks import GrantKind
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.types import ROOT, Inode, Kind, Level, Lsn, OpenId, VolumeId
from sofs.volume.api import (
    Access,
    Acknowledge,
    Binding,
    Close,
    Disconnect,
    Disposition,
    EndClient,
    FencedOff,
    FenceGateway,
    Flush,
    GetAttributes,
    Keep,
    ListSnapshots,
    Lock,
    Lookup,
    MakeSnapshot,
    Open,
    Recall,
    Reconnect,
    Remove,
    RestoreSnapshot,
    SetReparse,
    Stateless,
    Token,
    Unlock,
)
from sofs.volume.remote import messages
from sofs.volume.remote.messages import Reached, When, encode, encode_answer
from sofs.volume.remote.routed import RoutedVolume
from sofs.volume.volume import LocalVolume
from sofs.volume.where import Coordinator
from tests.unit.volume.remote.far_rig import GATEWAY, HERE, THERE, FarRig, pump
from tests.unit.volume.state_rig import READS, RH, RWH, SMB
from tests.unit.volume.volume_rig import SUPER

OWN = Binding(HERE[1], 5)
"""A session at the coordinator's own gateway."""


def run(scenario: Callable[[FarRig], Awaitable[None]], **options: Any) -> None:
    loop = SimulatedLoop()
    random = SimulatedRandom(1)
    rig = FarRig(SimulatedFiles(random), SimulatedClock(loop), random, **options)

    async def main() -> None:
        await rig.make()
        await scenario(rig)
        await rig.clean()
        await rig.close()

    loop.run(main())


def cut(rig: FarRig) -> None:
    rig.between.network.lose("10.0.0.1", "10.0.0.2")


async def reopened(
    rig: FarRig,
    orderly: bool = True,
    ended: Callable[[int], bool] = lambda gateway: False,
    first: Callable[[LocalVolume], Awaitable[object]] | None = None,
) -> None:
    """The volume ends here and begins anew, as at another coordinator; nobody else is started again. `first` is done before anybody reaches it."""
    former = rig.local
    rig.between.where[0].served(None)
    if orderly:
        former.keep_all()
        await asyncio.sleep(0.3)
        await former.close()
        await rig.pool.close()
    else:
        await asyncio.sleep(0.1)
        former.core.locks.stop()
        for opened in former.core.opens.values():
            if opened.timer is not None:
                opened.timer.cancel()
        assert isinstance(rig.files, SimulatedFiles)
        for stop in former.closing:
            stop()
        rig.files = rig.files.after_process_death()
    await rig.open()
    rig.local = LocalVolume(rig.store, rig.data, rig.clock, id=VolumeId(7), name="v", gateway=HERE[1], ended=ended)
    if first is not None:
        await first(rig.local)
    rig.between.serve(rig.local)


def test_requests_are_carried_out_at_the_coordinator() -> None:
    async def scenario(rig: FarRig) -> None:
        inode = rig.make_name(b"f", mode=0o666)
        await rig.put(rig.smb(b"f").open, 0, b"hello")
        opened = rig.smb(b"f")
        assert await rig.content(opened.open) == b"hello"
        assert rig.stat(inode).size == 5
        assert rig.names() == {b"f"}
        assert rig.between.near.verifier == rig.between.far.verifier == rig.local.verifier

    run(scenario)


def test_an_error_arrives_as_it_was_raised() -> None:
    async def scenario(rig: FarRig) -> None:
        with pytest.raises(NotFound):
            rig.lookup(b"nothing")
        rig.make_name(b"f")
        with pytest.raises(Exists, match="f"):
            rig.make_name(b"f")

    run(scenario)


def test_what_the_volume_refuses_to_do_at_all_is_told_and_keeps_nobody_else_waiting() -> None:
    async def scenario(rig: FarRig) -> None:
        opened = rig.smb(b"f", access=READS | Access.DELETE | Access.WRITE_ATTRIBUTES)
        await rig.put(rig.smb(b"f").open, 0, b"not empty")
        eras = rig.between.far._asker._era  # type: ignore[union-attr]
        with pytest.raises(NotSupported, match="only an empty file"):
            rig.ask(SetReparse(opened.open, Kind.SYMLINK, b"elsewhere"))
        assert rig.between.far._asker._era == eras  # type: ignore[union-attr]

    run(scenario)


def test_payloads_of_any_size_arrive() -> None:
    async def scenario(rig: FarRig) -> None:
        opened = rig.smb(b"f")
        for size in (1, 4096, 65536, 1 << 20):
            data = bytes(number * 7 & 0xFF for number in range(size))
            await rig.put(opened.open, 12345, data)
            assert await rig.content(opened.open, 12345, size) == data

    run(scenario)


@pytest.mark.parametrize("how", ["close", "disconnect", "end"])
def test_what_ends_something_is_not_given_up_however_long_nobody_serves_the_volume(how: str) -> None:
    """Nobody would ask for it again: the file would be kept from others for as long as the gateway lives."""

    async def scenario(rig: FarRig) -> None:
        held = rig.nfs(deny=7) if how == "end" else rig.smb(share=0, keep=Keep(60_000, persistent=True) if how == "disconnect" else None)
        here, there = rig.between.where
        here.served(None)
        there.moved(Coordinator(*THERE, 1000))  # this process should serve it, and cannot
        request = {"close": Close(held.open), "disconnect": Disconnect(held.open), "end": EndClient(b"nfs")}[how]
        ending = asyncio.ensure_future(rig.between.far.call(request, None, SMB))
        await asyncio.sleep(300)
        for where in (here, there):
            where.moved(Coordinator(*HERE, 1001))
        here.served(rig.local)
        await ending
        if how == "disconnect":
            assert not rig.local.core.opens[held.open].connected
        else:
            assert held.open not in rig.local.core.opens

    run(scenario)


@pytest.mark.parametrize("delay", [0.0, 0.0001, 0.0002, 0.0003, 0.0004, 0.0006, 0.001])
def test_what_a_break_has_hit_is_carried_out_once(delay: float) -> None:
    async def scenario(rig: FarRig) -> None:
        asked = [asyncio.ensure_future(rig.between.far.call(_make(name), None, SMB)) for name in (b"a", b"b", b"c")]
        await asyncio.sleep(delay)
        cut(rig)
        # A name that was made before, by whom it does not know, would be `Exists`.
        replies = await asyncio.gather(*asked)
        assert [reply.path for reply in replies] == [(b"a",), (b"b",), (b"c",)]
        assert rig.names() == {b"a", b"b", b"c"}
        assert rig.stat(ROOT).links == 2

    run(scenario)


def _make(name: bytes) -> Any:
    from sofs.types import Kind
    from sofs.volume.api import Changes, Make

    return Make(SUPER, ROOT, name, Kind.FILE, Changes(mode=0o666))


@pytest.mark.parametrize("orderly", [True, False])
def test_requests_wait_while_nobody_serves_and_go_on_in_order(orderly: bool) -> None:
    async def scenario(rig: FarRig) -> None:
        opened = rig.smb(b"f", share=7)
        moving = asyncio.ensure_future(reopened(rig, orderly))
        await asyncio.sleep(0)
        far = rig.between.far
        writes = [far.write(opened.open, 0, memoryview(bytes([number]) * 10), None, Level.COMMITTED, SMB) for number in range(20)]
        await moving
        await asyncio.gather(*writes)
        assert await rig.content(opened.open) == bytes([19]) * 10

    run(scenario)


def test_what_was_answered_before_the_coordinator_ended_is_not_carried_out_again() -> None:
    async def scenario(rig: FarRig) -> None:
        far = rig.between.far
        made = asyncio.ensure_future(far.call(_make(b"a"), None, SMB))
        while rig.local.core.look(ROOT, b"a", False)[0] is None:  # noqa: ASYNC110
            await asyncio.sleep(1e-5)
        cut(rig)  # it has been carried out, and the answer is lost
        await reopened(rig, orderly=False)
        reply = await made
        assert reply.path == (b"a",)
        assert rig.names() == {b"a"}
        assert rig.local.core.repeated["forwarded"] == 1

    run(scenario)


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "answer lost"])
@pytest.mark.parametrize("there", ["nothing", "file", "stream", "overwritten stream"])
def test_a_stream_is_opened_and_the_next_question_is_answered(there: str, lost: bool) -> None:
    """What a stream's attributes are is known only once its records are there, and its token is among these."""

    async def scenario(rig: FarRig) -> None:
        if there != "nothing":
            rig.make_name(b"f", mode=0o666)
        if there.endswith("stream"):
            rig.shut(rig.smb(b"f", stream=b"s"))
        overwritten = there == "overwritten stream"
        request = rig.smb_request(b"f", stream=b"s", disposition=Disposition.OVERWRITE if overwritten else Disposition.OPEN_IF)
        opening = asyncio.ensure_future(rig.between.far.call(request, None, SMB))
        if lost:
            while not rig.local.core.opens:  # noqa: ASYNC110
                await asyncio.sleep(1e-5)
            cut(rig)
            await reopened(rig, orderly=False)
        opened: Any = await opening
        assert rig.local.core.repeated["forwarded"] == lost
        assert opened.attributes == rig.local.core.attributes(opened.attributes.inode) and opened.attributes.parent == rig.lookup(b"f").inode
        await rig.put(opened.open, 0, b"in the stream")
        rig.shut(opened)
        assert rig.names() == {b"f"}

    run(scenario)


def test_an_open_of_another_node_survives_its_coordinator_with_its_lock() -> None:
    async def scenario(rig: FarRig) -> None:
        opened = rig.smb(b"f", share=0)
        rig.lock(opened.open, 0, 10)
        await reopened(rig, orderly=False)
        assert await rig.content(opened.open) == b""
        mine = rig.local.core.opens[opened.open]
        assert mine.connected and mine.timer is None
        with pytest.raises(SharingViolation):
            rig.local.call(rig.smb_request(b"f"), None, OWN)
        rig.ask(Unlock(opened.open, 0, 10))
        rig.shut(opened)

    run(scenario)


def test_an_open_of_the_coordinators_own_gateway_is_recorded_only_for_a_move() -> None:
    async def scenario(rig: FarRig) -> None:
        mine = rig.local.call(rig.smb_request(b"f", share=0), None, OWN)
        assert not rig.local.core.opens[mine.open].recorded  # type: ignore[union-attr]
        await reopened(rig)
        assert rig.local.core.opens[mine.open].connected  # type: ignore[union-attr]
        await reopened(rig, orderly=False)
        assert mine.open in rig.local.core.opens, "from then on it is a record"  # type: ignore[union-attr]
        rig.local.call(Close(mine.open), None, OWN)  # type: ignore[union-attr]
        other = rig.local.call(rig.smb_request(b"f", share=0), None, OWN)
        await reopened(rig, orderly=False)
        assert other.open not in rig.local.core.opens  # type: ignore[union-attr]

    run(scenario)


def test_opens_of_a_gateway_that_has_ended_end_or_wait_for_their_owners() -> None:
    async def scenario(rig: FarRig) -> None:
        plain = rig.smb(b"plain", share=0)
        durable = rig.smb(b"durable", rights=RH, key=b"k", keep=Keep(60_000))
        nfs = rig.nfs(b"nfs")
        await reopened(rig, orderly=False, ended=lambda gateway: gateway == GATEWAY)
        opens = rig.local.core.opens
        await asyncio.sleep(0.1)
        assert plain.open not in opens and opens[nfs.open].connected
        assert not opens[durable.open].connected and opens[durable.open].timer is not None
        await asyncio.sleep(61)
        assert durable.open not in opens

    run(scenario)


def test_a_fenced_gateway_has_no_effect_any_more() -> None:
    async def scenario(rig: FarRig) -> None:
        plain = rig.smb(b"plain", share=0)
        durable = rig.smb(b"durable", rights=RH, key=b"k", keep=Keep(60_000))
        nfs = rig.nfs(b"nfs")
        fenced: list[int] = []
        rig.volume.subscribe(lambda volume, upcall: fenced.append(upcall.gateway) if isinstance(upcall, FencedOff) else None)
        done = pump(_asked(rig.local.call(FenceGateway(GATEWAY), None, OWN)))
        assert done.result().gate
        assert plain.open not in rig.local.core.opens and nfs.open in rig.local.core.opens
        assert not rig.local.core.opens[durable.open].connected
        for request in (GetAttributes(Stateless(ROOT, SUPER)), _make(b"late"), Close(nfs.open)):
            with pytest.raises(Fenced):
                rig.ask(request)
        with pytest.raises(Fenced):
            rig.volume.write(durable.open, 0, memoryview(b"late"), None, Level.COMMITTED, SMB)
        await asyncio.sleep(0.1)
        assert set(fenced) == {GATEWAY}
        await reopened(rig, orderly=False)
        with pytest.raises(Fenced):
            rig.ask(GetAttributes(Stateless(ROOT, SUPER)))
        assert not rig.local.core.opens[durable.open].connected

    run(scenario)


async def _asked(reply: Any) -> Any:
    return await reply if isinstance(reply, Awaitable) else reply


def test_a_fence_waits_for_nobody_and_ends_what_waits() -> None:
    async def scenario(rig: FarRig) -> None:
        holder = rig.local.call(rig.smb_request(b"f"), None, OWN)
        rig.local.call(Lock(holder.open, 0, 10, True), None, OWN)  # type: ignore[union-attr]
        mine = rig.smb(b"f")
        waiting = rig.asking(Lock(mine.open, 0, 10, True, wait=True))
        await _asked(rig.local.call(FenceGateway(GATEWAY), None, OWN))
        await asyncio.sleep(0.1)
        assert waiting.done() and waiting.exception() is not None
        rig.local.call(Close(holder.open), None, OWN)  # type: ignore[union-attr]
        assert not list(rig.local.core.locks.files())

    run(scenario)


def test_a_lock_that_waits_keeps_its_place_over_a_break() -> None:
    async def scenario(rig: FarRig) -> None:
        holder = rig.local.call(rig.smb_request(b"f"), None, OWN)
        held = holder.open  # type: ignore[union-attr]
        rig.local.call(Lock(held, 0, 10, True), None, OWN)
        mine = rig.smb(b"f")
        first = rig.asking(Lock(mine.open, 0, 10, True, wait=True))
        second = asyncio.ensure_future(_asked(rig.local.call(Lock(held, 0, 10, True, wait=True), None, OWN)))
        await asyncio.sleep(0.1)
        cut(rig)
        await asyncio.sleep(1)
        rig.local.call(Unlock(held, 0, 10), None, OWN)
        await first
        assert not second.done()
        rig.ask(Unlock(mine.open, 0, 10))
        await second

    run(scenario)


@pytest.mark.parametrize("orderly", [True, False])
def test_a_lock_that_waits_goes_on_waiting_at_the_next_coordinator(orderly: bool) -> None:
    async def scenario(rig: FarRig) -> None:
        holder, other = rig.smb(b"f"), rig.smb(b"f")
        rig.lock(holder.open, 0, 10)
        waiting = rig.asking(Lock(other.open, 0, 10, True, wait=True))
        await reopened(rig, orderly)
        await asyncio.sleep(0.5)
        assert not waiting.done()
        rig.unlock(holder.open, 0, 10)
        await waiting
        with pytest.raises(LockConflict):
            rig.lock(holder.open, 0, 10)

    run(scenario)


def test_a_local_request_that_waits_goes_on_elsewhere_after_a_move() -> None:
    async def scenario(rig: FarRig) -> None:
        holder = rig.smb(b"f")
        rig.lock(holder.open, 0, 10)
        near = rig.between.near
        mine: Any = near.call(rig.smb_request(b"f"), None, OWN)
        waiting = asyncio.ensure_future(_asked(near.call(Lock(mine.open, 0, 10, True, wait=True), None, OWN)))
        await asyncio.sleep(0.1)
        await reopened(rig)
        await asyncio.sleep(0.5)
        assert not waiting.done()
        rig.unlock(holder.open, 0, 10)
        async with asyncio.timeout(5):
            await waiting

    run(scenario)


@pytest.mark.parametrize("delay", [0.0, 0.0001, 0.00015, 0.0002, 0.00025, 0.0003, 0.0004])
def test_what_is_taken_back_has_no_effect(delay: float) -> None:
    async def scenario(rig: FarRig) -> None:
        opened, other = rig.smb(b"f"), rig.smb(b"f")
        far = rig.between.far
        asked = [
            asyncio.ensure_future(far.call(Lock(opened.open, 0, 10, True, wait=True), None, SMB)),
            asyncio.ensure_future(far.call(rig.smb_request(b"g", share=0), None, SMB)),
        ]
        await asyncio.sleep(delay)
        for each in asked:
            each.cancel()
        cut(rig)
        await asyncio.sleep(2)
        if not asked[0].cancelled():  # it was answered before
            rig.unlock(opened.open, 0, 10)
        if not asked[1].cancelled():
            rig.shut(asked[1].result())  # type: ignore[arg-type]
        assert rig.local.core.locks.state(rig.lookup(b"f").inode).ranges == ()
        rig.lock(other.open, 0, 10)
        assert set(rig.local.core.opens) == {opened.open, other.open}

    run(scenario)


@pytest.mark.parametrize("again", [1, 2])
def test_a_lock_that_was_taken_back_does_not_count_as_carried_out(again: int) -> None:
    """Its client has lost its connection before the answer, and repeats the request elsewhere, or goes on to the next number."""

    async def scenario(rig: FarRig) -> None:
        opened, other = rig.smb(b"f"), rig.smb(b"f")
        far, inode = rig.between.far, rig.lookup(b"f").inode

        def lock(number: int) -> Lock:
            return Lock(opened.open, 0, 10, True, number=struct.pack("<IB", 1, number))

        asked = asyncio.ensure_future(far.call(lock(1), None, SMB))
        while not rig.local.core.locks.state(inode).ranges:  # noqa: ASYNC110
            await asyncio.sleep(1e-5)
        cut(rig)  # it has been carried out, and the answer is lost
        asked.cancel()
        await asyncio.sleep(2)
        assert rig.local.core.locks.state(inode).ranges == ()
        rig.ask(lock(again))
        with pytest.raises(LockConflict):
            rig.lock(other.open, 0, 10)
        rig.ask(Unlock(opened.open, 0, 10, number=struct.pack("<IB", 1, 2)) if again == 1 else Unlock(opened.open, 0, 10))
        rig.lock(other.open, 0, 10)

    run(scenario)


def test_a_retry_through_another_gateway_is_answered_with_the_first_reply() -> None:
    async def scenario(rig: FarRig) -> None:
        token = Token(b"client, xid, CREATE")
        first = rig.ask(_make(b"a"), token=token)
        again: Any = rig.local.call(_make(b"a"), token, OWN)
        assert again.attributes.inode == first.attributes.inode
        later: Any = rig.local.call(_make(b"b"), Token(b"2"), OWN)
        assert rig.ask(_make(b"b"), token=Token(b"2")).attributes.inode == later.attributes.inode

    run(scenario)


def test_a_recall_reaches_the_gateway_whatever_breaks() -> None:
    async def scenario(rig: FarRig) -> None:
        leased = rig.smb(b"f", rights=RWH, key=b"k")
        assert leased.grant == RWH
        cut(rig)
        waiting = asyncio.ensure_future(_asked(rig.local.call(rig.smb_request(b"f", access=READS), None, OWN)))
        await asyncio.sleep(1)
        assert (b"k", RWH, RH) in rig.told.take()
        rig.ask(Acknowledge(leased.attributes.inode, b"k", RH))
        await waiting

    run(scenario)


def test_a_recall_that_overtakes_the_reply_to_its_open_is_told_again_behind_it() -> None:
    async def scenario(rig: FarRig) -> None:
        far, order = rig.between.far, []
        rig.volume.subscribe(lambda volume, upcall: order.append("recall") if isinstance(upcall, Recall) else None)
        opening = asyncio.ensure_future(far.call(rig.smb_request(b"f", rights=RWH, key=b"k"), None, SMB))
        opening.add_done_callback(lambda _: order.append("reply"))
        while not rig.local.core.opens:  # noqa: ASYNC110
            await asyncio.sleep(1e-5)
        waiting = asyncio.ensure_future(_asked(rig.local.call(rig.smb_request(b"f", access=READS), None, OWN)))
        reply: Any = await opening
        await asyncio.sleep(0.1)
        assert order[-1] == "recall" and "reply" in order
        rig.ask(Acknowledge(reply.attributes.inode, b"k", RH))
        await waiting

    run(scenario)


def test_a_recall_that_comes_with_the_reply_to_its_open_is_told_to_who_has_seen_the_reply() -> None:
    async def scenario(rig: FarRig) -> None:
        far, known, told = rig.between.far, [], []
        asker = far._asker
        assert asker is not None
        rig.volume.subscribe(lambda volume, upcall: told.append(bool(known)) if isinstance(upcall, Recall) else None)
        finish = asker._finish

        def finish_and_recall(question: Any, found: Any, payload: Any = b"") -> None:
            finish(question, found, payload)
            recall = Recall(Inode(2), b"k", GrantKind.LEASE, (found.reply.open,), RWH, RH, True, 2, 2, OpenId(0))
            far._far.heard(recall)

        asker._finish = finish_and_recall  # type: ignore[method-assign]

        async def gateway() -> None:
            known.append(await far.call(rig.smb_request(b"f", rights=RWH, key=b"k"), None, SMB))

        await gateway()
        asker._finish = finish  # type: ignore[method-assign]
        await asyncio.sleep(0.1)
        assert told == [False, True]

    run(scenario)


def test_what_is_stable_is_told_in_order_also_over_a_change_of_coordinator() -> None:
    async def scenario(rig: FarRig) -> None:
        far, told = rig.between.far, []
        replies = [await far.call(_make(name), None, SMB) for name in (b"a", b"b", b"c")]
        for number, reply in enumerate(replies):
            far.when(reply.gate, Level.STABLE, lambda number=number: told.append(number))  # type: ignore[misc]
        await reopened(rig, orderly=False)
        await asyncio.sleep(1)
        assert told == [0, 1, 2]
        assert rig.between.lost == []

    run(scenario)


def test_the_first_answer_brings_the_verifier_even_if_the_subscription_takes_longer() -> None:
    async def scenario(rig: FarRig) -> None:
        far = RoutedVolume(rig.between.where[1], rig.between.interconnects[1], rig.between.clock)
        assert far._asker is not None and far.verifier == 0
        far._asker._note(Reached(Lsn(0), rig.local.verifier))
        assert far.verifier == rig.local.verifier

    run(scenario)


@pytest.mark.parametrize("how", ["subscription", "answer"])
def test_what_was_answered_under_one_verifier_is_told_with_it_though_the_next_one_is_heard_in_the_same_moment(how: str) -> None:
    """As after a pause of the gateway's process. Else a client would take data for safe that the next coordinator never had."""

    async def scenario(rig: FarRig) -> None:
        opened = rig.smb(b"f")
        far = rig.between.far
        asker, before, seen = far._asker, far.verifier, []
        assert asker is not None
        finish = asker._finish

        def finish_both(question: Any, found: Any, payload: Any = b"") -> None:
            asker._finish = finish  # type: ignore[method-assign]
            finish(question, found, payload)
            answer = Answer(encode_answer(Reached(Lsn(0), before + 1)))
            if how == "subscription":
                asker._heard(asker.subscription, answer)
            else:
                asker._answered(asker.ask(messages.Kind.WHEN, encode(When(Lsn(0))), b"", True, lambda found, payload: None), asker._era, answer)

        asker._finish = finish_both  # type: ignore[method-assign]

        async def gateway() -> None:
            await far.write(opened.open, 0, memoryview(b"data"), None, Level.COMMITTED, SMB)
            seen.append(far.verifier)

        await gateway()
        await asyncio.sleep(0)
        seen.append(far.verifier)
        assert seen == [before, before + 1]
        await asyncio.sleep(1)
        rig.ask(Flush(opened.open))

    run(scenario)


def test_another_verifier_gives_up_what_waits_for_stability() -> None:
    async def scenario(rig: FarRig) -> None:
        far, told = rig.between.far, []
        reply: Any = await far.call(_make(b"a"), None, SMB)
        await asyncio.sleep(1)
        rig.between.where[0].served(None)
        far.when(reply.gate + (1 << 40), Level.STABLE, lambda: told.append("never"))
        for stop in rig.local.closing:
            stop()
        rig.boot += b"'"
        assert isinstance(rig.files, SimulatedFiles)
        rig.files = rig.files.after_power_loss()
        before = far.verifier
        await rig.open()
        rig.local = LocalVolume(rig.store, rig.data, rig.clock, id=VolumeId(7), name="v", gateway=HERE[1], ended=lambda gateway: False)
        rig.between.serve(rig.local)
        await far.call(GetAttributes(Stateless(ROOT, SUPER)), None, SMB)
        await asyncio.sleep(1)
        assert far.verifier == rig.local.verifier != before
        assert rig.between.lost and told == []

    run(scenario)


def test_a_snapshot_is_read_from_another_node() -> None:
    async def scenario(rig: FarRig) -> None:
        opened = rig.smb(b"f")
        await rig.put(opened.open, 0, b"before")
        number = rig.ask(MakeSnapshot("s")).snapshots[0].number
        await rig.put(opened.open, 0, b"after!")
        past: Any = rig.volume.at(number)
        found = past.call(Lookup(SUPER, ROOT, (b"f",)), None, SMB)
        buffer = bytearray(6)
        past.read(Stateless(found.attributes.inode, SUPER), 0, memoryview(buffer), SMB)
        assert buffer == b"before"
        held = past.call(Open(SUPER, ROOT, (b"f",), READS, 7, rig.smb_request().disposition.OPEN), None, SMB)
        past.call(Close(held.open), None, SMB)
        with pytest.raises(Closed):
            past.call(Close(held.open), None, SMB)

    run(scenario)


@pytest.mark.parametrize("slices", [0, 1, 3])
def test_a_volume_is_brought_back_to_a_snapshot_once_though_its_coordinator_ends_meanwhile(slices: int) -> None:
    """Once more, it would take back what clients have written since."""

    async def scenario(rig: FarRig) -> None:
        for place in range(5):
            await rig.put(rig.smb(b"f%d" % place).open, 0, b"before")
        number = rig.ask(MakeSnapshot("s")).snapshots[0].number
        for place in range(5):
            await rig.put(rig.smb(b"f%d" % place).open, 0, b"after!")
        snapshots = rig.local.core.data.snapshots
        snapshots.slice, left, going = 1, [slices], asyncio.Event()

        async def pause() -> None:
            left[0] -= 1
            if left[0] < 0:
                going.set()
                await asyncio.sleep(1e9)

        snapshots.pause = pause
        asked = asyncio.ensure_future(rig.between.far.call(RestoreSnapshot(number, force=True), None, SMB))
        await going.wait()
        await reopened(rig, orderly=False, first=lambda volume: volume.run_once())
        reply: Any = await asked
        assert reply.gate
        names = [snapshot.name for snapshot in rig.ask(ListSnapshots()).snapshots]
        assert names == ["s", "before-restore-1"]
        assert await rig.content(rig.smb(b"f0").open) == b"before"

    run(scenario)


def test_a_request_that_was_not_carried_out_is_given_up_in_the_end() -> None:
    from sofs.errors import Unavailable

    async def scenario(rig: FarRig) -> None:
        rig.between.where[0].served(None)
        await asyncio.sleep(5)
        began = rig.clock.monotonic()
        with pytest.raises(Unavailable):
            await rig.between.far.call(Lookup(SUPER, ROOT, ()), None, SMB)
        assert 119 < rig.clock.monotonic() - began < 130
        rig.between.serve(rig.local)

    run(scenario)


@pytest.mark.parametrize("delay", [number * 5e-5 for number in range(12)])
def test_what_is_told_to_have_failed_has_no_effect_later(delay: float) -> None:
    """A refusal leaves no token: asked once more because the configuration has changed, the same request may find what it did not find before."""

    async def scenario(rig: FarRig) -> None:
        asked = asyncio.ensure_future(rig.between.far.call(Remove(SUPER, ROOT, b"a"), None, SMB))
        await asyncio.sleep(delay)
        where = rig.between.where[1]
        where.moved(where.coordinator._replace(version=where.coordinator.version + 1))
        rig.local.call(_make(b"a"), None, OWN)
        outcome = (await asyncio.gather(asked, return_exceptions=True))[0]
        await asyncio.sleep(0.1)
        assert (rig.names() == {b"a"}) == isinstance(outcome, NotFound)

    run(scenario)


def test_what_waits_is_asked_elsewhere_though_the_volume_has_ended_before_it_can_say_so() -> None:
    async def scenario(rig: FarRig) -> None:
        holder = rig.smb(b"f")
        rig.lock(holder.open, 0, 10)
        near = rig.between.near
        mine: Any = near.call(rig.smb_request(b"f"), None, OWN)
        waiting = asyncio.ensure_future(_asked(near.call(Lock(mine.open, 0, 10, True, wait=True), None, OWN)))
        await asyncio.sleep(0.1)
        former = rig.local
        rig.between.where[0].served(None)
        former.keep_all()
        rig.store.log.failure = Fenced("handed over")
        await asyncio.sleep(0.01)
        await former.abandon()
        await rig.pool.close()
        await rig.open()
        rig.local = LocalVolume(rig.store, rig.data, rig.clock, id=VolumeId(7), name="v", gateway=HERE[1], ended=lambda gateway: False)
        rig.between.serve(rig.local)
        await asyncio.sleep(0.5)
        assert not waiting.done() and rig.between.lost == []
        rig.unlock(holder.open, 0, 10)
        async with asyncio.timeout(5):
            await waiting

    run(scenario)


def test_nothing_is_told_that_rests_on_a_log_which_has_failed() -> None:
    async def scenario(rig: FarRig) -> None:
        near = rig.between.near
        holder = rig.smb(b"f")
        rig.lock(holder.open, 0, 10)
        mine: Any = near.call(rig.smb_request(b"f"), None, OWN)
        waiting = asyncio.ensure_future(_asked(near.call(Lock(mine.open, 0, 10, True, wait=True), None, OWN)))
        await asyncio.sleep(0.1)
        told: list[str] = []
        answered: list[bool] = []
        loop = asyncio.get_running_loop()
        # Whoever has clients drops what they have asked, in the next round of the loop.
        rig.between.routes[0].lost = lambda volume: loop.call_soon(lambda: answered.append(waiting.done()))  # type: ignore[assignment,return-value]
        rig.local.call(Unlock(holder.open, 0, 10), None, SMB)  # the lock is had in the moment in which the log fails
        made: Any = near.call(_make(b"lost"), None, OWN)
        near.when(made.gate, Level.COMMITTED, lambda: told.append("before"))
        rig.store.log.abandon(Fenced("another configuration is in force"))
        rig.between.where[0].served(None)
        near.when(made.gate, Level.COMMITTED, lambda: told.append("committed"))
        near.when(made.gate, Level.STABLE, lambda: told.append("stable"))
        await asyncio.sleep(1)
        assert told == [] and answered == [False]
        with pytest.raises(Unavailable, match="may have been carried out"):  # nor is anybody within the node left waiting
            await waiting
        await reopened(rig, orderly=False)

    run(scenario)


def test_a_look_into_a_snapshot_goes_on_elsewhere_when_the_log_fails_meanwhile() -> None:
    async def scenario(rig: FarRig) -> None:
        rig.make_name(b"f")
        past = rig.between.near.at(rig.ask(MakeSnapshot("s")).snapshots[0].number)
        rig.store.log.failure = DiskFailed("the log's disk is gone")
        asked = asyncio.ensure_future(_asked(past.call(Lookup(SUPER, ROOT, (b"f",)), None, OWN)))
        await asyncio.sleep(0.1)
        assert not asked.done()
        rig.between.where[0].served(None)
        await reopened(rig, orderly=False)
        await asked

    run(scenario)


def test_what_was_answered_just_before_a_move_is_told_when_it_is_stable() -> None:
    async def scenario(rig: FarRig) -> None:
        near = rig.between.near
        made: Any = near.call(_make(b"kept"), None, OWN)
        told: list[Level] = []
        rig.between.where[0].served(None)
        near.when(made.gate, Level.COMMITTED, lambda: told.append(Level.COMMITTED))
        near.when(made.gate, Level.STABLE, lambda: told.append(Level.STABLE))
        assert told == []
        await reopened(rig)
        assert told == [Level.COMMITTED, Level.STABLE]
        await _asked(near.call(Lookup(SUPER, ROOT, (b"kept",)), None, OWN))

    run(scenario)


def test_a_coordinator_whose_log_has_failed_tells_nobody_of_its_disk() -> None:
    async def scenario(rig: FarRig) -> None:
        opened = rig.smb(b"f")
        rig.store.log.failure = DiskFailed("the log's disk is gone")
        near, far = rig.between.near, rig.between.far
        asked = [
            asyncio.ensure_future(_asked(near.call(Lookup(SUPER, ROOT, (b"f",)), None, OWN))),
            asyncio.ensure_future(_asked(far.call(Lookup(SUPER, ROOT, (b"f",)), None, SMB))),
            asyncio.ensure_future(_asked(far.read(opened.open, 0, memoryview(bytearray(10)), SMB))),
            asyncio.ensure_future(_asked(far.write(opened.open, 0, memoryview(b"late"), None, Level.COMMITTED, SMB))),
        ]
        await asyncio.sleep(0.1)
        assert not any(each.done() for each in asked)
        former = rig.local
        rig.between.where[0].served(None)
        assert rig.between.lost == [near]
        await former.abandon()
        await rig.pool.close()
        await rig.open()
        rig.local = LocalVolume(rig.store, rig.data, rig.clock, id=VolumeId(7), name="v", gateway=HERE[1], ended=lambda gateway: False)
        rig.between.serve(rig.local)
        async with asyncio.timeout(5):
            await asyncio.gather(*asked)
        assert await rig.content(opened.open) == b"late"

    run(scenario)


def test_who_gives_up_coming_back_to_an_open_leaves_it_waiting_for_others() -> None:
    """A client that has no answer from one node tries the next one: what it asked the first one for must not keep it out."""

    async def scenario(rig: FarRig) -> None:
        held = rig.smb(b"f", rights=RH, key=b"k", keep=Keep(60_000, persistent=True))
        rig.disconnect(held)
        far = rig.between.far
        request = Reconnect(SUPER, held.open, b"", b"client of k", b"", b"k")
        rig.between.where[0].served(None)
        asked = asyncio.ensure_future(far.call(request, None, Binding(GATEWAY, 3)))
        await asyncio.sleep(0.5)
        rig.between.where[0].served(rig.local)
        while not rig.local.core.opens[held.open].connected:  # noqa: ASYNC110
            await asyncio.sleep(1e-5)
        asked.cancel()
        await asyncio.sleep(0.1)
        assert not rig.local.core.opens[held.open].connected
        assert rig.reconnect(held, b"k").open == held.open

    run(scenario)


def test_a_move_takes_the_locks_and_leases_of_the_coordinators_own_clients_along() -> None:
    async def scenario(rig: FarRig) -> None:
        near = rig.between.near
        mine: Any = near.call(rig.smb_request(b"f", RWH, key=b"k"), None, OWN)
        near.call(Lock(mine.open, 0, 10, True), None, OWN)
        doomed: Any = near.call(rig.smb_request(b"doomed", delete_on_close=True, access=READS | int(Access.DELETE)), None, OWN)
        await reopened(rig)
        grant = rig.local.core.locks.state(mine.attributes.inode).grant(b"k")
        assert grant is not None and grant.rights == RWH
        waiting = asyncio.ensure_future(rig.between.far.call(rig.smb_request(b"f"), None, SMB))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await _asked(near.call(Acknowledge(mine.attributes.inode, b"k", RH), None, OWN))
        other: Any = await waiting
        with pytest.raises(LockConflict):
            rig.lock(other.open, 5, 1)
        await _asked(near.call(Close(doomed.open), None, OWN))
        assert b"doomed" not in rig.names()

    run(scenario)
