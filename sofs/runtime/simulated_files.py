"""Files of a simulated host: `Files` over a `Disk`, with faults, latency, and crashes at a chosen step.

What power loss does is told in `simulated_disk`. Besides that, on request:

- an operation on paths below a prefix fails with an outcome of choice (`fail`);
- a file system has a capacity (`mount`), and says `NoSpace` beyond it;
- a bit flips (`flip`);
- reads miss the page cache with some probability and then, like syncs, take virtual time.

Every call that changes anything counts as a step, and so does the completion of every sync. A test runs once to learn the count,
then again with `crash_at` set to any step up to it: there the host stops with `Crash`, the step itself begun but not durable.
`after_power_loss` or `after_process_death` then gives the files that the next start finds.
"""

import asyncio
import posixpath
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sofs.errors import DiskFailed, Exists, IsDirectory, NoSpace, NotDirectory, NotEmpty, NotFound, SofsError, Unavailable
from sofs.runtime.later import Later
from sofs.runtime.ports import Buffer, Space
from sofs.runtime.simulated_disk import PAGE, Change, Content, Directory, Disk, Node, RecordSet
from sofs.runtime.simulated_loop import SimulatedRandom
from sofs.runtime.simulated_process import Crash
from sofs.runtime.simulated_records import SimulatedRecords

T = TypeVar("T")


@dataclass(frozen=True)
class Latency:
    """Seconds of virtual time, on average; the actual one is between half and one and a half of it."""

    read: float = 100e-6
    sync: float = 500e-6


@dataclass(eq=False)
class Fault:
    """Makes `operation` fail below `path` (where the file was opened): after `after` successes, `times` times (`None`: from then on)."""

    operation: str
    """`read`, `write`, `sync`, `allocate`, `punch`, `open`, `name` (make, rename, remove, sync a directory) or `commit`."""
    path: str
    error: type[SofsError] = DiskFailed
    after: int = 0
    times: int | None = None

    def strikes(self, operation: str, path: str) -> bool:
        if operation != self.operation or not _below(path, self.path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None:
            if self.times == 0:
                return False
            self.times -= 1
        return True


class SimulatedFiles:
    """One host's files, from its start to its crash. Works on any loop; on a `SimulatedLoop` its latency is virtual."""

    def __init__(
        self, random: SimulatedRandom, *, disk: Disk | None = None, capacity: int = 1 << 40, latency: Latency | None = None, miss: float = 0.1
    ) -> None:
        self.random = random
        self.disk = Disk() if disk is None else disk
        self.latency = Latency() if latency is None else latency
        self.miss = miss
        """How probably a read has to wait for the disk."""
        self.faults: list[Fault] = []
        self.steps = 0
        self.crash_at: int | None = None
        self.on_step: Callable[[str, str], None] | None = None
        """Called with (operation, path) at each step, before a crash there."""
        self._dead = False
        self._capacity = {"/": capacity}
        self._used = {"/": 0}
        self._locked: set[Content] = set()
        self._quiet: dict[Later[None], list[SofsError | None]] = {}
        """Quiet syncs, each with what became of it, if it is done."""

    # Faults and ends

    def fail(self, operation: str, path: str, error: type[SofsError] = DiskFailed, *, after: int = 0, times: int | None = None) -> Fault:
        """Makes an operation fail; take the fault out of `faults` to end it."""
        fault = Fault(operation, path, error, after, times)
        self.faults.append(fault)
        return fault

    def mount(self, path: str, capacity: int) -> None:
        """Makes what will be created below `path` a file system of its own, of that many bytes."""
        self._capacity[path] = capacity
        self._used.setdefault(path, 0)

    def flip(self, path: str, offset: int, bit: int = 0) -> None:
        """Flips a bit of a file where it lies."""
        self._content(path).flip(offset, bit)

    def written(self, path: str) -> list[int]:
        """Numbers of a file's pages that are not all zeros."""
        return sorted(self._content(path).seen.pages)

    def after_power_loss(self, seed: int | None = None) -> "SimulatedFiles":
        """The host's files when power has come back; this object is dead from now on.

        May be called again for another of the possible disks (`seed` chooses).
        """
        self._dead = True
        random = self.random if seed is None else SimulatedRandom(seed)
        return self._successor(self.disk.after_power_loss(random))

    crash = after_power_loss

    def after_process_death(self) -> "SimulatedFiles":
        """The host's files after `kill -9`: the page cache, and with it every change, survives."""
        self._dead = True
        return self._successor(self.disk)

    def _successor(self, disk: Disk) -> "SimulatedFiles":
        successor = SimulatedFiles(self.random, disk=disk, latency=self.latency, miss=self.miss)
        successor._capacity = dict(self._capacity)
        successor._used = dict.fromkeys(self._used, 0)
        successor._count_used(disk.root)
        return successor

    def _count_used(self, directory: Directory) -> None:
        for node in directory.entries.values():
            if isinstance(node, Directory):
                self._count_used(node)
            else:
                self._used[node.mount] += _space_of(node)

    def alive(self) -> None:
        """Raises `Crash` when this host has crashed: nothing that its code still does may have an effect."""
        if self._dead:
            raise Crash("this host has crashed")

    def step(self, operation: str, path: str) -> None:
        """Counts a step, and crashes if it is the one."""
        self.alive()
        self.steps += 1
        if self.on_step is not None:
            self.on_step(operation, path)
        if self.steps == self.crash_at:
            self._dead = True
            raise Crash(f"at step {self.steps}: {operation} {path}")

    def check_fault(self, operation: str, path: str) -> None:
        self.alive()
        for fault in self.faults:
            if fault.strikes(operation, path):
                raise fault.error(f"{path}: simulated failure of {operation}")

    def later(self, average: float, complete: Callable[[], T]) -> "asyncio.Future[T]":
        """A future that `complete` settles after some virtual time, unless the host crashes first."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle() -> None:
            if self._dead:
                return
            # As with a real thread, the work is done even if nobody waits for it any more.
            try:
                value = complete()
            except SofsError as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(value)

        loop.call_later(average * (0.5 + self.random.fraction()), settle)
        return future

    def told(self, average: float, complete: Callable[[], None], quietly: bool) -> Later[None]:
        """The same, told in the moment it is done; if `quietly`, never before `hurry`."""
        later: Later[None] = Later()
        if quietly:
            self._quiet[later] = []

        def settle() -> None:
            if self._dead:
                return
            outcome: SofsError | None = None
            try:
                complete()
            except SofsError as error:
                outcome = error
            if later in self._quiet:
                self._quiet[later].append(outcome)
            else:
                later.tell(outcome)

        asyncio.get_running_loop().call_later(average * (0.5 + self.random.fraction()), settle)
        return later

    def hurry(self) -> None:
        quiet, self._quiet = self._quiet, {}
        for later, outcomes in quiet.items():
            for outcome in outcomes:
                later.tell(outcome)

    def take_space(self, node: Content | RecordSet, count: int) -> None:
        """Accounts for `count` more bytes of `node` (fewer, if negative). Raises `NoSpace`."""
        if not node.linked:
            return
        if count > 0 and self._used[node.mount] + count > self._capacity[node.mount]:
            raise NoSpace(f"{node.mount}: simulated file system is full")
        self._used[node.mount] += count

    def release(self, content: Content) -> None:
        """Ends the exclusive hold on a locked file."""
        self._locked.discard(content)

    # The port

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> "SimulatedFile":
        self.check_fault("open", path)
        parent, name = self._parent(path)
        node = parent.entries.get(name)
        if isinstance(node, Directory):
            raise IsDirectory(path)
        if node is not None and exclusive and create:
            raise Exists(path)
        if node is None:
            if not create:
                raise NotFound(path)
            node = Content(self._mount_of(path))
            self.disk.change((parent, name, node))
            self.step("create", path)
        assert isinstance(node, Content), f"{path} is not a regular file"
        return SimulatedFile(self, path, node)

    def list(self, path: str) -> list[str]:
        self.alive()
        return sorted(self._directory(path).entries)

    def exists(self, path: str) -> bool:
        self.alive()
        try:
            self._node(path)
        except (NotFound, NotDirectory):
            return False
        return True

    def make_directory(self, path: str) -> None:
        self.check_fault("name", path)
        directory, walked = self.disk.root, ""
        for name in _parts(path):
            walked += "/" + name
            node = directory.entries.get(name)
            if node is None:
                node = Directory()
                self.disk.change((directory, name, node))
                self.step("make directory", walked)
            if not isinstance(node, Directory):
                raise NotDirectory(walked)
            directory = node

    def rename(self, old: str, new: str) -> None:
        self.check_fault("name", old)
        node = self._node(old)
        (source, name), (target, new_name) = self._parent(old), self._parent(new)
        assert self._mount_of(old) == self._mount_of(new), "a rename must stay within one file system"
        replaced = target.entries.get(new_name)
        if replaced is node:
            return
        if isinstance(replaced, Directory):
            raise IsDirectory(new)
        self.disk.change((source, name, None), (target, new_name, node))
        self._unlink(replaced)
        self.step("rename", new)

    def remove(self, path: str) -> None:
        self.check_fault("name", path)
        node = self._node(path)
        if isinstance(node, Directory) and node.entries:
            raise NotEmpty(path)
        parent, name = self._parent(path)
        self.disk.change((parent, name, None))
        self._unlink(node)
        self.step("remove", path)

    def _unlink(self, node: Node | None) -> None:
        if isinstance(node, Content | RecordSet):
            self.take_space(node, -_space_of(node))
            node.linked = False

    def sync_directory(self, path: str) -> None:
        self.check_fault("name", path)
        directory = self._directory(path)
        self.step("sync directory", path)
        self.disk.sync(directory)

    def space(self, path: str) -> Space:
        self.alive()
        self._node(path)
        mount = self._mount_of(path)
        return Space(self._capacity[mount], self._capacity[mount] - self._used[mount])

    def lock(self, path: str) -> "SimulatedFile":
        file = self.open(path, create=True)
        if file.content in self._locked:
            raise Unavailable(f"{path} is in use by another process")
        self._locked.add(file.content)
        file.locked = True
        return file

    def records(self, path: str, size: int) -> SimulatedRecords:
        self.make_directory(path)
        directory = self._directory(path)
        node = directory.entries.get("data")
        if node is None:
            node = RecordSet(self._mount_of(path))
            self.disk.change((directory, "data", node))
            self.step("create", path)
        assert isinstance(node, RecordSet)
        node.recover(self.random)
        self.disk.sync(directory)
        self.disk.sync(self._parent(path)[0])
        return SimulatedRecords(self, path, size, node)

    # Paths

    def _node(self, path: str) -> Node:
        node: Node = self.disk.root
        for name in _parts(path):
            if not isinstance(node, Directory):
                raise NotDirectory(path)
            found = node.entries.get(name)
            if found is None:
                raise NotFound(path)
            node = found
        return node

    def _directory(self, path: str) -> Directory:
        node = self._node(path)
        if not isinstance(node, Directory):
            raise NotDirectory(path)
        return node

    def _content(self, path: str) -> Content:
        node = self._node(path)
        assert isinstance(node, Content), f"{path} is not a regular file"
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        *parents, name = _parts(path)
        return self._directory("/" + "/".join(parents)), name

    def _mount_of(self, path: str) -> str:
        return max((mount for mount in self._capacity if _below(path, mount)), key=len)


class SimulatedFile:
    """An open file of a simulated host."""

    def __init__(self, files: SimulatedFiles, path: str, content: Content) -> None:
        self._files = files
        self._path = path
        self.content = content
        self.locked = False
        self._closed = False

    @property
    def size(self) -> int:
        self._check()
        return self.content.seen.size

    def read(self, offset: int, into: Sequence[memoryview]) -> int | Awaitable[int]:
        self._check("read")
        if self._files.random.chance(self._files.miss):
            return self._files.later(self._files.latency.read, lambda: self._fill(offset, into))
        return self._fill(offset, into)

    def read_now(self, offset: int, into: Sequence[memoryview]) -> int:
        self._check("read")
        return self._fill(offset, into)

    def read_stored(self, offset: int, into: memoryview) -> Awaitable[int]:
        self._check("read")
        return self._files.later(self._files.latency.read, lambda: self._fill(offset, (into,)))

    def forget(self, offset: int, length: int) -> None:
        """Rot shows at once in this page cache: there is nothing to drop."""

    def _fill(self, offset: int, into: Sequence[memoryview]) -> int:
        done = 0
        for buffer in into:
            count = self.content.seen.read(offset + done, buffer)
            done += count
            if count < len(buffer):
                break
        return done

    def write(self, offset: int, data: Sequence[Buffer]) -> None:
        gathered = b"".join(data)
        try:
            self._check("write")
            self._take_space(offset, offset + len(gathered))
        except SofsError:
            # As with a real disk, any part of a failed write may be there.
            part = gathered[: self._files.random.below(len(gathered) + 1)]
            if part and self.content.pages_to_take(offset, offset + len(part)) == 0:
                self.content.change(Change(offset, offset + len(part), part))
            raise
        if gathered:
            self.content.change(Change(offset, offset + len(gathered), gathered))
        self._files.step("write", self._path)

    def write_out(self, offset: int, data: Sequence[Buffer]) -> Awaitable[None]:
        self._check()
        try:
            self.write(offset, data)
        except SofsError as error:
            return self._files.later(self._files.latency.sync, _raiser(error))
        return self.sync()

    def sync(self, quietly: bool = False) -> Later[None]:
        self._check()
        upto = self.content.changes
        self._files.step("sync", self._path)
        return self._files.told(self._files.latency.sync, lambda: self._sync(upto), quietly)

    def sync_now(self) -> None:
        self._check()
        self._sync(self.content.changes)

    def _sync(self, upto: int) -> None:
        try:
            self._files.check_fault("sync", self._path)
        except SofsError:
            self.content.fail_sync(upto, self._files.random)
            raise
        self._files.step("synced", self._path)
        self.content.sync(upto)

    def allocate(self, offset: int, length: int) -> None:
        self._check("allocate")
        self._take_space(offset, offset + length)
        if offset + length > self.content.seen.size:
            self.content.change(Change(0, offset + length, None, resize=True))
        self._files.step("allocate", self._path)

    def punch(self, offset: int, length: int) -> None:
        self._check("punch")
        self._files.take_space(self.content, -PAGE * self.content.give_back(offset, offset + length))
        self.content.change(Change(offset, min(offset + length, max(offset, self.content.seen.size)), None))
        self._files.step("punch", self._path)

    def truncate(self, size: int) -> None:
        self._check("write")
        pages = len(self.content.allocated) * PAGE
        self._files.take_space(self.content, -PAGE * self.content.give_back(size, pages))
        self.content.change(Change(0, size, None, resize=True))
        self._files.step("truncate", self._path)

    def close(self) -> None:
        if not self._closed and self.locked:
            self._files.release(self.content)
        self._closed = True

    def _take_space(self, start: int, end: int) -> None:
        self._files.take_space(self.content, PAGE * self.content.pages_to_take(start, end))
        self.content.take(start, end)

    def _check(self, operation: str | None = None) -> None:
        self._files.alive()
        assert not self._closed, f"{self._path} is used after it was closed"
        if operation is not None:
            self._files.check_fault(operation, self._path)


def _raiser(error: SofsError) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def _space_of(node: Content | RecordSet) -> int:
    return node.used if isinstance(node, RecordSet) else PAGE * node.allocated.count(1)


def _parts(path: str) -> list[str]:
    assert path.startswith("/"), f"simulated paths are absolute: {path}"
    return [part for part in posixpath.normpath(path).split("/") if part]


def _below(path: str, prefix: str) -> bool:
    return prefix == "/" or path == prefix or path.startswith(prefix + "/")
