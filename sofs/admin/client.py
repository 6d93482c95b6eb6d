"""The admin interface from the outside: one request at a time, synchronous, without a loop."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import msgspec

from sofs import errors
from sofs.admin import api

P = ParamSpec("P")
T = TypeVar("T")
TIMEOUT_S = 600.0


class Unreachable(errors.SofsError):
    """No node answers there."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # A socket's address holds 107 bytes; paths are longer. This name of the same place is short.
            self.sock.connect(f"/proc/self/fd/{directory}/{self._path.name}")
        finally:
            os.close(directory)


class AdminClient:
    """Speaks to the node whose data directory or address it was given. Raises the node's `SofsError`s."""

    def __init__(self, *, data: Path | None = None, node: str | None = None, token: str = "", timeout: float = TIMEOUT_S):
        assert (data is None) != (node is None)
        self._data = data
        self._node = node
        self._token = token
        self._timeout = timeout

    @property
    def where(self) -> str:
        return self._node or str(self._data)

    def ask(self, operation: Callable[Concatenate[api.Operations, P], Coroutine[Any, Any, T]], *request: P.args, **_: P.kwargs) -> T:
        """`client.ask(Operations.add_disk, NewDisk(path))`"""
        name, (_, answer) = operation.__name__, api.kinds(operation)
        return cast(T, msgspec.json.decode(self._exchange(f"/{name}", *request).read(), type=answer))

    def metrics(self) -> str:
        return self._exchange("/metrics").read().decode()

    def check(self, request: api.CheckRequest) -> Iterator[api.Progress]:
        """The steps of a check, the finished one last."""
        response = self._exchange("/check", request)
        while line := response.readline():
            fields = msgspec.json.decode(line)
            if "error" in fields:
                raise _error(fields["error"], fields["message"])
            yield msgspec.convert(fields, api.Progress)

    def _connection(self) -> http.client.HTTPConnection:
        if self._data is not None:
            return _UnixConnection(self._data / "admin.sock", self._timeout)
        assert self._node is not None
        host, _, port = self._node.rpartition(":")
        return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=self._timeout)

    def _exchange(self, path: str, *request: object) -> http.client.HTTPResponse:
        body = msgspec.json.encode(request[0]) if request else None
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            connection = self._connection()
            connection.request("POST" if request else "GET", path, body, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(self._remedy(error)) from None
        if response.status >= 400:
            raise self._failure(response)
        return response

    def _remedy(self, error: Exception) -> str:
        if self._data is not None:
            return (
                f"no node is running on {self._data}; start one with `sofs quickstart --data {self._data}`, "
                "or name another with --data DIR or --node ADDRESS:PORT"
            )
        return f"{self._node} does not answer ({error}); --node takes ADDRESS:PORT of a node's [admin] section"

    @staticmethod
    def _failure(response: http.client.HTTPResponse) -> errors.SofsError:
        body = response.read()
        try:
            failure = msgspec.json.decode(body, type=api.Failure)
        except msgspec.DecodeError:
            return Unreachable(f"no sofs node answers there: HTTP {response.status} {response.reason}")
        return _error(failure.error, failure.message)


def _error(name: str, message: str) -> errors.SofsError:
    kind: Any = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.SofsError) and kind is not errors.SymlinkInPath:
        return kind(message)
    return errors.SofsError(message)
