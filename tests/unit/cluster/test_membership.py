"""Who belongs to the cluster, who runs, who is dead; how a cluster begins and how nodes come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from msgspec import structs

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.founding import AUTHORITY, Token, admit, authority_of, cluster_of, evict, found, invite, leave
from sofs.cluster.frames import Hello
from sofs.cluster.membership import ACTIVE, DRAINING, LEASE_S, LEVEL, Membership, endpoint
from sofs.cluster.records import DeadRecord, MemberRecord, NodeRecord, named
from sofs.coordination import Delete, Entry, Put, Store, keys
from sofs.coordination.embedded import EmbeddedStore
from sofs.errors import AccessDenied, Busy, ConfigError, Exists, InvalidArgument, NotFound, Unavailable
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate

CLUSTER = "00000000c1a57e00"
HOUR = 3600.0


def member(number: int, **options: Any) -> MemberRecord:
    given = {"id": number, "name": f"n{number}", "host": f"h{number}", "addresses": (f"10.0.0.{number}:4700",), **options}
    return MemberRecord(**given)


def as_is(entry: Entry) -> bytes:
    return entry.value


class Rig:
    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.clock, self.random = SimulatedClock(loop), SimulatedRandom(1)
        files = SimulatedFiles(self.random)
        files.make_directory("/data")
        self.store = EmbeddedStore.open(files, self.clock, self.random, "/data/store")

    async def begin(self, *others: int) -> None:
        """A cluster of node 1 and the others, none of which runs."""
        await found(self.store, member(1), CLUSTER, self.clock.now(), [], as_is)
        for number in others:
            token = await invite(self.store, self.random, self.clock.now(), ["etcd:1"], "sofs/", valid_s=HOUR, reusable=False)
            await admit(self.store, token, member(number), self.clock.now())

    async def run(self, number: int, incarnation: int = 0, *, former: int | None = None, features: int = 1) -> Membership:
        node = Membership(self.store, self.clock, NodeId(number), Incarnation(incarnation or 100 + number), "boot", features=features)
        node.fences = []  # type: ignore[attr-defined]
        node.on_fenced = node.fences.append  # type: ignore[attr-defined]
        await node.load()
        await node.start(f"n{number}", f"h{number}", [f"10.0.0.{number}:4700"], former=None if former is None else Incarnation(former))
        return node

    async def value(self, key: str) -> bytes | None:
        entry = await self.store.get(key)
        return entry.value if entry else None


def on_store(main: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def run(loop: SimulatedLoop) -> None:
        await main(Rig(loop))

    simulate(run)


def test_members_know_each_other_and_who_runs() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2, 3)
        one, two = await rig.run(1), await rig.run(2)
        await asyncio.sleep(1)
        assert one.addresses(NodeId(2)) == [("10.0.0.2", 4700)] and one.addresses(NodeId(9)) == []
        assert one.alive == two.alive == {1: 101, 2: 102}
        assert set(one.members) == {1, 2, 3}
        changes: list[int] = []
        one.on_change(lambda: changes.append(1))
        await two.announce(smb=["10.0.0.2:445"])
        await asyncio.sleep(1)
        assert one.running[NodeId(2)].smb == ("10.0.0.2:445",) and changes
        await two.stopping()
        await asyncio.sleep(1)
        assert one.alive == {1: 101}

    on_store(main)


def test_a_node_that_stops_is_recorded_as_ended_and_one_that_just_vanishes_is_not() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2, 3)
        one, two, three = await rig.run(1), await rig.run(2), await rig.run(3)
        deaths: list[tuple[int, int]] = []
        one.on_dead(lambda node, incarnation: deaths.append((node, incarnation)))
        await two.close()
        for task in three._tasks:
            task.cancel()
        await asyncio.sleep(2 * LEASE_S)
        assert deaths == [(2, 102)] and one.is_dead(NodeId(2), Incarnation(102))
        assert one.alive == {1: 101}, "the lease of the one that vanished has run out"
        assert not one.is_dead(NodeId(3), Incarnation(103)), "which proves nothing"

    on_store(main)


def test_a_successor_proves_that_its_predecessor_is_gone() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2)
        one, two = await rig.run(1), await rig.run(2)
        deaths: list[tuple[int, int]] = []
        one.on_dead(lambda node, incarnation: deaths.append((node, incarnation)))
        again = await rig.run(2, 202, former=102)
        await asyncio.sleep(2 * LEASE_S)
        assert deaths == [(2, 102)] and one.alive[NodeId(2)] == 202
        assert two.fences == ["this process was declared dead"]  # type: ignore[attr-defined]
        assert not again.fences  # type: ignore[attr-defined]

    on_store(main)


def test_a_process_that_wakes_beside_another_of_its_node_gives_up() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin()
        one = await rig.run(1)
        again = await rig.run(1, 999)
        await asyncio.sleep(1)
        assert one.fences == ["another process of this node runs"] and not again.fences  # type: ignore[attr-defined]
        await asyncio.sleep(60)
        assert NodeRecord.decode(await rig.value(keys.node(1)) or b"").incarnation == 999

    on_store(main)


def test_what_the_former_process_said_is_no_reason_to_give_up() -> None:
    """Its record is there until its lease ends, and other nodes' changes are seen before this one's own."""

    async def main(rig: Rig) -> None:
        await rig.begin(2)
        former = await rig.run(1)
        for task in former._tasks:
            task.cancel()
        two = await rig.run(2)
        again = Membership(rig.store, rig.clock, NodeId(1), Incarnation(202), "boot")
        fences: list[str] = []
        again.on_fenced = fences.append
        await again.load()
        assert again.running[NodeId(1)].incarnation == 101
        await two.announce(smb=["somewhere:445"])
        late = NodeRecord(id=1, incarnation=101, boot="late").encode()
        await rig.store.transact([], [Put(keys.node(1), late)])
        await again.start("n1", "h1", ["10.0.0.1:4700"], former=Incarnation(101))
        await two.announce(smb=["elsewhere:445"])
        await asyncio.sleep(30)
        assert not fences and again.alive[NodeId(1)] == 202

    on_store(main)


def test_a_lease_that_ran_out_is_made_anew() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin()
        one = await rig.run(1)
        assert one._lease is not None
        await rig.store.end_lease(one._lease.id)
        assert await rig.value(keys.node(1)) is None
        await asyncio.sleep(10)
        assert NodeRecord.decode(await rig.value(keys.node(1)) or b"").incarnation == 101
        await asyncio.sleep(1000)
        assert one.alive == {1: 101}

    on_store(main)


def hello(number: int, *, incarnation: int = 1, features: int = 1) -> Hello:
    return Hello(1, number, incarnation, 1, 0, 1, features)


def test_who_connects_is_refused_with_the_reason() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2, 3)
        one, two = await rig.run(1), await rig.run(2)
        assert one.admit(hello(2)) == ""
        assert "no member" in one.admit(hello(9))
        await rig.store.transact([], [Put(keys.dead(2), DeadRecord(incarnation=102, by="test").encode())])
        await evict(rig.store, NodeId(3), "an operator", force=False)
        await asyncio.sleep(1)
        assert "declared dead" in one.admit(hello(2, incarnation=102))
        assert "evicted" in one.admit(hello(3))
        assert one.addresses(NodeId(3)) == []
        assert two.fences == ["this process was declared dead"]  # type: ignore[attr-defined]

    on_store(main)


def test_an_evicted_node_stops_and_does_not_come_back() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2)
        one, two = await rig.run(1), await rig.run(2)
        with pytest.raises(Busy, match="--force"):
            await evict(rig.store, NodeId(2), "an operator", force=False)
        await evict(rig.store, NodeId(2), "an operator", force=True)
        await asyncio.sleep(1)
        assert two.fences and one.is_dead(NodeId(2), Incarnation(102))  # type: ignore[attr-defined]
        with pytest.raises(ConfigError, match="evicted"):
            await rig.run(2, 202)
        with pytest.raises(NotFound):
            await evict(rig.store, NodeId(7), "an operator", force=True)

    on_store(main)


def test_that_no_record_shows_a_process_is_no_proof_that_it_has_ended() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2, 3)

        async def dead() -> int | None:
            value = await rig.value(keys.dead(2))
            return None if value is None else DeadRecord.decode(value).incarnation

        # It may be cut off from the store, and go on until its standbys' promises have run out.
        await evict(rig.store, NodeId(2), "an operator", force=False, incarnations=[102])
        assert await dead() is None
        await evict(rig.store, NodeId(2), "an operator", force=True, incarnations=[102])
        assert await dead() == 102
        # What has been proved stays so.
        await evict(rig.store, NodeId(2), "an operator", force=True, incarnations=[101, 102])
        assert await dead() == 102
        await evict(rig.store, NodeId(2), "an operator", force=True, incarnations=[103])
        assert await dead() == 103
        # A record of the process that outlives it is no reason to doubt its death.
        await rig.store.transact([], [Put(keys.dead(3), DeadRecord(incarnation=7, by="its supervisor").encode())])
        await rig.store.transact([], [Put(keys.node(3), NodeRecord(id=3, incarnation=8, boot="").encode())])
        with pytest.raises(Busy):
            await evict(rig.store, NodeId(3), "an operator", force=False)
        await rig.store.transact([], [Put(keys.node(3), NodeRecord(id=3, incarnation=7, boot="").encode())])
        await evict(rig.store, NodeId(3), "an operator", force=False)

    on_store(main)


def test_the_level_of_features_is_the_lowest_and_never_goes_back() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2)
        one = await rig.run(1, features=3)
        two = await rig.run(2, features=1)
        await asyncio.sleep(1)
        assert one.level == two.level == 1
        await two.close()
        two = await rig.run(2, 202, features=2)
        await asyncio.sleep(1)
        assert one.level == two.level == 2 and await rig.value(LEVEL) == b"2"
        assert "knows feature level 1, the cluster is at 2" in one.admit(hello(2))
        await two.close()
        with pytest.raises(ConfigError, match="install a newer release"):
            await rig.run(2, 302, features=1)
        token = await invite(rig.store, rig.random, rig.clock.now(), [], "", valid_s=HOUR, reusable=True)
        with pytest.raises(ConfigError, match="install a newer release"):
            await admit(rig.store, token, member(4, features=1), rig.clock.now())

    on_store(main)


def test_draining_is_a_state_of_the_members_record() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2)
        one, two = await rig.run(1), await rig.run(2)
        await one.set_state(NodeId(2), DRAINING)
        await asyncio.sleep(1)
        assert two.members[NodeId(2)].state == DRAINING
        await two.close()
        await rig.run(2, 202)
        await asyncio.sleep(1)
        assert one.members[NodeId(2)].state == DRAINING, "a restart does not undrain"
        await one.set_state(NodeId(2), ACTIVE)

    on_store(main)


def test_a_name_is_that_of_the_member_who_has_it_now() -> None:
    evicted = structs.replace(member(1, name="two"), state="evicted")
    two, three, again = member(2, name="two"), member(3, name="three"), member(4, name="three")
    assert named([evicted, two, three], "two") == two
    assert named([two, evicted], f"{1:016x}") == evicted
    assert named([evicted, three], "two") == evicted
    with pytest.raises(NotFound, match="sofs node list"):
        named([evicted, two], "four")
    with pytest.raises(Busy, match="give the id"):
        named([three, again], "three")
    assert named([three, again], f"{4:016x}") == again


# Founding and joining


def test_a_cluster_is_founded_with_all_records_and_again_after_an_interruption() -> None:
    async def main(rig: Rig) -> None:
        class Broken(Exception):
            pass

        class Interrupted:
            """A store whose process dies behind some transactions."""

            def __init__(self, left: int) -> None:
                self.left = left

            def __getattr__(self, name: str) -> Any:
                return getattr(rig.store, name)

            async def transact(self, *arguments: Any) -> Any:
                if not self.left:
                    raise Broken
                self.left -= 1
                return await rig.store.transact(*arguments)

        records = [Entry(f"shares/s{number}", b"%d" % number, 1) for number in range(300)]
        now = rig.clock.now()
        for left in range(5):
            store: Store = Interrupted(left)  # type: ignore[assignment]
            with pytest.raises(Broken):
                await found(store, member(1), CLUSTER, now, records[: 300 - left], lambda entry, left=left: b"%d" % left)  # type: ignore[misc]
            with pytest.raises(ConfigError, match="no cluster"):
                await cluster_of(rig.store)
        authority = await found(rig.store, member(1), CLUSTER, now, records[5:], lambda entry: entry.value + b"!")
        listing = await rig.store.range("shares/")
        assert {entry.key: entry.value for entry in listing.entries} == {entry.key: entry.value + b"!" for entry in records[5:]}
        again = await found(rig.store, member(1), CLUSTER, now, [], as_is)
        assert again.fingerprint == authority.fingerprint == (await authority_of(rig.store)).fingerprint
        assert len((await rig.store.range("shares/")).entries) == 295
        with pytest.raises(Exists, match="uses this etcd"):
            await found(rig.store, member(2), "another", now, [], as_is)

    on_store(main)


def test_founding_takes_away_nothing_that_is_not_its_own() -> None:
    async def main(rig: Rig) -> None:
        for foreign in ("lab/members/0000000000000001", "/members/0000000000000001", "lab", "volumes"):
            await rig.store.transact([], [Put(foreign, b"somebody's")])
            with pytest.raises(Exists, match="--prefix"):
                await found(rig.store, member(1), CLUSTER, rig.clock.now(), [], as_is)
            assert await rig.value(foreign) == b"somebody's"
            await rig.store.transact([], [Delete(foreign)])
        await found(rig.store, member(1), CLUSTER, rig.clock.now(), [], as_is)

    on_store(main)


def test_of_two_who_found_a_cluster_at_once_one_is_told_so_and_harms_nothing() -> None:
    async def main(rig: Rig) -> None:
        class Late:
            """Sees the store as it was before the other began."""

            def __getattr__(self, name: str) -> Any:
                return getattr(rig.store, name)

            async def get(self, key: str) -> Entry | None:
                return None if key == keys.CLUSTER else await rig.store.get(key)

        records = [Entry("shares/mine", b"1", 1)]
        await found(rig.store, member(1), CLUSTER, rig.clock.now(), records, as_is)
        before = {entry.key: entry.value for entry in (await rig.store.range("")).entries}
        late: Store = Late()  # type: ignore[assignment]
        with pytest.raises(Exists, match="at the same time"):
            await found(late, member(2), "another", rig.clock.now(), [Entry("shares/other", b"2", 1)], as_is)
        assert {entry.key: entry.value for entry in (await rig.store.range("")).entries} == before

    on_store(main)


def test_a_token_lets_one_node_in_once() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin()
        now = rig.clock.now()
        token = await invite(rig.store, rig.random, now, ["etcd:2379"], "sofs/", valid_s=HOUR, reusable=False)
        text = token.encode()
        assert Token.decode(text) == token and (token.endpoints, token.prefix) == (("etcd:2379",), "sofs/")
        for wrong in ("", "sofs1-", "sofs1-AAAA", text[:-4], "x" + text):
            with pytest.raises(InvalidArgument):
                Token.decode(wrong)
        forged = Token(token.cluster, token.endpoints, token.prefix, token.id, bytes(24), token.fingerprint)
        with pytest.raises(AccessDenied):
            await admit(rig.store, forged, member(2), now)
        strange = Token(token.cluster, token.endpoints, token.prefix, token.id, token.secret, "0" * 64)
        with pytest.raises(AccessDenied, match="another cluster"):
            await admit(rig.store, strange, member(2), now)
        with pytest.raises(Exists, match="--name"):
            await admit(rig.store, token, member(2, name="n1"), now)
        await admit(rig.store, token, member(2), now)
        await admit(rig.store, token, member(2), now)  # the same again, as after an interruption
        with pytest.raises(AccessDenied, match="was used"):
            await admit(rig.store, token, member(3), now)
        await evict(rig.store, NodeId(2), "an operator", force=False)
        with pytest.raises(AccessDenied, match="evicted"):
            await admit(rig.store, token, member(2), now)

    on_store(main)


def test_a_reusable_token_lets_nodes_in_until_it_expires() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin()
        token = await invite(rig.store, rig.random, rig.clock.now(), [], "", valid_s=HOUR, reusable=True)
        await admit(rig.store, token, member(2), rig.clock.now())
        await admit(rig.store, token, member(3), rig.clock.now())
        await asyncio.sleep(HOUR + 2)
        with pytest.raises(AccessDenied, match="expired, 2 s ago by this host's clock"):
            await admit(rig.store, token, member(4), rig.clock.now())
        await invite(rig.store, rig.random, rig.clock.now(), [], "", valid_s=HOUR, reusable=True)
        assert await rig.value(keys.token(token.id)) is None, "what has expired is cleared away"

    on_store(main)


def test_a_node_leaves_that_holds_nothing_and_is_not_the_last() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2)
        with pytest.raises(Busy, match="2 disks"):
            await leave(rig.store, NodeId(2), ["2 disks"])
        await leave(rig.store, NodeId(2), [])
        assert await rig.value(keys.member(2)) is None
        with pytest.raises(Busy, match="last"):
            await leave(rig.store, NodeId(1), [])
        with pytest.raises(ConfigError, match="no member"):
            await rig.run(2)

    on_store(main)


def test_addresses_are_read_or_refused() -> None:
    assert endpoint("10.0.0.1:4700") == ("10.0.0.1", 4700)
    assert endpoint("[fd00::1]:4700") == ("fd00::1", 4700)
    for wrong in ("", "10.0.0.1", ":1", "x:y", "10.0.0.1:70000"):
        with pytest.raises(ConfigError):
            endpoint(wrong)


def test_a_record_that_cannot_be_read_hides_no_other() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2)
        await rig.store.transact([], [Put(keys.member(7), b"nonsense"), Put("members/xyz", b"{}")])
        one = await rig.run(1)
        assert set(one.members) == {1, 2}
        # Nor does it end the watch when it goes, or what follows it.
        await rig.store.transact([], [Delete("members/xyz"), Put("dead/xyz", b"{}"), Put(LEVEL, b"many")])
        await rig.store.transact([], [Delete("dead/xyz"), Put("nodes/xyz", b"{}")])
        await rig.store.transact([], [Delete("nodes/xyz")])
        await asyncio.sleep(1)
        two = await rig.run(2)
        await evict(rig.store, NodeId(2), "an operator", force=True)
        await asyncio.sleep(1)
        assert one.members[NodeId(2)].state == "evicted" and NodeId(2) not in one.running
        assert one.is_dead(NodeId(2), two.incarnation)

    on_store(main)


def test_while_the_store_is_down_everything_stays_as_it_was() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2)
        one = await rig.run(1)
        store = rig.store

        async def down(*arguments: Any) -> Any:
            raise Unavailable("down")

        real = store.transact, store.lease, store.get
        store.transact = store.lease = store.get = down  # type: ignore[method-assign,assignment]
        assert one._lease is not None
        lease = one._lease
        keep, lease.keep = lease.keep, down  # type: ignore[method-assign]
        await asyncio.sleep(5)
        await one.announce(smb=["late"])
        assert one.addresses(NodeId(2)) and not one.fences  # type: ignore[attr-defined]
        await asyncio.sleep(60)
        (store.transact, store.lease, store.get), lease.keep = real, keep  # type: ignore[method-assign]
        await asyncio.sleep(10)
        assert NodeRecord.decode(await rig.value(keys.node(1)) or b"").smb == ("late",)
        assert not one.fences  # type: ignore[attr-defined]

    on_store(main)


def test_the_authority_is_a_secret_of_the_store() -> None:
    assert AUTHORITY.startswith(keys.SECRETS)
