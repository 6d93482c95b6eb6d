"""NFSv4.1: one session with one slot. What has no answer is sent again under the same sequence number, over any address, to whichever node is there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence

from tests.failover import COMMIT_AFTER_S, CONNECT_S, REPLY_S
from tests.failover.retrying import LOST, Diary, Forgotten, Patience, Trouble, Turns
from tests.interop.ledger import Files
from tests.protocol import nfs4_ops as op
from tests.protocol.nfs4_client import Result, Transport
from tests.protocol.nfs4_xdr import ANONYMOUS, Op, Stateid
from tests.unit.gateways.nfs_link import sys_credential

DELAY, GRACE, EXISTS = 10008, 10013, 17
PERSIST = 1
DENIED = 10010
CHUNK = 128 << 10
UNSTABLE, FILE_SYNC = 0, 2
HELD_BYTES = 100
RECLAIM_NEEDED = 0x100
FORGOTTEN = (10011, 10023, 10025)
"""EXPIRED, STALE_STATEID, BAD_STATEID."""


class Nfs4Directory:
    def __init__(self, addresses: Sequence[str], port: int, share: str, name: str) -> None:
        self._turns = Turns(addresses)
        self._port, self._share, self._name = port, share, name
        self._transport: Transport | None = None
        self._owner = os.urandom(8).hex().encode()
        self._clientid = 0
        self._session = b""
        self._sequence = 0
        self._directory = b""
        self._owners = 0
        self._held: tuple[bytes, bytes] | None = None
        """The handle of the file with a lock, and the owner of its open and of that lock."""
        self._reclaiming = False
        self._writes = 0
        self.diary = Diary()
        self.resent = 0
        self.cautious = False
        self.rewritten = 0

    async def open(self) -> None:
        patience = Patience("EXCHANGE_ID and CREATE_SESSION")
        while True:
            try:
                await self._begin()
                break
            except (Trouble, *LOST) as error:
                # Nothing depends on what these have done: a client begins anew until it has a session.
                await self.close()
                self._turns.turn()
                await patience.wait(0.2, error)
        root = (await self._do(op.putrootfh(), op.lookup(self._share), op.getfh())).last
        made = await self._compound([op.putfh(root), op.create(2, self._name, mode=0o777)])
        if made.status not in (0, EXISTS):
            raise Trouble(f"CREATE was answered {made.status}")
        self._directory = (await self._do(op.putfh(root), op.lookup(self._name), op.getfh())).last

    async def _begin(self) -> None:
        """A client and a session of its own. Raises `Trouble`."""
        self._clientid, self._session = await self._introduce()
        self._sequence = 0
        await self._do(op.reclaim_complete())

    async def _introduce(self) -> tuple[int, bytes]:
        """The numbers of a new client and its session. It is this one started anew: what it had ends (RFC 8881 2.4.2). Raises `Trouble`."""
        transport = await self._connected()
        introduced = await transport.compound([op.exchange_id(self._owner, os.urandom(8))], 1)
        if introduced.status:
            raise Trouble(f"EXCHANGE_ID was answered {introduced.status}")
        done = introduced.last
        asked = op.create_session(done.clientid, done.sequence, PERSIST, op.ChannelAttributes(max_requests=1))
        result = await transport.compound([asked], 1)
        if result.status:
            raise Trouble(f"CREATE_SESSION was answered {result.status}")
        return done.clientid, result.last.session

    async def leave(self) -> None:
        """Whoever gives a change up may have opens and locks in the midst of it."""
        try:
            async with asyncio.timeout(REPLY_S):
                clientid, session = await self._introduce()
                transport = await self._connected()
                await transport.compound([op.destroy_session(session)], 1)
                await transport.compound([op.destroy_clientid(clientid)], 1)
        except (Trouble, *LOST):
            pass  # its lease runs out
        await self.close()

    async def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    async def _connected(self) -> Transport:
        if self._transport is not None and self._transport.lost.is_set():
            await self.close()  # an idle client sees that, too
        if self._transport is None:
            async with asyncio.timeout(CONNECT_S):
                self._transport = await Transport.connect(self._port, self._turns.address)
            self._transport.auth = sys_credential(0, 0)
        return self._transport

    async def _compound(self, operations: Sequence[Op]) -> Result:
        """SEQUENCE and these, in the session's only slot; the result is without the SEQUENCE."""
        what = f"COMPOUND of {[each.number for each in operations]}"
        patience = Patience(what)
        while True:
            self._sequence += 1
            result = await self._one(operations, patience)
            if result.operations[0][1]:
                raise Trouble(f"{what}: SEQUENCE was answered {result.operations[0][1]}")
            if result.operations[0][2].flags & RECLAIM_NEEDED and not self._reclaiming:
                await self._reclaim()
            if result.status in (DELAY, GRACE):
                await patience.wait(0.2, "DELAY")
                continue
            return Result(result.status, result.operations[1:])

    async def _one(self, operations: Sequence[Op], patience: Patience) -> Result:
        whole = [op.sequence(self._session, self._sequence, 0, 0, True), *operations]
        while True:
            try:
                self.diary.asks(
                    f"{self._turns.address} {'connecting, then ' if self._transport is None else ''}{[each.number for each in operations]}"
                )
                transport = await self._connected()
                async with asyncio.timeout(REPLY_S):
                    result = await transport.compound(whole, 1)
                self.diary.told(f"{result.operations[0][1]}, {result.status}")
            except LOST as error:
                self.diary.told(repr(error))
                self.resent += 1
                await self.close()
                self._turns.turn()
                await patience.wait(0.05, error)
                continue
            if result.operations[0][1] == DELAY:
                await patience.wait(0.2, "DELAY")
                continue
            return result

    async def _reclaim(self) -> None:
        """What was held before a loss of power; whoever holds nothing only says so (RFC 8881 8.4.2.1)."""
        self._reclaiming = True
        try:
            if self._held is not None:
                handle, owner = self._held
                asked = op.open_("", op.BOTH, owner=owner, clientid=self._clientid, claim=op.claim_previous())
                state = (await self._do(op.putfh(handle), asked)).last.stateid
                again = op.lock(op.WRITE_LT, 0, HELD_BYTES, state, owner, reclaim=True, clientid=self._clientid)
                await self._do(op.putfh(handle), again)
            await self._do(op.reclaim_complete())
        finally:
            self._reclaiming = False

    async def _do(self, *operations: Op) -> Result:
        result = await self._compound(operations)
        if result.status in FORGOTTEN:
            raise Forgotten(f"operation {result.operations[-1][0]} was answered {result.status}")
        if result.status:
            raise Trouble(f"operation {result.operations[-1][0]} was answered {result.status}")
        return result

    def _new_owner(self) -> bytes:
        self._owners += 1
        return b"%s-%d" % (self._owner, self._owners)

    async def _opened(self, name: str, how: str, owner: bytes = b"") -> tuple[bytes, Stateid]:
        values = {} if how == "open" else {"mode": 0o666}
        asked = op.open_(name, op.BOTH, owner=owner or self._new_owner(), clientid=self._clientid, how=how, values=values)
        result = await self._do(op.putfh(self._directory), asked, op.getfh())
        return result.last, result.value(18).stateid

    async def create(self, name: str) -> None:
        handle, state = await self._opened(name, "guarded")
        await self._do(op.putfh(handle), op.close(state))

    async def write(self, name: str, offset: int, data: bytes) -> None:
        """Under a lock of the range."""
        handle, state = await self._opened(name, "open")
        locked = await self._do(op.putfh(handle), op.lock(op.WRITE_LT, offset, len(data), state, self._new_owner(), clientid=self._clientid))
        lock = locked.last
        await self._write(handle, lock, offset, data)
        lock = (await self._do(op.putfh(handle), op.locku(op.WRITE_LT, offset, len(data), lock))).last
        await self._do(op.putfh(handle), op.free_stateid(lock))
        await self._do(op.putfh(handle), op.close(state))

    async def _write(self, handle: bytes, lock: Stateid, offset: int, data: bytes) -> None:
        self._writes += 1
        stable = UNSTABLE if self.cautious and self._writes % 2 else FILE_SYNC
        while True:
            written = (await self._do(op.putfh(handle), op.write(lock, offset, data, stable))).last
            if written.count != len(data):
                raise Trouble(f"WRITE of {len(data)} wrote {written.count}")
            if written.committed == FILE_SYNC:
                return
            await asyncio.sleep(COMMIT_AFTER_S)
            if (await self._do(op.putfh(handle), op.commit())).last == written.verifier:
                return
            self.rewritten += 1

    async def settle(self, names: Iterable[str]) -> None:
        """Nothing is unstable unless it is cautious."""

    async def truncate(self, name: str, size: int) -> None:
        await self._do(op.putfh(self._directory), op.lookup(name), op.setattr_(ANONYMOUS, size=size))

    async def rename(self, old: str, new: str) -> None:
        await self._do(op.putfh(self._directory), op.savefh(), op.rename(old, new))

    async def remove(self, name: str) -> None:
        await self._do(op.putfh(self._directory), op.remove(name))

    async def hold(self, name: str) -> None:
        owner = self._new_owner()
        handle, state = await self._opened(name, "unchecked", owner)
        await self._do(op.putfh(handle), op.lock(op.WRITE_LT, 0, HELD_BYTES, state, owner, clientid=self._clientid))
        self._held = handle, owner

    async def touch(self) -> None:
        await self._do()

    async def is_locked(self, name: str) -> bool:
        """Whether somebody else holds a lock of the first bytes."""
        result = await self._compound([op.putfh(self._directory), op.lookup(name), op.lockt(op.WRITE_LT, 0, 10, self._new_owner(), self._clientid)])
        if result.status not in (0, DENIED):
            raise Trouble(f"LOCKT was answered {result.status}")
        return result.status == DENIED

    async def read_all(self) -> Files:
        files: Files = {}
        cookie, verifier, end = 0, bytes(8), False
        while not end:
            entries, end, verifier = (await self._do(op.putfh(self._directory), op.readdir(cookie, verifier=verifier))).last
            for entry in entries:
                cookie = entry.cookie
                files[entry.name.decode()] = await self._read(entry.name)
        return files

    async def _read(self, name: bytes) -> bytes:
        handle = (await self._do(op.putfh(self._directory), op.lookup(name), op.getfh())).last
        content: bytes = b""
        while True:
            end, data = (await self._do(op.putfh(handle), op.read(ANONYMOUS, len(content), CHUNK))).last
            content += data
            if end:
                return content
