"""A volume whose gateway's upcalls are collected, with shorthands for what SMB and NFSv4 clients ask about opens, locks and grants."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sofs.locks import HANDLE, READ, WRITE, GrantKind
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.types import ROOT, OpenId, VolumeId
from sofs.volume.api import (
    Access,
    Binding,
    Caller,
    Close,
    Disconnect,
    Disposition,
    Dropped,
    Keep,
    Lock,
    Open,
    Opened,
    Recall,
    Reconnect,
    Reply,
    Request,
    Revoked,
    Unlock,
    Upcall,
    Wish,
)
from tests.unit.volume.volume_rig import SUPER, VolumeRig

__all__ = ["DELETE", "R", "RH", "RW", "RWH", "SMB", "NFS", "StateRig", "Told", "run"]

RWH, RH, RW, R = READ | WRITE | HANDLE, READ | HANDLE, READ | WRITE, READ
READS, WRITES, DELETE = int(Access.READ_DATA), int(Access.READ_DATA | Access.WRITE_DATA), int(Access.DELETE)
SMB = Binding(1, 1)
NFS = Binding(1, 2)


class Told:
    """Every upcall, in order."""

    def __init__(self) -> None:
        self.recalls: list[Recall] = []
        self.revocations: list[tuple[bytes, OpenId]] = []
        self.drops: list[OpenId] = []

    def __call__(self, volume: VolumeId, upcall: Upcall) -> None:
        if isinstance(upcall, Recall):
            self.recalls.append(upcall)
        elif isinstance(upcall, Revoked):
            self.revocations.append((upcall.key, upcall.delegation))
        elif isinstance(upcall, Dropped):
            self.drops.append(upcall.open)

    def take(self) -> list[tuple[bytes, int, int]]:
        """Recalls since the last time: key, what is held, what may be kept."""
        recalls, self.recalls = self.recalls, []
        return [(recall.key, recall.held, recall.keep) for recall in recalls]


class StateRig(VolumeRig):
    told: Told

    def mount(self) -> None:
        super().mount()
        self.told = Told()
        self.volume.subscribe(self.told)

    async def die(self, power: bool = False) -> None:
        """The process ends without a word; with `power`, the whole host does."""
        assert isinstance(self.files, SimulatedFiles)
        await asyncio.sleep(0.1)  # what was answered has been written
        self.volume.core.locks.stop()
        for opened in self.volume.core.opens.values():
            if opened.timer is not None:
                opened.timer.cancel()
        if (grace := getattr(self, "local", self.volume)._grace) is not None:
            grace.cancel()
        gone = asyncio.all_tasks() - {asyncio.current_task()}
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        self.files = self.files.after_power_loss() if power else self.files.after_process_death()
        if power:
            self.boot += b"'"
        await self.open()
        self.mount()

    def ask(self, request: Request, by: Binding = SMB, token: Any = None) -> Any:
        """The reply, which must not have to wait."""
        reply = self.volume.call(request, token, by)
        assert isinstance(reply, Reply), f"{type(request).__name__} had to wait"
        return reply

    def asking(self, request: Request, by: Binding = SMB) -> "asyncio.Future[Any]":
        """What must have to wait, under way."""
        reply = self.volume.call(request, None, by)
        assert isinstance(reply, Awaitable), f"{type(request).__name__} did not have to wait"
        return asyncio.ensure_future(reply)

    def smb(
        self,
        name: bytes = b"f",
        rights: int | None = None,
        *,
        key: bytes = b"",
        kind: GrantKind = GrantKind.LEASE,
        keep: Keep | None = None,
        access: int = WRITES,
        share: int = 7,
        by: Binding = SMB,
        **options: Any,
    ) -> Opened:
        opened: Opened = self.ask(self.smb_request(name, rights, key=key, kind=kind, keep=keep, access=access, share=share, **options), by)
        return opened

    def smb_request(
        self,
        name: bytes = b"f",
        rights: int | None = None,
        *,
        key: bytes = b"",
        kind: GrantKind = GrantKind.LEASE,
        keep: Keep | None = None,
        access: int = WRITES,
        share: int = 7,
        disposition: Disposition = Disposition.OPEN_IF,
        **options: Any,
    ) -> Open:
        wish = None if rights is None else Wish(key, kind, rights, options.pop("version", 2), epoch=options.pop("epoch", 0))
        options.setdefault("client", b"client of " + key)
        return Open(SUPER, ROOT, (name,), access, share, disposition, keep=keep, wish=wish, **options)

    def nfs(self, name: bytes = b"f", client: bytes = b"nfs", owner: bytes = b"o", access: int = WRITES, deny: int = 0, **options: Any) -> Opened:
        opened: Opened = self.ask(self.nfs_request(name, client, owner, access, deny, **options), NFS, options.pop("token", None))
        return opened

    def nfs_request(
        self, name: bytes = b"f", client: bytes = b"nfs", owner: bytes = b"o", access: int = WRITES, deny: int = 0, **options: Any
    ) -> Open:
        delegate = options.pop("delegate", 0)
        wish = Wish(client, GrantKind.DELEGATION, delegate, must=options.pop("must", True)) if delegate else None
        disposition = options.pop("disposition", Disposition.OPEN_IF)
        options.pop("token", None)
        return Open(
            SUPER, ROOT, (name,), access, 7 & ~deny, disposition, False, mandatory=False, owner=client + owner, client=client, keep=Keep(-1),
            wish=wish, **options,
        )  # fmt: skip

    def lock(self, open: OpenId, start: int, length: int, exclusive: bool = True, owner: bytes = b"", **options: Any) -> Any:
        return self.ask(Lock(open, start, length, exclusive, owner=owner, **options), NFS if owner else SMB)

    def unlock(self, open: OpenId, start: int, length: int, owner: bytes = b"") -> Any:
        return self.ask(Unlock(open, start, length, owner))

    def shut(self, opened: Opened | OpenId) -> None:
        number = opened.open if isinstance(opened, Opened) else opened
        self.ask(Close(number), self.volume.core.opens[number].by)

    def disconnect(self, opened: Opened) -> None:
        self.ask(Disconnect(opened.open), self.volume.core.opens[opened.open].by)

    def reconnect(self, opened: Opened, key: bytes | None = None, by: Binding = SMB, caller: Caller = SUPER, **given: Any) -> Opened:
        request = Reconnect(caller, opened.open, given.get("guid", b""), given.get("client", b"client of " + (key or b"")), b"", key)
        found: Opened = self.ask(request, by)
        return found

    def records(self, *tags: bytes) -> list[bytes]:
        """Keys of the records that are there under these tags."""
        return [key for tag in tags for key, _ in self.store.keyspace.walk(tag)]


def run(scenario: Callable[[StateRig], Awaitable[None]], kind: "type[StateRig]" = StateRig, **options: Any) -> None:
    """As `volume_rig.run`; afterwards there must be no records about clients' state left either."""
    from sofs.volume import keys

    loop = SimulatedLoop()
    random = SimulatedRandom(1)
    rig = kind(SimulatedFiles(random), SimulatedClock(loop), random, **options)

    async def main() -> None:
        await rig.make()
        await scenario(rig)
        await rig.clean()
        for number in list(rig.volume.core.opens):
            if number in rig.volume.core.opens:
                rig.shut(number)
        assert rig.records(keys.OPEN, keys.RANGE, keys.LOCKS, keys.GRANT, keys.PENDING) == []
        register = rig.volume.core.register
        for index in (register.opens, register.by_inode, register.by_guid, register.by_owner, register.by_client, register.leases):
            assert not index
        assert not register.doomed and not register.locks and not register.locks_of and not list(rig.volume.core.locks.files())
        await rig.volume.run_once()
        await rig.clean()
        await rig.close()

    loop.run(main())
