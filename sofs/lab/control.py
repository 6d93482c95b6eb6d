"""The lab's control socket, `DIR/control.sock`: one command and one answer for each connection, a line of JSON each.

["cut", "n2", "cluster"]   ->   {"answer": ...} or {"error": "ConfigError", "message": "..."}
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from sofs import errors
from sofs.errors import SofsError, Unavailable

SOCKET = "control.sock"
TIMEOUT_S = 300.0


async def serve(directory: Path, carry_out: Callable[[list[str]], Awaitable[Any]]) -> asyncio.Server:
    """Listen, for the owner only."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            said: dict[str, Any]
            try:
                said = {"answer": await carry_out(msgspec.json.decode(await reader.readline(), type=list[str]))}
            except SofsError as error:
                said = {"error": type(error).__name__, "message": str(error)}
            except msgspec.MsgspecError as error:
                said = {"error": "ConfigError", "message": f"not a command: {error}"}
            writer.write(msgspec.json.encode(said) + b"\n")
            await writer.drain()
        except ConnectionError:
            pass  # whoever asked has gone; what was asked is done all the same
        finally:
            writer.close()

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = directory / SOCKET
    path.unlink(missing_ok=True)  # the directory's lock is ours: nobody listens there
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    before = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{SOCKET}")
    finally:
        os.umask(before)
        os.close(descriptor)
    return await asyncio.start_unix_server(answer, sock=listener)


def ask(directory: Path, *command: str) -> Any:
    """Has the lab that runs on `directory` do something. Raises what it raised; `Unavailable` when none runs."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
                asked.settimeout(TIMEOUT_S)
                asked.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
                asked.sendall(msgspec.json.encode(list(command)) + b"\n")
                line = asked.makefile("rb").readline()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unavailable(f"no lab runs on {directory} ({error.strerror}); start it with `sofs lab --data {directory}`") from None
    if not line:
        raise Unavailable(f"the lab on {directory} ended before it answered")
    said = msgspec.json.decode(line)
    if "error" in said:
        kind = getattr(errors, said["error"], SofsError)
        raise kind(said["message"])
    return said["answer"]
