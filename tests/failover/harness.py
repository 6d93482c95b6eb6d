"""Rounds of faults under verifying writers, and the report."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from sofs.admin import api
from tests.failover.faults import Fault
from tests.failover.laboratory import Counted, Laboratory
from tests.failover.nfs3 import Nfs3Directory
from tests.failover.nfs4 import Nfs4Directory
from tests.failover.retrying import LOST, Directory, Forgotten, Trouble
from tests.failover.smb import SmbDirectory
from tests.failover.writers import HELD, Writer, ledger
from tests.interop.ledger import Files

PROTOCOLS = ("smb", "nfs3", "nfs4")
OTHER = {"smb": "nfs3", "nfs3": "smb", "nfs4": "smb"}
"""Through which protocol a writer's directory is compared."""
BEFORE_S, AFTER_S = (0.3, 1.0), (0.2, 1.0)
LONGER_S = (0.0, 0.0, 0.2, 0.5, 0.5, 1.0, 2.0, 8.0)
"""So much longer than every client needs to go on a fault lasts: most times little, so that it is mended while the cluster still gets over it, now and then
so long that it replaces what is away."""
COPIES = 3
"""Of each volume's log, before a fault."""
WHOLE_S = 90.0
"""Until the cluster has all copies again after a fault was mended."""
QUIET_S = 170.0
"""Until every writer has its answer: more than a client's patience."""
SMB_PORT, NFS_PORT = 445, 2049


@dataclass
class Score:
    rounds: int = 0
    lost: int = 0
    wrong: int = 0
    errors: int = 0
    pauses: dict[str, list[float]] = field(default_factory=dict)
    caught: dict[str, int] = field(default_factory=dict)
    """By fault, the rounds in which a request was under way and had to be sent again."""
    played: dict[str, int] = field(default_factory=dict)
    replays: dict[str, int] = field(default_factory=dict)
    """By fault, the requests that came again and that the servers knew: answered from tokens, slots and sequences, or opens reconnected."""
    took: dict[str, float] = field(default_factory=dict)
    """By fault, the seconds that all its rounds took."""
    resent: int = 0
    acknowledged: int = 0
    messages: list[str] = field(default_factory=list)

    def complain(self, text: str) -> None:
        self.messages.append(text)
        print(text, flush=True)


class Harness:
    """A lab with its writers. Runs on a loop in the lab's network."""

    def __init__(self, lab: Laboratory, each: int, seed: int, protocols: Sequence[str] = PROTOCOLS) -> None:
        self.lab = lab
        self.chance = random.Random(seed)
        self.score = Score()
        self.writers = [self._writer(protocol, number) for number in range(each) for protocol in protocols]
        self._locks = {protocol: self._directory(protocol, f"locks-{protocol}", lab.vips, 200 + at) for at, protocol in enumerate(protocols)}
        self._clients = 300

    def _writer(self, protocol: str, number: int) -> Writer:
        name = f"{protocol}-{number}"
        vips = [self.lab.vips[number % len(self.lab.vips)]]
        client = 10 * number + PROTOCOLS.index(protocol)
        return Writer(protocol, name, lambda: self._directory(protocol, name, vips, client), ledger(self.chance))

    def _directory(self, protocol: str, name: str, addresses: Sequence[str], number: int) -> Directory:
        about = self.lab.about
        if protocol == "smb":
            return SmbDirectory(addresses, SMB_PORT, about["share"], name, about["user"], about["password"])
        if protocol == "nfs3":
            return Nfs3Directory(addresses, NFS_PORT, about["share"], name, number & 0xFF)
        return Nfs4Directory(addresses, NFS_PORT, about["share"], name)

    async def run(self, faults: Sequence[Fault], rounds: int) -> Score:
        """All rounds, or those until a signal asked to stop behind the one under way."""
        go, stop = asyncio.Event(), asyncio.Event()
        for writer in self.writers:
            writer.directory = writer.open()
            await writer.directory.open()
        for directory in self._locks.values():
            await directory.open()
            await directory.hold(HELD)
        enough = asyncio.Event()
        for asked in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(asked, enough.set)
        tasks = [asyncio.create_task(writer.run(go, stop)) for writer in self.writers]
        tasks += [asyncio.create_task(self._keep(protocol, directory)) for protocol, directory in self._locks.items()]
        try:
            await self._until("before the first round", self._not_whole)
            for number in range(rounds):
                for fault in faults:
                    if enough.is_set():
                        return self.score
                    await self._round(fault, number, go)
                    for task in tasks[: len(self.writers)]:
                        if task.done():
                            task.result()  # a writer does not end by itself
        finally:
            stop.set()
            go.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in [*self._locks.values(), *(writer.directory for writer in self.writers)]:
                if each is not None:
                    await each.close()
            self.score.acknowledged = sum(writer.ledger.acknowledged for writer in self.writers)
        return self.score

    async def _keep(self, protocol: str, directory: Directory) -> None:
        """The holder of a lock is heard of now and then, or its lease would run out."""
        while True:
            try:
                await directory.touch()
            except Trouble as trouble:
                self.score.errors += 1
                self.score.complain(f"the client with a lock over {protocol} lost it: {trouble}")
                return
            await asyncio.sleep(0.5)

    async def _round(self, fault: Fault, number: int, go: asyncio.Event) -> None:
        score, at, began = self.score, f"{fault.name}, round {number + 1}", time.monotonic()
        resent = sum(writer.resent for writer in self.writers)
        if fault.alone:
            await self._until(at, self._crowded)
        repeated = await self._repeated()
        rewritten = sum(writer.rewritten for writer in self.writers)
        await asyncio.gather(*(writer.be_cautious(fault.power) for writer in self.writers))
        go.set()
        await asyncio.sleep(self.chance.uniform(*BEFORE_S))
        since = time.monotonic()
        try:
            await fault.happen(self.lab, self._over)
        except Exception as error:  # what the lab or a node could not do is an error of the round, and the others go on
            score.errors += 1
            score.complain(f"{at}: {error!r}")
        mended = time.monotonic()
        await self._until(at, self._not_whole)
        await asyncio.sleep(self.chance.uniform(*AFTER_S))
        go.clear()
        await self._quiet(at)
        stood = time.monotonic()
        over = asyncio.Event()
        idle = asyncio.create_task(self._renew(over))
        await self._compare(at)
        over.set()
        await idle
        slowest = max(self.writers, key=lambda writer: writer.longest(since).took)
        for writer in self.writers:
            score.pauses.setdefault(fault.name, []).append(writer.longest(since).took)
        longest = slowest.longest(since)
        for writer in self.writers:
            writer.changes.clear()
        again = sum(writer.resent for writer in self.writers) - resent
        score.resent += max(0, again)
        score.caught[fault.name] = score.caught.get(fault.name, 0) + (again > 0)
        score.played[fault.name] = score.played.get(fault.name, 0) + 1
        if fault.power:
            again_written = max(0, sum(writer.rewritten for writer in self.writers) - rewritten)
            print(
                f"{at}: {again_written} unstable writes written again since the verifier had changed, {self._forgotten()} changes cut short",
                flush=True,
            )
        known = replays(repeated, await self._repeated())
        score.replays[fault.name] = score.replays.get(fault.name, 0) + known
        score.rounds += 1
        worst, ended = max(score.pauses[fault.name][-len(self.writers) :]), time.monotonic()
        score.took[fault.name] = score.took.get(fault.name, 0.0) + ended - began
        print(
            f"{time.strftime('%H:%M:%S')} {at}: longest pause {worst:.2f} s ({slowest.protocol}), {again} requests sent again, {known} known to the servers; "
            f"{since - began:.1f} s before, {mended - since:.1f} of the fault, {stood - mended:.1f} until all was whole, {ended - stood:.1f} to compare; "
            f"{score.lost} lost, {score.wrong} wrong, {score.errors} errors so far",
            flush=True,
        )
        if longest.told:
            print(f"    {longest.told}", flush=True)

    def _forgotten(self) -> int:
        forgotten = sum(writer.forgotten for writer in self.writers)
        for writer in self.writers:
            writer.forgotten = 0
        return forgotten

    async def _repeated(self) -> Counted:
        """What each process has counted; of one that does not answer, nothing."""
        counted = await asyncio.gather(*(self.lab.repeated(name) for name in self.lab.names), return_exceptions=True)
        return {process: count for each in counted if not isinstance(each, BaseException) for process, count in each.items()}

    async def _renew(self, over: asyncio.Event) -> None:
        """Clients that have nothing to do are heard of all the same, and so hear that they are to reclaim; those of an operating system once a lease period."""
        while not over.is_set():
            try:
                await asyncio.gather(*(writer.directory.touch() for writer in self.writers if writer.idle and writer.directory is not None))
            except Trouble as trouble:
                self.score.errors += 1
                self.score.complain(f"a client that was idle: {trouble}")
            await asyncio.sleep(0.5)

    async def _quiet(self, at: str) -> None:
        """Until no change is under way."""
        until = time.monotonic() + QUIET_S
        while any(writer.under_way is not None for writer in self.writers):
            if time.monotonic() > until:
                self.score.errors += 1
                self.score.complain(f"{at}: {[writer.name for writer in self.writers if writer.under_way]} still wait for an answer")
                break
            await asyncio.sleep(0.02)
        for writer in self.writers:
            for trouble in writer.errors:
                self.score.errors += 1
                self.score.complain(f"{at}: {trouble}")
            writer.errors.clear()

    async def _over(self) -> None:
        """Until every writer has carried out a change that it began from now on, or is past what a client waits, and a while longer."""
        since = time.monotonic()
        while not all(writer.has_gone_on(since) for writer in self.writers):
            if time.monotonic() > since + QUIET_S:
                return  # the round says who waits, as soon as all should have stopped
            await asyncio.sleep(0.02)
        await asyncio.sleep(self.chance.choice(LONGER_S))

    async def _until(self, at: str, missing: Callable[[], Awaitable[str]]) -> None:
        """Until nothing is missing, as the next fault expects."""
        until = time.monotonic() + WHOLE_S
        while True:
            try:
                why = await missing()
            except Exception as error:  # a node that begins anew
                why = repr(error)
            if not why:
                return
            if time.monotonic() > until:
                self.score.errors += 1
                self.score.complain(f"{at}: not within {WHOLE_S:.0f} s: {why}")
                return
            await asyncio.sleep(0.2)

    async def _not_whole(self) -> str:
        """What keeps copies from being in step again and clients from having all addresses."""
        cluster = await self.lab.cluster(self.lab.names[-1])
        bad = [f"{volume.name}: {volume.reason}" for volume in cluster.volumes if volume.state != "serving"]
        # The system volume is content with fewer copies while it gets further ones.
        bad += [f"{volume.name} is on {count} nodes" for volume in cluster.volumes if (count := _copies(volume)) < min(COPIES, len(self.lab.names))]
        bad += [f"{member.name} is not connected" for member in cluster.members if not member.connected]
        bad += [f"{address} is at no node" for address, holder in (await self.lab.holders(self.lab.names[-1])).items() if not holder]
        return "; ".join(bad) or ("" if cluster.quorum else "etcd has no quorum")

    async def _crowded(self) -> str:
        return "; ".join(await self.lab.crowded(self.lab.names[-1]))

    # Comparing, through another node and the other protocol

    async def _compare(self, at: str) -> None:
        await asyncio.gather(*(self._compare_one(number, writer, at) for number, writer in enumerate(self.writers)), self._compare_locks(at))

    async def _compare_one(self, number: int, writer: Writer, at: str) -> None:
        node = self.lab.names[(number + self.score.rounds) % len(self.lab.names)]
        found = await self._look(writer, node, at)
        if found is None:
            writer.ledger.pending = None
            return
        verdict = writer.ledger.verify(found)
        self.score.lost += len(verdict.lost)
        self.score.wrong += len(verdict.wrong)
        if verdict.lost or verdict.wrong:
            self.score.complain(f"{at}: {writer.name} at {node}: lost {verdict.lost}, wrong {verdict.wrong}")

    async def _look(self, writer: Writer, node: str, at: str) -> Files | None:
        """Begins anew where the node does: what was opened for reading alone, without persistence, ends with it."""
        until = time.monotonic() + WHOLE_S
        while True:
            self._clients += 1
            directory = self._directory(OTHER[writer.protocol], writer.name, [self.lab.address(node)], self._clients)
            try:
                await directory.open()
                return await directory.read_all()
            except (Trouble, *LOST) as trouble:
                if isinstance(trouble, Forgotten) and time.monotonic() < until:
                    continue
                self.score.errors += 1
                self.score.complain(f"{at}: {writer.name} cannot be read at {node}: {trouble!r}")
                return None
            finally:
                await directory.leave()

    async def _compare_locks(self, at: str) -> None:
        """What was locked before all faults is locked still, for the other protocol at another node."""
        node = self.lab.names[self.score.rounds % len(self.lab.names)]
        for protocol, probing in (("smb", Nfs4Directory), ("nfs4", SmbDirectory)):
            if protocol not in self._locks:
                continue
            about = self.lab.about
            address = [self.lab.address(node)]
            probe: Nfs4Directory | SmbDirectory = (
                Nfs4Directory(address, NFS_PORT, about["share"], f"locks-{protocol}")
                if probing is Nfs4Directory
                else SmbDirectory(address, SMB_PORT, about["share"], f"locks-{protocol}", about["user"], about["password"])
            )
            try:
                await probe.open()
                if not await probe.is_locked(HELD):
                    self.score.wrong += 1
                    self.score.complain(f"{at}: the lock of {protocol} is gone, as {node} has it")
            except (Trouble, *LOST) as trouble:
                self.score.errors += 1
                self.score.complain(f"{at}: the lock of {protocol} cannot be asked for at {node}: {trouble!r}")
            finally:
                await probe.leave()


def _copies(volume: api.Volume) -> int:
    return sum(replica.in_sync for replica in volume.replicas)


def replays(before: Counted, after: Counted) -> int:
    """How much was counted in between: a count that fell, or that is new, began anew."""
    return sum(count - (before.get(process, 0) if before.get(process, 0) <= count else 0) for process, count in after.items())


def report(score: Score, faults: Sequence[Fault], tell: Callable[[str], object] = print) -> None:
    """A table per fault, and the line that counts."""
    tell(f"{'fault':38} {'rounds':>6} {'in flight':>9} {'token replays':>13} {'p50 s':>7} {'p99 s':>7} {'worst s':>8}  {'target':8} {'a round':>8}")
    for fault in faults:
        pauses = sorted(score.pauses.get(fault.name, []))
        if pauses:
            tell(
                f"{fault.name:38} {score.played[fault.name]:6} {score.caught[fault.name]:9} {score.replays.get(fault.name, 0):13} "
                f"{_share(pauses, 0.5):7.2f} {_share(pauses, 0.99):7.2f} {pauses[-1]:8.2f}  {fault.target:8} "
                f"{score.took[fault.name] / score.played[fault.name]:6.1f} s"
            )
    every = sorted(pause for pauses in score.pauses.values() for pause in pauses)
    tell(f"{score.acknowledged} changes acknowledged, {score.resent} requests sent again")
    tell(
        f"failover: {score.rounds} rounds, {score.lost} lost, {score.wrong} wrong, {score.errors} errors, "
        f"pause p50 {_share(every, 0.5):.2f} s p99 {_share(every, 0.99):.2f} s"
    )


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
