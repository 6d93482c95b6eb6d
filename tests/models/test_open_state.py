"""Opens, ranges and leases of one file through the volume's requests, with clients that vanish and return and a server that dies in between, against a
model simple enough to be right by inspection.

The model keeps what each open asked for and what each lease has. It says of every request beforehand whether it is done, refused, or has to wait; who
gives way; and what is there after a restart. Waiting requests are taken back at once: the recalls that they have made stay.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.errors import Delayed, LockConflict, SharingViolation, SofsError
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.types import Level, OpenId
from sofs.volume.api import Access, Acknowledge, Close, Keep, Lock, Opened, Stateless
from tests.unit.volume.state_rig import NFS, SMB, R, StateRig
from tests.unit.volume.volume_rig import SUPER

READ, WRITE, STAT = int(Access.READ_DATA), int(Access.WRITE_DATA), int(Access.READ_ATTRIBUTES)
H, W = 2, 4
LEASES = (0, R, R | H, R | W, R | H | W)
FOREVER = 10_000_000


@dataclass
class Use:
    """An open, in the model."""

    access: int
    share: int
    key: bytes
    smb: bool
    keep: str
    """`no`, `durable`, `persistent` or `client` (NFSv4)."""
    connected: bool = True


@dataclass
class Lease:
    rights: int
    target: int


@dataclass
class Model:
    uses: dict[OpenId, Use] = field(default_factory=dict)
    leases: dict[bytes, Lease] = field(default_factory=dict)
    ranges: list[tuple[OpenId, int, int, bool, bytes]] = field(default_factory=list)

    def drop(self, id: OpenId) -> None:
        use = self.uses.pop(id)
        self.ranges = [held for held in self.ranges if held[0] != id]
        if use.key and not any(other.key == use.key for other in self.uses.values()):
            self.leases.pop(use.key, None)

    def give_way(self, ids: list[OpenId]) -> None:
        for id in ids:
            if not self.uses[id].connected:
                if self.uses[id].keep == "persistent":
                    raise Delayed("it stays")
                self.drop(id)

    def take(self, actor: bytes, taken: int, needed: int) -> bool:
        """Recalls from everybody else; whether the request has to wait."""
        wait = False
        for key, lease in list(self.leases.items()):
            if (actor and key == actor) or not lease.rights & (taken | needed):
                continue
            target = lease.target & ~taken if lease.target & ~taken & R else 0
            recalling = lease.target != lease.rights
            blocked = bool(lease.rights & needed) and (recalling or target != lease.target)
            if target == lease.target and not blocked:
                continue
            sharers = [id for id, use in self.uses.items() if use.key == key]
            if not any(self.uses[id].connected for id in sharers):
                if lease.rights & needed or any(self.uses[id].keep != "persistent" for id in sharers):
                    self.give_way(sharers)
                else:
                    lease.rights = lease.target = target
                continue
            if not recalling and lease.rights == R:
                lease.rights = lease.target = 0
            else:
                lease.target = target
            wait = wait or blocked
        return wait

    def open(self, access: int, share: int, key: bytes) -> bool:
        blocking = [id for id, use in self.uses.items() if clash(use, access, share)]
        self.give_way(blocking)
        live = [self.uses[id] for id in blocking if id in self.uses]
        for use in live:
            if use.key == key or not use.key or not self.leases.get(use.key, Lease(0, 0)).rights & H:
                raise SharingViolation("no")
        if live:
            wait = False
            for held in {use.key for use in live}:
                others = {other: lease for other, lease in self.leases.items() if other != held}
                alone = Model(self.uses, {held: self.leases[held]}, self.ranges)
                wait = alone.take(key, H, H) or wait
                self.leases = {**others, **alone.leases}
            if wait:
                return True
        if access == STAT:
            return False
        if self.take(key, W, W):
            return True
        return any(lease.target != lease.rights and not (key and other == key) and not lease.rights & W for other, lease in self.leases.items())

    def io(self, id: OpenId, start: int, end: int, write: bool) -> bool:
        use = self.uses.get(id)
        if use is None:
            blocking = [other for other, held in self.uses.items() if held.access != STAT and ~held.share & (2 if write else 1)]
            self.give_way(blocking)
            live = [self.uses[other] for other in blocking if other in self.uses]
            if any(not self.leases.get(held.key, Lease(0, 0)).rights & H for held in live):
                raise SharingViolation("no")
            if live:
                for held in {use.key for use in live}:
                    others = {other: lease for other, lease in self.leases.items() if other != held}
                    alone = Model(self.uses, {held: self.leases[held]}, self.ranges)
                    alone.take(b"", H, H)
                    self.leases = {**others, **alone.leases}
                return True
        for other, held_start, held_end, exclusive, owner in list(self.ranges):
            if (other, held_start, held_end, exclusive, owner) not in self.ranges:
                continue
            mine = use is not None and use.smb and other == id and exclusive
            nfs = use is None or not use.smb
            if held_start < end and start < held_end and (write or exclusive) and not mine and not (nfs and owner):
                if self.uses[other].connected:
                    raise LockConflict("no")
                self.give_way([other])
        return self.take(use.key if use else b"", R | H | W if write else W, W)

    def lock(self, id: OpenId, start: int, end: int, exclusive: bool, owner: bytes) -> bool:
        for other, held_start, held_end, held_exclusive, held_owner in list(self.ranges):
            if (other, held_start, held_end, held_exclusive, held_owner) not in self.ranges:
                continue
            if not (exclusive or held_exclusive) or not (held_start < end and start < held_end):
                continue
            if (owner and owner == held_owner) or (not owner and not held_owner and other == id and held_exclusive and not exclusive):
                continue
            if self.uses[other].connected:
                raise LockConflict("no")
            self.give_way([other])
        return self.take(self.uses[id].key, R | H | W, W)

    def room(self, id: OpenId, wanted: int) -> int:
        use = self.uses[id]
        foreign = [lease for key, lease in self.leases.items() if key != use.key]
        others = any(other.key != use.key and other.access != STAT for other in self.uses.values())
        if not wanted & R or any(lease.rights & W for lease in foreign) or any(self.uses[held[0]].key != use.key for held in self.ranges):
            return 0
        return wanted & ~W if others or foreign else wanted

    def wish(self, id: OpenId, wanted: int) -> None:
        key = self.uses[id].key
        lease = self.leases.get(key)
        if lease is None:
            rights = self.room(id, wanted)
            self.leases[key] = Lease(rights, rights)
        elif lease.target == lease.rights and not lease.rights & ~wanted and self.room(id, wanted) == wanted:
            lease.rights = lease.target = wanted

    def restart(self) -> None:
        """What is not kept is gone; SMB's has lost its connection; nobody is being asked for anything."""
        for id in [id for id, use in self.uses.items() if use.keep == "no"]:
            self.drop(id)
        for use in self.uses.values():
            use.connected = not use.smb
        for lease in self.leases.values():
            lease.target = lease.rights


def clash(use: Use, access: int, share: int) -> bool:
    if STAT in (access, use.access):
        return False
    needs = (1 if access & READ else 0) | (2 if access & WRITE else 0)
    held = (1 if use.access & READ else 0) | (2 if use.access & WRITE else 0)
    return bool(needs & ~use.share or held & ~share)


ACTIONS = ("smb", "smb", "smb", "nfs", "lock", "lock", "unlock", "io", "io", "v3", "answer", "answer", "close", "disconnect", "reconnect", "restart")
steps = st.lists(st.tuples(st.sampled_from(ACTIONS), *[st.integers(0, 7)] * 5), max_size=25)


class Play:
    """Carries the steps out on both."""

    def __init__(self, rig: StateRig) -> None:
        self.rig = rig
        self.model = Model()
        self.number = 0

    async def meet(self, act: Any) -> Any:
        """The reply, or the error's class; `Delayed` also for what would have to wait."""
        try:
            result = act()
        except SofsError as error:
            return type(error)
        if isinstance(result, Awaitable):
            task = asyncio.ensure_future(result)
            await asyncio.sleep(0.01)
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                return Delayed
            try:
                return task.result()
            except SofsError as error:
                return type(error)
        return result

    async def both(self, predicted: Any, act: Any) -> Any:
        """Predicts, acts, compares; gives the reply of what was done. What is refused leaves the model as it was; what waits has made its recalls."""
        before = copy(self.model)
        expected: type[SofsError] | None
        try:
            expected = Delayed if predicted() else None
        except SofsError as error:
            expected, self.model = type(error), before
        met = await self.meet(act)
        assert (met if isinstance(met, type) else None) == expected, (met, expected)
        return None if isinstance(met, type) else met

    def pick(self, number: int, wanted: Any = lambda use: True) -> OpenId | None:
        fitting = [id for id, use in self.model.uses.items() if wanted(use)]
        return fitting[number % len(fitting)] if fitting else None

    async def smb(self, a: int, b: int, c: int, d: int, e: int) -> None:
        model, access, share = self.model, (READ, WRITE, READ | WRITE, STAT)[a % 4], (7, 7, 3, 1, 0, 2, 6, 5)[b]
        key, rights, keep = (b"one", b"two", b"three", b"")[c % 4], LEASES[d % 5], ("no", "durable", "persistent")[e % 3]
        self.number += 1
        kept = {"no": None, "durable": Keep(FOREVER), "persistent": Keep(FOREVER, persistent=True)}[keep]
        request = self.rig.smb_request(
            b"f", rights if key else None, key=key, keep=kept, access=access, share=share, client=b"client", guid=b"%d" % self.number
        )
        opened: Opened | None = await self.both(lambda: model.open(access, share, key), lambda: self.rig.volume.call(request, None, SMB))
        if opened is None:
            return
        model.uses[opened.open] = Use(access, share, key, True, "no")
        if key:
            model.wish(opened.open, rights)
            assert opened.grant == model.leases[key].rights
        if keep == "persistent" or (keep == "durable" and key and model.leases[key].rights & H):
            model.uses[opened.open].keep = keep

    async def nfs(self, a: int, b: int, c: int, d: int, e: int) -> None:
        model, access, deny = self.model, (READ, WRITE, READ | WRITE)[a % 3], (0, 0, 0, 1, 2, 3, 0, 0)[b]
        client = (b"nfs a", b"nfs b")[c % 2]
        self.number += 1
        request = self.rig.nfs_request(b"f", client, b"%d" % self.number, access, deny)
        opened = await self.both(lambda: model.open(access, 7 & ~deny, client), lambda: self.rig.volume.call(request, None, NFS))
        if opened is None:
            return
        model.uses[opened.open] = Use(access, 7 & ~deny, client, False, "client")

    async def lock(self, a: int, b: int, c: int, d: int, e: int) -> None:
        id = self.pick(a, lambda use: use.connected and use.access != STAT)
        if id is None:
            return
        use, start, end, exclusive = self.model.uses[id], b, b + 1 + c, bool(d % 2)
        owner = b"" if use.smb else use.key + b" owner %d" % e
        if owner and any(held[4] == owner for held in self.model.ranges):
            return  # merging and splitting is test_locks' business
        model = self.model
        request = Lock(id, start, end - start, exclusive, owner=owner)
        done = await self.both(lambda: model.lock(id, start, end, exclusive, owner), lambda: self.rig.volume.call(request, None, SMB))
        if done is not None:
            model.ranges.append((id, start, end, exclusive, owner))

    async def unlock(self, a: int, b: int, c: int, d: int, e: int) -> None:
        held = [held for held in self.model.ranges if self.model.uses[held[0]].connected]
        if held:
            id, start, end, _, owner = held[a % len(held)]
            same = [other for other in held if other[:3] == (id, start, end)]
            one = max(same, key=lambda other: other[3])  # of two on the same bytes the exclusive one goes first
            self.rig.unlock(id, start, end - start, owner)
            self.model.ranges.remove(one)

    async def io(self, a: int, b: int, c: int, d: int, e: int) -> None:
        write = bool(d % 2)
        id = self.pick(a, lambda use: use.connected and use.access & (WRITE if write else READ))
        if id is not None:
            await self.touch(id, id, b, b + 1 + c, write)

    async def v3(self, a: int, b: int, c: int, d: int, e: int) -> None:
        await self.touch(OpenId(0), Stateless(self.inode(), SUPER), b, b + 1 + c, bool(d % 2))

    async def touch(self, id: OpenId, target: Any, start: int, end: int, write: bool) -> None:
        model, volume = self.model, self.rig.volume

        def act() -> Any:
            if write:
                return volume.write(target, start, memoryview(bytes(end - start)), None, Level.COMMITTED, SMB)
            return volume.read(target, start, memoryview(bytearray(end - start)), SMB)

        await self.both(lambda: model.io(id, start, end, write), act)

    def inode(self) -> Any:
        return self.rig.lookup(b"f").inode

    async def answer(self, a: int, b: int, c: int, d: int, e: int) -> None:
        asked = [key for key, lease in self.model.leases.items() if lease.target != lease.rights]
        if not asked:
            return
        key = asked[a % len(asked)]
        lease = self.model.leases[key]
        for _ in range(3):  # step by step, down to what is left
            grant = self.rig.volume.core.locks.state(self.inode()).grant(key)
            assert grant is not None and (grant.rights, grant.target) == (lease.rights, lease.target)
            if not grant.recalling:
                break
            self.rig.ask(Acknowledge(self.inode(), key, grant.told))
            lease.rights = lease.target if grant.told == grant.target or grant.told == R else grant.told
        assert lease.rights == lease.target

    async def close(self, a: int, b: int, c: int, d: int, e: int) -> None:
        id = self.pick(a, lambda use: use.connected)
        if id is not None:
            self.rig.ask(Close(id))
            self.model.drop(id)

    async def disconnect(self, a: int, b: int, c: int, d: int, e: int) -> None:
        id = self.pick(a, lambda use: use.connected and use.smb)
        if id is None:
            return
        use, lease = self.model.uses[id], self.model.leases.get(self.model.uses[id].key, Lease(0, 0))
        self.rig.disconnect(replace_open(id))
        if use.keep == "persistent" or (use.keep == "durable" and lease.rights & H and lease.target == lease.rights):
            use.connected = False
        else:
            self.model.drop(id)

    async def reconnect(self, a: int, b: int, c: int, d: int, e: int) -> None:
        id = self.pick(a, lambda use: not use.connected)
        if id is not None:
            opened = self.rig.volume.core.opens[id]
            reply = self.rig.reconnect(replace_open(id), opened.lease, client=b"client", guid=opened.guid)
            self.model.uses[id].connected = True
            lease = self.model.leases.get(self.model.uses[id].key, Lease(0, 0))
            assert (reply.grant, reply.breaking) == (lease.rights, lease.rights != lease.target)

    async def restart(self, a: int, b: int, c: int, d: int, e: int) -> None:
        await self.rig.die()
        self.model.restart()

    def compare(self) -> None:
        core, model = self.rig.volume.core, self.model
        state = core.locks.state(self.inode())
        assert {id: (use.access, use.share, use.key, use.connected) for id, use in model.uses.items()} == {
            held.id: (held.access, held.share, held.key, held.connected) for held in state.opens
        }
        assert set(core.opens) == set(model.uses)
        assert {key: (lease.rights, lease.target) for key, lease in model.leases.items()} == {
            grant.key: (grant.rights, grant.target) for grant in state.grants
        }
        assert sorted(model.ranges) == sorted((held.open, held.start, held.end, held.exclusive, held.owner) for held in state.ranges)


def copy(model: Model) -> Model:
    return Model(
        {id: replace(use) for id, use in model.uses.items()}, {key: replace(lease) for key, lease in model.leases.items()}, list(model.ranges)
    )


def replace_open(id: OpenId) -> Any:
    """Stands for an `Opened`, of which only the number is asked."""

    class Number:
        open = id

    return Number


@settings(max_examples=150)
@given(steps)
def test_opens_ranges_and_leases_agree_with_the_model_over_restarts(given_steps: list[Any]) -> None:
    loop = SimulatedLoop()
    random = SimulatedRandom(1)
    rig = StateRig(SimulatedFiles(random), SimulatedClock(loop), random, policy="simple", disks=1, log_disks=1)

    async def main() -> None:
        await rig.make()
        rig.make_name(b"f", mode=0o666)
        play = Play(rig)
        for action, *numbers in given_steps:
            await getattr(play, action)(*numbers)
            play.compare()
        await rig.clean()
        await rig.die()
        play.model.restart()
        play.compare()
        await rig.clean()
        await rig.close()

    loop.run(main())
