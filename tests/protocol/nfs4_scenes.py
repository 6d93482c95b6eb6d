"""What scenarios of NFSv4 begin with: a served volume, a client, files and directories."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from gateways.exports import Share
from gateways.nfs.v4.status import Status
from tests.protocol import nfs4_ops as op
from tests.protocol.nfs4_client import Nfs4Client
from tests.protocol.nfs4_xdr import ANONYMOUS, Op, Stateid
from tests.served import Served, nfs_on

Scenario = Callable[[Served, Nfs4Client, bytes], Awaitable[None]]
DIRECTORY, LINK, FIFO = 2, 5, 7


def served(path: Path, scenario: Scenario, shares: Sequence[Share] | None = None, uid: int = 1000, minor: int = 2) -> None:
    """Runs a scenario with a server, a client and the root handle of the first export."""

    async def whole() -> None:
        async with (
            nfs_on(path / "volume", (lambda: shares) if shares else None) as server,
            await Nfs4Client.connect(server.port, uid=uid, minor=minor) as client,
        ):
            await scenario(server, client, await client.root(server.shares.all()[0].name))

    asyncio.run(whole())


async def open_file(client: Nfs4Client, directory: bytes, name: str, share: int = op.BOTH, deny: int = 0, mode: int = 0o644) -> tuple[bytes, Stateid]:
    """A file that is open now, made if it was not there."""
    asked = op.open_(name, share, deny, clientid=client.clientid, how="unchecked", mode=mode)
    result = await client.done(op.putfh(directory), asked, op.getfh())
    return result.last, result.value(18).stateid


async def make_file(client: Nfs4Client, directory: bytes, name: str, data: bytes = b"", mode: int = 0o644) -> bytes:
    handle, state = await open_file(client, directory, name, mode=mode)
    writing = [op.write(state, 0, data)] if data else []
    await client.done(op.putfh(handle), *writing, op.close(state))
    return handle


async def make_directory(client: Nfs4Client, directory: bytes, name: str, mode: int = 0o755) -> bytes:
    handle: bytes = (await client.done(op.putfh(directory), op.create(DIRECTORY, name, mode=mode), op.getfh())).last
    return handle


async def status(client: Nfs4Client, *operations: Op) -> Status:
    return Status((await client.compound(*operations)).status)


async def attribute(client: Nfs4Client, handle: bytes, name: str) -> object:
    return (await client.done(op.putfh(handle), op.getattr_(name))).last[name]


async def names_in(client: Nfs4Client, directory: bytes) -> list[bytes]:
    return sorted(entry.name for entry in (await client.done(op.putfh(directory), op.readdir(0))).last[0])


async def only_directories_are_looked_into(client: Nfs4Client, root: bytes) -> None:
    """What is said of an operation on the wrong kind of file (RFC 8881 15.1.2.9, 15.1.2.10)."""
    file = await make_file(client, root, "f")
    await client.done(op.putfh(root), op.create(LINK, "l", target=b"f"))
    await client.done(op.putfh(root), op.create(FIFO, "p"))
    link = (await client.done(op.putfh(root), op.lookup("l"), op.getfh())).last
    pipe = (await client.done(op.putfh(root), op.lookup("p"), op.getfh())).last
    for handle, expected in ((file, Status.NOTDIR), (pipe, Status.NOTDIR), (link, Status.SYMLINK)):
        assert await status(client, op.putfh(handle), op.lookup("x")) is expected
        assert await status(client, op.putfh(handle), op.lookupp()) is expected
        assert await status(client, op.putfh(handle), op.readdir(0)) is expected
    assert await status(client, op.putfh(pipe), op.read(ANONYMOUS, 0, 1)) is Status.WRONG_TYPE
    assert await status(client, op.putfh(link), op.read(ANONYMOUS, 0, 1)) is Status.SYMLINK
    assert await status(client, op.putfh(root), op.read(ANONYMOUS, 0, 1)) is Status.ISDIR
    assert await status(client, op.putfh(root), op.commit()) in (Status.ISDIR, Status.OK)
    assert await status(client, op.putfh(file), op.readlink()) in (Status.INVAL, Status.WRONG_TYPE)
