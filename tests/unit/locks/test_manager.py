"""Waiting for locks and grants, giving up, and running out of time."""

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

import pytest

from sofs.errors import Closed, Delayed, LockConflict, SharingViolation, Unavailable
from sofs.locks import HANDLE, READ, WRITE, GrantKind, LockManager, Opening, Recall, Revoked, Upcall
from sofs.locks.manager import MOST_QUEUED, MOST_WAITING
from sofs.locks.state import FREE
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, simulate
from sofs.types import Inode, OpenId

FILE = Inode(7)
A, B, C = OpenId(1), OpenId(2), OpenId(3)
RWH = READ | WRITE | HANDLE


class Scene:
    """A manager and what it told clients."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.told: list[tuple[Inode, Upcall]] = []
        self.clock = SimulatedClock(loop)
        self.locks = LockManager(self.clock, lambda inode, upcall: self.told.append((inode, upcall)))

    def open(self, id: OpenId, access: int = 3, share: int = 7, smb: bool = True, key: bytes = b"", **options: Any) -> Any:
        return self.locks.open(FILE, Opening(id, access, share, smb, key), **options)

    def lease(self, id: OpenId, key: bytes) -> None:
        assert self.open(id, key=key) is None
        given = self.locks.request(FILE, key, GrantKind.LEASE, RWH)
        assert given is not None and given.rights == RWH


def future(awaitable: Awaitable[None] | None) -> "asyncio.Future[None]":
    assert awaitable is not None
    return cast("asyncio.Future[None]", awaitable)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_nothing_is_kept_of_files_that_nobody_uses() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        scene.open(A)
        assert scene.locks.lock(FILE, A, 0, 10, True) is None
        assert [inode for inode, _ in scene.locks.files()] == [FILE]
        scene.locks.unlock(FILE, A, 0, 10)
        assert not scene.locks.close(FILE, A)
        assert list(scene.locks.files()) == [] and scene.locks.state(FILE) == FREE
        assert not scene.locks._contended and not scene.locks._queues and not scene.locks._timers
        with pytest.raises(Closed):
            scene.locks.close(FILE, A)

    simulate(main)


def test_waiting_locks_are_given_in_the_order_they_were_asked_for() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        for id in (A, B, C):
            scene.open(id)
        scene.locks.lock(FILE, A, 0, 10, True)
        with pytest.raises(LockConflict):
            scene.locks.lock(FILE, B, 5, 10, True)
        b = future(scene.locks.lock(FILE, B, 5, 10, True, queue=True))
        c = future(scene.locks.lock(FILE, C, 5, 10, True, queue=True))
        await settle()
        assert not b.done() and not c.done()
        scene.locks.unlock(FILE, A, 0, 10)
        await b
        await settle()
        assert not c.done()
        scene.locks.close(FILE, B)
        await c
        assert [lock.open for lock in scene.locks.state(FILE).ranges] == [C]

    simulate(main)


def test_a_request_that_is_taken_back_leaves_no_trace() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        for id in (A, B, C):
            scene.open(id)
        scene.locks.lock(FILE, A, 0, 10, True)
        b = future(scene.locks.lock(FILE, B, 0, 10, True, queue=True))
        c = future(scene.locks.lock(FILE, C, 0, 10, True, queue=True))
        assert b.cancel()
        scene.locks.unlock(FILE, A, 0, 10)
        await c
        assert [lock.open for lock in scene.locks.state(FILE).ranges] == [C]
        scene.locks.unlock(FILE, C, 0, 10)
        await settle()
        assert not scene.locks.state(FILE).ranges and not scene.locks._queues

    simulate(main)


def test_a_waiting_lock_ends_with_its_open() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        scene.open(A)
        scene.open(B)
        scene.locks.lock(FILE, A, 0, 10, True)
        waiting = future(scene.locks.lock(FILE, B, 0, 10, True, queue=True))
        scene.locks.close(FILE, B)
        with pytest.raises(Closed):
            await waiting

    simulate(main)


def test_an_open_waits_until_the_holder_of_a_lease_has_answered() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        scene.lease(A, b"a")
        with pytest.raises(Delayed):
            scene.open(B, smb=False)
        (told,) = [upcall for _, upcall in scene.told]
        assert isinstance(told, Recall) and told.keep == READ | HANDLE
        waiting = future(scene.open(B, smb=False, wait=True))
        assert len(scene.told) == 1
        await scene.clock.sleep(1)
        assert not waiting.done() and len(scene.locks.state(FILE).opens) == 1
        scene.locks.acknowledge(FILE, b"a", READ | HANDLE)
        await waiting
        assert len(scene.locks.state(FILE).opens) == 2
        await scene.clock.sleep(100)
        assert len(scene.told) == 1, "an answered recall does not run out"

    simulate(main)


def test_a_recall_that_is_not_answered_ends_in_revocation() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        scene.lease(A, b"a")
        started = scene.clock.monotonic()
        await future(scene.open(B, wait=True))
        assert 34 < scene.clock.monotonic() - started < 36
        assert [type(upcall) for _, upcall in scene.told] == [Recall, Revoked]
        assert scene.locks.state(FILE).grants[0].rights == 0
        assert not scene.locks._timers

    simulate(main)


def test_a_waiting_open_that_can_no_longer_succeed_fails() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        assert scene.open(A, share=0, key=b"a") is None
        scene.locks.request(FILE, b"a", GrantKind.LEASE, RWH)
        waiting = future(scene.open(B, wait=True))
        scene.locks.acknowledge(FILE, b"a", READ)
        with pytest.raises(SharingViolation):
            await waiting

    simulate(main)


def test_closing_the_last_open_of_a_lease_lets_those_who_wait_go_on_in_order() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        scene.lease(A, b"a")
        order: list[str] = []
        waits = [
            (future(scene.open(B, wait=True)), "open"),
            (future(scene.locks.may_write(FILE, OpenId(0), 0, 10, wait=True)), "write"),
            (future(scene.locks.check_remove(FILE, wait=True)), "remove"),
        ]
        for waiting, name in waits:
            waiting.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
        assert not scene.locks.close(FILE, A)
        await asyncio.gather(*(waiting for waiting, _ in waits))
        assert order == ["open", "write", "remove"]

    simulate(main)


def test_io_costs_nothing_where_nobody_is_in_the_way_and_is_stopped_where_somebody_is() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        none = OpenId(0)
        assert scene.locks.may_read(FILE, none, 0, 10) is None
        assert scene.locks.check_remove(FILE) is None
        scene.open(A, share=0)
        assert scene.locks.may_read(FILE, A, 0, 10) is None and scene.locks.may_write(FILE, A, 0, 10) is None
        for check in (scene.locks.may_read, scene.locks.may_write):
            with pytest.raises(SharingViolation):
                check(FILE, none, 0, 10)
        with pytest.raises(SharingViolation):
            scene.locks.check_remove(FILE)
        assert scene.locks.check_remove(FILE, A) is None

    simulate(main)


def test_states_are_restored_and_their_recalls_begin_anew() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        scene.lease(A, b"a")
        with pytest.raises(Delayed):
            scene.open(B)
        later = Scene(loop)
        later.locks.restore(FILE, scene.locks.state(FILE))
        scene.locks.stop()
        await scene.clock.sleep(40)
        assert [type(upcall) for _, upcall in later.told] == [Revoked]
        assert [type(upcall) for _, upcall in scene.told] == [Recall]

    simulate(main)


def test_stopping_ends_all_waiting() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        scene.lease(A, b"a")
        waiting = future(scene.open(B, wait=True))
        scene.locks.stop()
        with pytest.raises(Unavailable):  # not carried out: whoever asks elsewhere may get it
            await waiting
        with pytest.raises(Unavailable):
            scene.open(B, wait=True)

    simulate(main)


def test_only_so_many_wait_for_one_file() -> None:
    """Each change of the file's state tries all of them again: 8,192 that waited beside 8,192 locks held the loop up for 20 s."""

    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        scene.lease(A, b"lease")
        waiting = [future(scene.open(OpenId(10 + number), wait=True)) for number in range(MOST_WAITING)]
        with pytest.raises(Delayed):
            scene.open(OpenId(9999), wait=True)
        for each in waiting:
            each.cancel()

    simulate(main)

    async def locking(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        scene.open(A)
        scene.open(B)
        assert scene.locks.lock(FILE, A, 0, 10, True) is None
        waiting = [future(scene.locks.lock(FILE, B, 5, 10, False, queue=True)) for _ in range(MOST_QUEUED)]
        with pytest.raises(LockConflict):
            scene.locks.lock(FILE, B, 5, 10, False, queue=True)
        waiting[0].cancel()
        scene.locks.unlock(FILE, A, 0, 10)
        await settle()
        assert all(each.done() for each in waiting)

    simulate(locking)


def test_cancelled_requests_make_room_for_others() -> None:
    async def main(loop: SimulatedLoop) -> None:
        scene = Scene(loop)
        scene.open(A)
        scene.open(B)
        assert scene.locks.lock(FILE, A, 0, 10, True) is None
        for _ in range(3 * MOST_QUEUED):
            future(scene.locks.lock(FILE, B, 5, 10, False, queue=True)).cancel()
        assert not future(scene.locks.lock(FILE, B, 5, 10, False, queue=True)).done()

    simulate(main)
