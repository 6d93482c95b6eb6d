"""The node's admin interface: JSON over HTTP, on a Unix socket and, with a token, on TCP.

Who can open the socket (mode 0600) may do everything. Over TCP a request bears the token, except for `/metrics`.
An outcome that is not success is a `Failure` with the status that fits best; a long answer is one JSON line per step.
"""

from __future__ import annotations

import hmac
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import web

from sofs import errors
from sofs.admin import api
from sofs.encoding import UNREADABLE

log = structlog.get_logger("sofs.admin")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATUS: dict[type[errors.SofsError], int] = {
    errors.NotFound: 404,
    errors.Exists: 409,
    errors.InvalidArgument: 400,
    errors.InvalidName: 400,
    errors.AccessDenied: 403,
    errors.DiskRefused: 409,
    errors.Busy: 409,
    errors.NoSpace: 507,
    errors.Unavailable: 503,
    errors.NotSupported: 501,
}
"""HTTP statuses by meaning; any other `SofsError` is 422."""

LARGEST_REQUEST = 1 << 20


class AdminServer:
    """Serves one node's `Operations`."""

    def __init__(self, operations: api.Operations, token: str) -> None:
        self._operations = operations
        self._token = token.encode()
        self._runner = web.AppRunner(self._application(), access_log=None, handle_signals=False)
        self._socket: Path | None = None

    async def start(self, path: Path, address: str = "", port: int = 0) -> int:
        """Listen on the socket `path`, and on TCP if `port` says so. Returns the TCP port, 0 for none."""
        await self._runner.setup()
        listener = _bind(path)
        self._socket = path
        await web.SockSite(self._runner, listener).start()
        if not port:
            return 0
        await web.TCPSite(self._runner, address, port).start()
        return port

    async def close(self) -> None:
        await self._runner.cleanup()
        if self._socket:
            self._socket.unlink(missing_ok=True)

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard], client_max_size=LARGEST_REQUEST)
        routes = [self._route(operation) for operation in api.operations()]
        application.add_routes([*routes, web.post("/check", self._check), web.get("/metrics", self._metrics)])
        return application

    def _route(self, operation: Callable[..., Any]) -> web.RouteDef:
        ask, (kind, _) = getattr(self._operations, operation.__name__), api.kinds(operation)

        async def handle(request: web.Request) -> web.StreamResponse:
            given = [] if kind is None else [msgspec.json.decode(await request.read(), type=kind)]
            return _json(await ask(*given))

        return web.route("GET" if kind is None else "POST", f"/{operation.__name__}", handle)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn away strangers, and errors into `Failure`s."""
        if not self._admitted(request):
            wrong = "that is not this node's token" if "Authorization" in request.headers else "this needs the token"
            return _failure(401, "AccessDenied", f"{wrong}: `--token-file`, or SOFS_TOKEN; it lies in admin.token in the node's data directory")
        try:
            return await handler(request)
        except errors.SofsError as error:
            status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 422)
            return _failure(status, type(error).__name__, str(error))
        except msgspec.ValidationError as error:
            return _failure(400, "InvalidArgument", str(error))
        except UNREADABLE as error:
            return _failure(400, "InvalidArgument", f"the request's body is not JSON: {error}")
        except web.HTTPException as error:
            return _failure(error.status, "NotFound" if error.status == 404 else "InvalidArgument", error.reason)
        except Exception:
            log.exception("admin.failed", method=request.method, path=request.path)
            return _failure(500, "Failed", "an error of the node's own; its log has the details")

    def _admitted(self, request: web.Request) -> bool:
        transport = request.transport
        if transport is None:
            return False  # it has hung up, and nobody can tell any more where it came from
        if isinstance(transport.get_extra_info("sockname"), str):
            return True  # the Unix socket: the file's mode has decided
        if request.path == "/metrics":
            return True
        # Bytes that are not UTF-8 come as surrogates.
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode(errors="surrogateescape")
        return bool(self._token) and hmac.compare_digest(given, self._token)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=await self._operations.metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _check(self, request: web.Request) -> web.StreamResponse:
        """One line of `Progress` after another. An error after the first line is a line of its own."""
        steps = self._operations.check(msgspec.json.decode(await request.read() or b"{}", type=api.CheckRequest))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            async for step in steps:
                await response.write(msgspec.json.encode(step) + b"\n")
        except errors.SofsError as error:
            await response.write(msgspec.json.encode(api.Failure(type(error).__name__, str(error))) + b"\n")
        await response.write_eof()
        return response


def _bind(path: Path) -> socket.socket:
    """A listening Unix socket at `path`, for its owner only."""
    path.unlink(missing_ok=True)  # the data directory's lock is ours: nobody listens there
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    before = os.umask(0o177)
    try:
        # A socket's address holds 107 bytes; paths are longer. This name of the same place is short.
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.umask(before)
        os.close(directory)
    listener.setblocking(False)
    return listener


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _failure(status: int, error: str, message: str) -> web.Response:
    body = msgspec.json.encode(api.Failure(error, message))
    return web.Response(status=status, body=body, content_type="application/json")
