"""Syncs that the kernel carries out on its own: fdatasync by asynchronous I/O (io_submit(2), IOCB_CMD_FDSYNC, since Linux 4.18).

A sync in a thread of ours costs 94 us of this process's CPU (16 us of the kernel's workers), and 145 us until it is done: the thread and the loop hand the
interpreter lock to each other three times. The kernel's own workers do without: 18 us here, 43 us there, done after 110 us. (4 KiB overwritten, virtual disk.)
Completions arrive at an eventfd that the loop watches; those of quiet syncs at another one, which it watches only once somebody is in a hurry.

`KernelSync.make` gives None where this is not to be had (another processor, a sandbox that forbids the calls, no room below fs.aio-max-nr); `start`
refuses when the queue is full. Then a thread does it.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable
from typing import Self

_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""Numbers of io_setup, io_destroy, io_getevents and io_submit (the C library has no functions for them)."""
_AT_ONCE = 64
_QUIET = 16
"""Those that nobody has asked about stay in the queue, done or not."""
_FDSYNC = 3
_RESFD = 1

_IOCB = struct.Struct("<QIIHhIQQqQII")
"""linux/aio_abi.h: data, key, rw_flags, opcode, priority, descriptor, buffer, length, offset, reserved, flags, eventfd."""
_EVENT = struct.Struct("<QQqq")  # data, iocb, result, second result

# These calls do not block, so the interpreter lock is kept: giving it up could cost a switch interval.
_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class KernelSync:
    """A queue of syncs that are under way, of any files. Used from one loop at a time."""

    def __init__(self, context: ctypes.c_ulong, calls: tuple[int, int, int, int], ready: int, quiet: int) -> None:
        self._context = context
        _, self._destroy, self._events_call, self._submit = calls
        self._ready = ready
        self._quiet = quiet
        self._quiet_under_way: set[int] = set()
        self._hurried = False
        """The loop watches those, too."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._block = ctypes.create_string_buffer(_IOCB.size)
        self._blocks = (ctypes.c_void_p * 1)(ctypes.addressof(self._block))
        self._events = ctypes.create_string_buffer(_EVENT.size * _AT_ONCE)
        self._at_once = (ctypes.c_long * 2)(0, 0)
        self._last = 0
        self._under_way: dict[int, Callable[[int], None]] = {}

    @classmethod
    def make(cls) -> Self | None:
        calls = _CALLS.get(platform.machine())
        if calls is None:
            return None
        context = ctypes.c_ulong(0)
        if _syscall(calls[0], _AT_ONCE, ctypes.byref(context)) != 0:
            return None
        return cls(context, calls, *(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)))

    def start(self, fd: int, done: Callable[[int], None], quietly: bool = False) -> bool:
        """Begins a sync of what has been written to `fd`; `done` is called by the running loop, with 0 or an errno; if `quietly`, at the
        latest after `hurry`.

        The descriptor may be closed meanwhile. False if it cannot be begun.
        """
        if len(self._under_way) >= _AT_ONCE or not self._watch():
            return False
        quietly = quietly and len(self._quiet_under_way) < _QUIET
        self._last += 1
        _IOCB.pack_into(self._block, 0, self._last, 0, 0, _FDSYNC, 0, fd, 0, 0, 0, 0, _RESFD, self._quiet if quietly else self._ready)
        if _syscall(self._submit, self._context, 1, self._blocks) != 1:
            return False
        self._under_way[self._last] = done
        if quietly:
            self._quiet_under_way.add(self._last)
        return True

    def hurry(self) -> None:
        """Calls `done` of what is over, and of quiet syncs that are not as soon as they are."""
        if self._under_way:
            self._collect(0)
        if self._quiet_under_way and not self._hurried:
            self._completed(self._quiet)  # its count is of what has been collected before
        if self._quiet_under_way and not self._hurried:
            assert self._loop is not None
            self._loop.add_reader(self._quiet, self._hurried_completed)
            self._hurried = True

    def _hurried_completed(self) -> None:
        self._completed(self._quiet)
        if self._hurried and not self._quiet_under_way:
            assert self._loop is not None
            self._loop.remove_reader(self._quiet)
            self._hurried = False

    def _watch(self) -> bool:
        """Sees to it that the running loop is told of completions."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return True
        if self._loop is not None and not self._loop.is_closed():
            if self._under_way:
                return False
            self._loop.remove_reader(self._ready)
            self._loop.remove_reader(self._quiet)
        self._hurried = False
        loop.add_reader(self._ready, self._completed, self._ready)
        self._loop = loop
        return True

    def _completed(self, event: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(event)
        self._collect(0)

    def _collect(self, least: int) -> None:
        """Takes completions out of the queue, having waited for `least` of them."""
        while True:
            wait = None if least else self._at_once
            count = _syscall(self._events_call, self._context, least, _AT_ONCE, self._events, wait)
            if count >= 0 or ctypes.get_errno() != errno.EINTR:
                break
        assert count >= 0, f"io_getevents: errno {ctypes.get_errno()}"
        found = []
        for index in range(count):
            number, _, result, _ = _EVENT.unpack_from(self._events, index * _EVENT.size)
            found.append((number, max(-result, 0)))
        # Whoever is told may begin another, or be in a hurry.
        for number, code in found:
            self._quiet_under_way.discard(number)
            done = self._under_way.pop(number)
            try:
                done(code)
            except Exception as error:
                assert self._loop is not None
                self._loop.call_exception_handler({"message": "telling of a sync failed", "exception": error})

    def close(self) -> None:
        """Waits for what is under way."""
        while self._under_way:
            self._collect(1)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._ready)
            self._loop.remove_reader(self._quiet)
        _syscall(self._destroy, self._context)
        os.close(self._ready)
        os.close(self._quiet)
