"""The rows of the table: what is done, by how many connections, how deep."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

from bench.driver import DONE, Worker
from bench.servers import Files

__all__ = ["WORKLOADS", "Scene", "Workload", "prepare"]

MIB = 1 << 20
BLOCK = random.Random(1).randbytes(MIB)


class Scene:
    """What the workloads of one server and protocol work on."""

    def __init__(self, files: Files, size: int, names: int) -> None:
        self.files = files
        self.size = size
        """Bytes of each file for reads and writes in place."""
        self.names = names
        """Files of the directory for opens, stats, the list and removals."""
        self.directory: Any = None
        self.chance = random.Random(2)
        self.taken = count()
        """Numbers that the workers of one run share out among themselves."""
        self.fresh = count()
        """Numbers for names that no run has used yet."""
        self.extra: Any = None

    def path(self, number: int) -> str:
        return f"file {number:06d}"


class Workload(NamedTuple):
    name: str
    connections: int
    depth: int
    worker: Callable[[Scene], Worker]
    writes: bool = False
    """Something may be put off by the server: it is waited for."""
    whole: bool = False
    """Every name of the directory once, however long that takes."""

    @property
    def fills(self) -> bool:
        """It makes the files that others need."""
        return self.whole and self.worker is create_write_close

    @property
    def needs(self) -> bool:
        return self.worker in (open_read_close, stat, listing, unlink)

    @property
    def bulk(self) -> bool:
        return self.depth > 1 and self.worker is not random_write_sync

    @property
    def title(self) -> str:
        return f"{self.name} {self.connections}x{self.depth}"


def prepare(scene: Scene) -> Worker:
    """Makes the directories and the two large files, one for random and one for sequential access; one operation."""
    files = scene.files
    suffix = f"-{files.protocol}"
    scene.directory = yield from files.make_directory(f"many{suffix}")
    scene.extra = yield from files.make_directory(f"extra{suffix}")
    for name in ("random", "sequence"):
        file = yield from files.create(scene.extra, name)
        for offset in range(0, scene.size, MIB):
            yield from files.write(file, offset, BLOCK)
        yield from files.sync(file)
        yield from files.close(file)
    yield DONE


def _random_offsets(scene: Scene, step: int) -> Iterator[int]:
    chance, blocks = scene.chance, scene.size // step
    while True:
        yield chance.randrange(blocks) * step


def random_read(scene: Scene) -> Worker:
    file = yield from scene.files.open(scene.extra, "random")
    for offset in _random_offsets(scene, 4096):
        yield from scene.files.read(file, offset, 4096)
        yield DONE


def random_write(scene: Scene, sync: bool = False) -> Worker:
    file = yield from scene.files.open(scene.extra, "random")
    for offset in _random_offsets(scene, 4096):
        yield from scene.files.write(file, offset, BLOCK[offset % 999 : offset % 999 + 4096])
        if sync:
            yield from scene.files.sync(file)
        yield DONE


def random_write_sync(scene: Scene) -> Worker:
    return random_write(scene, True)


def random_write_stable(scene: Scene) -> Worker:
    """Each write is stable when it is answered."""
    file = yield from scene.files.open(scene.extra, "random")
    for offset in _random_offsets(scene, 4096):
        yield from scene.files.write(file, offset, BLOCK[offset % 999 : offset % 999 + 4096], stable=True)
        yield DONE


def _sequence(scene: Scene) -> Iterator[int]:
    """Offsets of 1 MiB, in order over all workers of a run, round and round."""
    for number in scene.taken:
        yield number * MIB % scene.size


def sequential_read(scene: Scene) -> Worker:
    file = yield from scene.files.open(scene.extra, "sequence")
    for offset in _sequence(scene):
        yield from scene.files.read(file, offset, MIB)
        yield DONE


def sequential_write(scene: Scene) -> Worker:
    file = yield from scene.files.open(scene.extra, "sequence")
    for offset in _sequence(scene):
        yield from scene.files.write(file, offset, BLOCK)
        yield DONE


def create_write_close(scene: Scene) -> Worker:
    files = scene.files
    for number in scene.taken:
        if number >= scene.names:
            return
        file = yield from files.create(scene.directory, scene.path(number))
        yield from files.write(file, 0, BLOCK[:4096])
        yield from files.close(file, written=True)
        yield DONE


def create_extra(scene: Scene) -> Worker:
    files = scene.files
    for number in scene.fresh:
        file = yield from files.create(scene.extra, f"one {number:06d}")
        yield from files.write(file, 0, BLOCK[:4096])
        yield from files.close(file, written=True)
        yield DONE


def open_read_close(scene: Scene) -> Worker:
    files = scene.files
    while True:
        file = yield from files.open(scene.directory, scene.path(scene.chance.randrange(scene.names)))
        yield from files.read(file, 0, 4096)
        yield from files.close(file)
        yield DONE


def stat(scene: Scene) -> Worker:
    while True:
        yield from scene.files.stat(scene.directory, scene.path(scene.chance.randrange(scene.names)))
        yield DONE


def listing(scene: Scene) -> Worker:
    while True:
        found = yield from scene.files.list(scene.directory)
        if found != scene.names:
            raise RuntimeError(f"{found} entries instead of {scene.names}")
        yield DONE


def unlink(scene: Scene) -> Worker:
    for number in scene.taken:
        if number >= scene.names:
            return
        yield from scene.files.unlink(scene.directory, scene.path(number))
        yield DONE


WORKLOADS = (
    Workload("random read 4 KiB", 1, 1, random_read),
    Workload("random read 4 KiB", 1, 16, random_read),
    Workload("random write 4 KiB", 1, 1, random_write, True),
    Workload("random write 4 KiB", 1, 16, random_write, True),
    Workload("random write 4 KiB + fsync", 1, 1, random_write_sync, True),
    Workload("random write 4 KiB + fsync", 1, 16, random_write_sync, True),
    Workload("sequential read 1 MiB", 1, 1, sequential_read),
    Workload("sequential read 1 MiB", 1, 8, sequential_read),
    Workload("sequential write 1 MiB", 1, 1, sequential_write, True),
    Workload("sequential write 1 MiB", 1, 8, sequential_write, True),
    Workload("create+write 4 KiB+close", 1, 1, create_extra, True),
    Workload("create+write 4 KiB+close", 8, 1, create_write_close, True, True),
    Workload("open+read+close", 8, 1, open_read_close),
    Workload("stat", 8, 1, stat),
    Workload("list", 1, 1, listing),
    # Last: for half a minute after many removals, ext4 makes every create ten times slower.
    Workload("unlink", 8, 1, unlink, True, True),
)
