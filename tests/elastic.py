"""`python -m tests.elastic [--nodes 5] [--seconds 3] [--writers 1] [--data DIR]`: a single node grows to a cluster of several, which shrinks again, under load.

A `sofs quickstart` node with a volume `mirror(2)` on two disks is stopped, made the first of a cluster, and goes on; further nodes join one by one, each
with a disk; then they are drained, emptied, stopped and leave one by one, until the first is alone again, a cluster of one, which is started anew at last.
Beside that lies ballast, written at the beginning and after each node has joined, and settled, so that there are extents of which disks have to be emptied.
All the time writers of SMB (persistent handles) and NFSv3 change files, each of which keeps a ledger of what was acknowledged (`tests/failover`), and at
the end of each step every directory is compared with its ledger through another node and the other protocol. Everything runs on loopback addresses of this
host, with an etcd of one member.

The last line is `elastic: S steps, L lost, W wrong, E errors, pause p50 X s worst Y s`; the status is 1 if anything was lost, wrong or an error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sofs.admin import api
from sofs.admin.client import AdminClient
from sofs.errors import SofsError
from tests.contracts.etcd_server import EtcdServer, free_ports
from tests.failover.nfs3 import Nfs3Directory
from tests.failover.retrying import LOST, Directory, Trouble
from tests.failover.smb import SmbDirectory
from tests.failover.writers import Writer, ledger
from tests.interop.ledger import Files
from tests.interop.running import SOFS

USER, PASSWORD, SHARE = "tester", "Correct-Horse-9", "grown"
DISK_GIB = 2.0
BALLAST, BALLAST_FILES, PIECE = "ballast", 16, 256 << 10
"""A directory, how many files of 1 MiB are written to it at a time, and in what pieces."""
WHOLE_S, EMPTY_S, READY_S, QUIET_S = 120.0, 240.0, 90.0, 170.0


class Member:
    """One node: a process of its own."""

    def __init__(self, data: Path, address: str, smb: int, nfs: int) -> None:
        self.data, self.address = data, address
        self.name = data.name
        self._ports = (smb, nfs)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def admin(self) -> AdminClient:
        return AdminClient(data=self.data, timeout=120)

    async def start(self) -> None:
        smb, nfs = self._ports
        options = ["--smb-port", str(smb), "--nfs-port", str(nfs), "--listen", self.address, "--user", f"{USER}:{PASSWORD}"]
        with (self.data.parent / f"{self.name}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                SOFS, "quickstart", "--data", str(self.data), *options, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_S):
            line = await self._process.stdout.readline()
        assert line.startswith(b"ready"), f"{self.name} did not start: see {self.name}.log"

    async def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        async with asyncio.timeout(90):
            status = await self._process.wait()
        assert status == 0, f"{self.name} ended with status {status}"
        self._process = None

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def disks(self) -> list[api.Disk]:
        return self.admin.ask(api.Operations.disks)


async def sofs(*arguments: object) -> Any:
    """A command's answer."""
    process = await asyncio.create_subprocess_exec(SOFS, *map(str, arguments), "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    answer, trouble = await process.communicate()
    assert process.returncode == 0, f"sofs {' '.join(map(str, arguments))[:60]}: {trouble.decode()}"
    return json.loads(answer)


class Elastic:
    """The cluster, its writers, and what came of them."""

    def __init__(self, directory: Path, nodes: int, each: int, seconds: float) -> None:
        chance = random.Random(time.time_ns())
        base = f"127.{chance.randrange(10, 250)}.{chance.randrange(1, 250)}"
        smb, nfs, *interconnect = free_ports(2 + nodes)
        self.members = [Member(directory / f"n{number}", f"{base}.{number}", smb, nfs) for number in range(1, nodes + 1)]
        self._interconnect = dict(zip((member.name for member in self.members), interconnect, strict=True))
        self._ports = (smb, nfs)
        self._seconds = seconds
        self._clients = 100
        (directory / "etcd").mkdir()
        self.etcd = EtcdServer(directory / "etcd")
        self.inside: list[Member] = []
        self._founded = False
        self.ballast: Files = {}
        self.lost = self.wrong = self.errors = self.steps = 0
        self.pauses: list[float] = []
        self.go = asyncio.Event()
        addresses = [member.address for member in self.members]
        self.writers = [
            Writer(protocol, f"{protocol}-{number}", self._opener(protocol, f"{protocol}-{number}", addresses, 2 * number + at), ledger(chance))
            for number in range(each)
            for at, protocol in enumerate(("smb", "nfs3"))
        ]

    def _opener(self, protocol: str, name: str, addresses: list[str], number: int) -> Callable[[], Directory]:
        smb, nfs = self._ports
        if protocol == "smb":
            return lambda: SmbDirectory(addresses, smb, SHARE, name, USER, PASSWORD)
        return lambda: Nfs3Directory(addresses, nfs, SHARE, name, number)

    # Steps

    async def run(self) -> None:
        first = self.members[0]
        first.data.mkdir()
        await self._begin(first)
        stop = asyncio.Event()
        for writer in self.writers:
            writer.directory = writer.open()
            await writer.directory.open()
        tasks = [asyncio.create_task(writer.run(self.go, stop)) for writer in self.writers]
        try:
            await self._step("a single node becomes a cluster", lambda: self._found(first))
            for member in self.members[1:]:
                await self._step(f"{member.name} joins", lambda member=member: self._join(member))  # type: ignore[misc]
            for member in self.members[1:][::-1]:
                await self._step(f"{member.name} leaves", lambda member=member: self._leave(member))  # type: ignore[misc]
            await self._step(f"{first.name} is started anew", lambda: self._start_anew(first))
        finally:
            stop.set()
            self.go.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in self.writers:
                if each.directory is not None:
                    await each.directory.close()

    async def _begin(self, first: Member) -> None:
        await first.start()
        await sofs("pool", "create", "grown", "--data", first.data)
        for disk in ("a", "b"):
            await sofs("disk", "add", "--data", first.data, first.data / "disks" / disk, "--pool", "grown", "--size-gib", DISK_GIB)
        await sofs("volume", "create", "grown", "--data", first.data, "--pool", "grown", "--policy", "mirror(2)")
        share = api.Share(name=SHARE, volume="grown", squash="none", continuously_available=True)
        first.admin.ask(api.Operations.create_share, share)
        self.inside = [first]
        await self._load()

    async def _load(self) -> None:
        """More ballast, out of the log."""
        directory = self._opener("nfs3", BALLAST, [self.inside[0].address], 99)()
        await directory.open()
        for _ in range(BALLAST_FILES):
            name, content = f"{len(self.ballast):04}", os.urandom(4 * PIECE)
            await directory.create(name)
            for at in range(0, len(content), PIECE):
                await directory.write(name, at, content[at : at + PIECE])
            self.ballast[name] = content
        await directory.close()
        await sofs("volume", "settle", "grown", "--data", self.inside[0].data)

    async def _found(self, first: Member) -> None:
        self.etcd.start()
        await first.stop()
        where = ("--etcd", f"127.0.0.1:{self.etcd.port}", "--address", self._place(first), "--name", first.name)
        await sofs("cluster", "init", "--data", first.data, *where)
        await first.start()
        self._founded = True

    async def _start_anew(self, member: Member) -> None:
        await member.stop()
        await member.start()

    async def _join(self, member: Member) -> None:
        token = (await sofs("cluster", "token", "--data", self.inside[0].data))["token"]
        await sofs("cluster", "join", token, "--data", member.data, "--address", self._place(member), "--name", member.name)
        await member.start()
        await sofs("disk", "add", "--data", member.data, member.data / "disks" / "a", "--pool", "grown", "--size-gib", DISK_GIB)
        self.inside.append(member)
        await self._load()

    async def _leave(self, member: Member) -> None:
        staying = next(each for each in self.inside if each is not member)
        await sofs("node", "drain", member.name, "--data", staying.data)
        mine = [disk for disk in staying.disks() if disk.node == member.name]
        for disk in mine:
            await sofs("disk", "drain", disk.id, "--data", staying.data)
        await self._until(EMPTY_S, "its disks are empty", lambda: self._remove(staying, [disk.id for disk in mine]))
        await member.stop()
        self.inside.remove(member)
        await sofs("cluster", "leave", "--data", member.data)

    async def _remove(self, staying: Member, disks: list[str]) -> str:
        """What is still in the way."""
        there = {disk.id: disk for disk in staying.disks()}
        for id in disks:
            if id in there:
                try:
                    staying.admin.ask(api.Operations.remove_disk, api.RemoveDisk(id))
                except SofsError as error:
                    return str(error)
        return ""

    def _place(self, member: Member) -> str:
        return f"{member.address}:{self._interconnect[member.name]}"

    # Around a step

    async def _step(self, what: str, change: Callable[[], Awaitable[None]]) -> None:
        self.go.set()
        await asyncio.sleep(self._seconds)
        since = began = time.monotonic()
        try:
            await change()
        except (AssertionError, SofsError, TimeoutError) as error:
            self._complain(f"{what}: {error}")
        taken = time.monotonic() - began
        await asyncio.sleep(self._seconds)
        self.go.clear()
        await self._quiet(what)
        await self._until(WHOLE_S, "every copy is in step", self._not_whole)
        longest = [writer.longest(since).took for writer in self.writers]
        self.pauses += longest
        for writer in self.writers:
            writer.changes.clear()
        await self._compare(what)
        self.steps += 1
        print(f"{what}: took {taken:.1f} s, longest pause of a writer {max(longest):.2f} s; {self._shares()}", flush=True)

    def _complain(self, text: str) -> None:
        self.errors += 1
        print(text, flush=True)

    async def _quiet(self, what: str) -> None:
        until = time.monotonic() + QUIET_S
        while any(writer.under_way is not None for writer in self.writers) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for writer in self.writers:
            if writer.under_way is not None:
                self._complain(f"{what}: {writer.name} still waits for an answer")
            for trouble in writer.errors:
                self._complain(f"{what}: {trouble}")
            writer.errors.clear()

    async def _until(self, seconds: float, what: str, missing: Callable[[], Awaitable[str]]) -> None:
        until = time.monotonic() + seconds
        while reason := await missing():
            if time.monotonic() > until:
                raise AssertionError(f"not within {seconds:.0f} s: {what} ({reason})")
            await asyncio.sleep(0.5)

    async def _not_whole(self) -> str:
        if not self._founded:
            return ""
        try:
            found = self.inside[-1].admin.ask(api.Operations.cluster)
        except SofsError as error:
            return str(error)
        return "; ".join(
            f"{volume.name}: {volume.state} {volume.reason}" for volume in found.volumes if volume.name == "grown" and volume.state != "serving"
        )

    def _shares(self) -> str:
        disks = [disk for disk in self.inside[-1].disks() if disk.pool == "grown"]
        return "used " + ", ".join(f"{disk.node} {(disk.total - disk.free) >> 20} MiB" for disk in disks)

    async def _compare(self, what: str) -> None:
        """Through another node and the other protocol."""
        for number, writer in enumerate(self.writers):
            at = self.inside[(number + self.steps) % len(self.inside)]
            found = await self._read(what, at, "nfs3" if writer.protocol == "smb" else "smb", writer.name)
            if found is None:
                writer.ledger.pending = None
                continue
            verdict = writer.ledger.verify(found)
            self._count(f"{what}: {writer.name} at {at.name}", verdict.lost, verdict.wrong)
        at = self.inside[self.steps % len(self.inside)]
        found = await self._read(what, at, "smb", BALLAST)
        if found is not None:
            lost = [name for name in self.ballast if name not in found]
            wrong = [name for name in found if found[name] != self.ballast.get(name)]
            self._count(f"{what}: {BALLAST} at {at.name}", lost, wrong)

    async def _read(self, what: str, at: Member, protocol: str, name: str) -> Files | None:
        self._clients += 1
        directory = self._opener(protocol, name, [at.address], self._clients)()
        try:
            await directory.open()
            return await directory.read_all()
        except (Trouble, *LOST) as trouble:
            self._complain(f"{what}: {name} cannot be read at {at.name}: {trouble!r}")
            return None
        finally:
            await directory.close()

    def _count(self, where: str, lost: list[str], wrong: list[str]) -> None:
        self.lost += len(lost)
        self.wrong += len(wrong)
        if lost or wrong:
            print(f"{where}: lost {lost}, wrong {wrong}", flush=True)


async def measure(directory: Path, nodes: int, each: int, seconds: float) -> int:
    elastic = Elastic(directory, nodes, each, seconds)
    try:
        await elastic.run()
    finally:
        for member in elastic.members:
            member.kill()
        elastic.etcd.stop()
    pauses = sorted(elastic.pauses)
    acknowledged, resent = (sum(counts) for counts in zip(*((w.ledger.acknowledged, w.resent) for w in elastic.writers), strict=True))
    print(f"{acknowledged} changes acknowledged, {resent} requests sent again")
    print(
        f"elastic: {elastic.steps} steps, {elastic.lost} lost, {elastic.wrong} wrong, {elastic.errors} errors, "
        f"pause p50 {pauses[len(pauses) // 2]:.2f} s worst {pauses[-1]:.2f} s"
    )
    return 1 if elastic.lost or elastic.wrong or elastic.errors else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.elastic")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--writers", type=int, default=1, help="for each protocol")
    parser.add_argument("--seconds", type=float, default=3.0, help="under load before and after each step")
    parser.add_argument("--data", type=Path, help="where all of it lives; kept")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as scratch:
        directory = arguments.data or Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="sofs-elastic-")))
        os.makedirs(directory, exist_ok=True)
        return asyncio.run(measure(directory, arguments.nodes, arguments.writers, arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
