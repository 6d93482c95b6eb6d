"""The end of NOTIFY_SOCKET that a service manager holds: when a node's clients can connect, it says so here (sd_notify(3))."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path


class Readiness:
    """One node's."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        file = f"notify-{name}"
        (directory / file).unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        # A socket's address holds 107 bytes; this name of the same place is short, and says the same to another process.
        self.address = f"/proc/{os.getpid()}/fd/{self._directory}/{file}"
        self._socket.bind(self.address)
        self._ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def _receive(self) -> None:
        while True:
            try:
                said = self._socket.recv(4096)
            except BlockingIOError:
                return
            if b"READY=1" in said.split(b"\n"):
                self._ready.set()
            elif b"STOPPING=1" in said.split(b"\n"):
                self._ready.clear()

    def forget(self) -> None:
        """Its process has ended."""
        self._ready.clear()

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    async def wait(self) -> None:
        await self._ready.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        os.close(self._directory)
