"""The service `sofsd`: one node, under a service manager or in the foreground of `sofs quickstart`.

It sets up logging, the loop and signals, starts the node, tells systemd when clients can connect, and has the node look at its
configuration again whenever the file changes. SIGTERM and SIGINT stop it cleanly, with status 0. A process that the
cluster goes on without ends with status 75: it is to be started again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import uvloop
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from sofs.config import Config, LogConfig, load
from sofs.errors import ConfigError, Fenced, SofsError
from sofs.node import Node
from sofs.quieting import Quieting
from sofs.supervision import RESTART

log = structlog.get_logger("sofs.service")

FENCED_CLOSE_S = 5.0
SWITCH_INTERVAL_S = 0.0001
"""A thread that runs Python holds the loop up at most this long (measured: 5 ms with the default)."""


def set_up_logging(config: LogConfig) -> None:
    """Events go to stderr, one line each: JSON for machines, text for people."""
    as_json = config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            Quieting(time.monotonic),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if as_json else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[config.level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # the level may change while the node runs
    )


def notify(state: str) -> None:
    """Tell the service manager, where there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError as error:
            log.warning("service.notify_failed", reason=str(error))


class ConfigWatch(FileSystemEventHandler):
    """Calls `changed` on the loop when something in the configuration's directory was written.

    The directory is watched, not the file: editors and deployment tools replace files by renaming. Events come in bursts, so
    the call waits until there was none for a moment.
    """

    SETTLE_S = 0.2

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._observer = Observer()
        self._observer.schedule(self, str(path.parent), recursive=False)
        self._observer.start()

    def on_any_event(self, event: FileSystemEvent) -> None:  # in the observer's thread
        if event.event_type in ("created", "modified", "moved", "deleted"):
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(self.SETTLE_S, self._changed)

    def close(self) -> None:
        self._observer.stop()
        self._observer.join()
        if self._timer:
            self._timer.cancel()


def reload(node: Node, path: Path) -> None:
    """Read the file again. A broken one is logged and changes nothing."""
    try:
        config = load(path)
    except ConfigError as error:
        log.error("config.refused", reason=str(error))
        return
    for setting, live in node.reload(config):
        log.info("config.changed", setting=setting, effective="now" if live else "at the next start")
    set_up_logging(node.config.log)


def _leave_modules_to_rest() -> None:
    """What the imports made stays for ever: no collection of cyclic garbage needs to walk it again.

    A full collection over it takes 40 ms of processor time, in which no client is answered; without it, less than one.
    """
    gc.collect()
    gc.freeze()


async def serve(config: Config, path: Path | None, ready: Callable[[Node], Awaitable[None]]) -> None:
    """Run a node until a signal ends it. `ready` runs when clients can connect; an error there ends the node too."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    node = await Node.open(config)
    watch: ConfigWatch | None = None
    fenced: list[str] = []

    def shut_out(reason: str) -> None:
        log.error("node.fenced", reason=reason)
        fenced.append(reason)
        stop.set()

    node.on_fenced = shut_out
    try:
        if path is not None:  # before anybody is told that it runs, and may then change the file
            watch = ConfigWatch(path, lambda: reload(node, path))
        _leave_modules_to_rest()
        await ready(node)
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
    finally:
        if watch:
            watch.close()
        if not fenced:
            await node.close()
    if fenced:
        await _close_fenced(node)
        raise Fenced(fenced[0])


async def _close_fenced(node: Node) -> None:
    """The cluster goes on without this process: what it cannot give back in order is not waited for."""
    try:
        async with asyncio.timeout(FENCED_CLOSE_S):
            await node.close()
    except (SofsError, TimeoutError) as error:
        log.warning("node.not_closed", reason=str(error) or type(error).__name__)
    except Exception:
        log.exception("node.not_closed")


def run(config: Config, path: Path | None, ready: Callable[[Node], Awaitable[None]]) -> None:
    """`serve` on a loop of its own."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    set_up_logging(config.log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, path, ready))


async def _listen(node: Node) -> None:
    await node.listen()
    log.info("node.ready", endpoints=node.endpoints)


def main() -> None:
    """The command `sofsd`."""
    parser = argparse.ArgumentParser(prog="sofsd", description="Run a sofs node.")
    parser.add_argument("--config", type=Path, default=Path("/etc/sofs/sofs.toml"), metavar="FILE")
    path = parser.parse_args().config.absolute()
    try:
        config = load(path)
        config.node.data_dir = str(path.parent / config.node.data_dir)
        run(config, path, _listen)
    except Fenced as reason:
        print(f"sofsd: to be started again: {reason}", file=sys.stderr)
        sys.exit(RESTART)
    except SofsError as error:
        print(f"sofsd: {error}", file=sys.stderr)
        sys.exit(1)
