"""Byte-range locks: Lock and Unlock. The rules are the lock engine's."""

import asyncio
from collections.abc import Awaitable

from sofs.errors import AccessDenied, InvalidArgument, LockConflict
from sofs.types import Kind
from sofs.volume.api import Access, Binding, Lock, Reply, Token, Unlock
from sofs.volume.core import Core, OpenFile

__all__ = ["lock", "unlock"]

MAX_LOCKS = 8192
"""Byte ranges of one file: each request passes all of them, some 0.2 us each."""

_DATA = int(Access.READ_DATA | Access.WRITE_DATA | Access.APPEND_DATA | Access.EXECUTE)


def lock(core: Core, request: Lock, token: Token | None, by: Binding) -> Reply | Awaitable[Reply]:
    opened = core.open_of(request.open)
    if opened.kind != Kind.FILE:
        raise InvalidArgument("only files have bytes to lock")
    if not opened.access & _DATA:
        raise AccessDenied("locks take the right to read or write")
    if len(core.locks.state(opened.inode).ranges) >= MAX_LOCKS:
        raise LockConflict(f"{MAX_LOCKS} ranges of the file are locked")
    waiting = core.locks.lock(
        opened.inode,
        opened.id,
        request.offset,
        request.length,
        request.exclusive,
        owner=request.owner,
        wait=opened.mandatory,
        queue=request.wait,
    )
    return Reply(core.gate) if waiting is None else _locked(core, request, opened, waiting)


async def _locked(core: Core, request: Lock, opened: OpenFile, waiting: Awaitable[None]) -> Reply:
    future = asyncio.ensure_future(waiting)
    try:
        await future
    except asyncio.CancelledError:
        # The client took the request back; if the lock came first, it goes again.
        if future.done() and not future.cancelled() and future.exception() is None and opened.id in core.opens:
            core.locks.unlock(opened.inode, opened.id, request.offset, request.length, owner=request.owner)
        raise
    return Reply(core.gate)


def unlock(core: Core, request: Unlock, token: Token | None, by: Binding) -> Reply:
    opened = core.open_of(request.open)
    core.locks.unlock(opened.inode, opened.id, request.offset, request.length, owner=request.owner)
    return Reply(core.gate)
