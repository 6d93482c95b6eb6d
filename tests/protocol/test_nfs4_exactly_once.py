"""NFSv4.1 requests are carried out once, however often the server dies under them.

Several slots send COMPOUNDs that each fail if any part of them is carried out twice or not at all. The server is killed at some moment: what its
files hold just then is all that the next one has, and the client sends again what was not answered.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.protocol import nfs4_ops as op
from tests.protocol.nfs4_client import Nfs4Client, Result, Transport
from tests.protocol.nfs4_scenes import DIRECTORY, make_directory, names_in
from tests.protocol.nfs4_xdr import CURRENT, Op
from tests.served import nfs_on
from tests.unit.gateways.nfs_link import sys_credential

WORKERS, KILLS = 6, 4


class Worker:
    """One slot, and a directory of its own. `pending` is what has not been answered."""

    def __init__(self, client: Nfs4Client, slot: int, home: bytes) -> None:
        self._client = client
        self._slot = slot
        self._home = home
        self._round = 0
        self._sequence = 0
        self.pending: list[Op] = []
        self.done = 0

    async def run(self) -> None:
        """Goes on for ever."""
        while True:
            if not self.pending:
                self._sequence += 1
                start = op.sequence(self._client.session, self._sequence, self._slot, WORKERS - 1, True)
                self.pending = [start, op.putfh(self._home), *self._next()]
            result = await self._client.transport.compound(self.pending, self._client.minor)
            self._check(result)
            self.pending = []
            self.done += 1

    def _check(self, result: Result) -> None:
        assert result.status == 0, (self.done, self.pending, result)

    def _next(self) -> list[Op]:
        """Four COMPOUNDs that leave the directory as it was."""
        number, step = divmod(self._round, 4)
        self._round += 1
        name, other = f"f{number}", f"g{number}"
        owner = b"owner of slot %d" % self._slot
        make = op.open_(name, op.BOTH, clientid=self._client.clientid, owner=owner, how="guarded", mode=0o640)
        again = op.open_(other, op.BOTH, clientid=self._client.clientid, owner=owner)
        lock = op.lock(op.WRITE_LT, 0, 10, CURRENT, b"lock " + owner, clientid=self._client.clientid)
        home = op.putfh(self._home)
        steps: list[Callable[[], list[Op]]] = [
            lambda: [make, op.write(CURRENT, 0, b"some data"), op.close(CURRENT), home, op.create(DIRECTORY, "d", mode=0o755), op.getattr_("fileid")],
            lambda: [
                op.savefh(),
                op.rename(name, other),
                op.lookup(other),
                op.savefh(),
                home,
                op.link(name),
                op.lookup(name),
                op.getattr_("numlinks"),
            ],
            lambda: [again, lock, op.locku(op.WRITE_LT, 0, 10, CURRENT), op.getattr_("size")],
            lambda: [op.remove(name), op.remove(other), op.remove("d"), op.getattr_("numlinks")],
        ]
        return steps[step]()


async def killed_again_and_again(path: Path, chance: random.Random) -> None:
    volume = path / "0"
    client: Nfs4Client | None = None
    workers: list[Worker] = []
    homes: list[bytes] = []
    for kill in range(KILLS + 1):
        async with nfs_on(volume, incarnation=kill + 1) as server:
            if client is None:
                client = await Nfs4Client.connect(server.port, slots=WORKERS + 2, persist=True)
                root = await client.root()
                homes = [await make_directory(client, root, f"home{slot}") for slot in range(WORKERS)]
                await client.begin(slots=WORKERS, persist=True)
                workers = [Worker(client, slot, home) for slot, home in enumerate(homes)]
            else:
                client.transport = await Transport.connect(server.port)
                client.transport.auth = sys_credential(1000, 1000)
            tasks = [asyncio.create_task(worker.run()) for worker in workers]
            await asyncio.wait(tasks, timeout=0.2 + 0.2 * chance.random(), return_when=asyncio.FIRST_EXCEPTION)
            failed = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            for task in failed:
                await task
            # Nothing else runs until the copy is made: it is what a killed process leaves.
            volume = path / f"{kill + 1}"
            shutil.copytree(path / f"{kill}", volume)
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.transport.close()
        shutil.rmtree(path / f"{kill}")
    async with nfs_on(volume, incarnation=100) as server, await Nfs4Client.connect(server.port) as other:
        assert client is not None
        assert all(worker.done >= 4 for worker in workers), [worker.done for worker in workers]
        for home in homes:
            assert len(await names_in(other, home)) <= 3, "at most one round's"


@pytest.mark.parametrize("seed", range(4))
def test_every_request_is_carried_out_once(tmp_path: Path, seed: int) -> None:
    asyncio.run(killed_again_and_again(tmp_path, random.Random(seed)))
