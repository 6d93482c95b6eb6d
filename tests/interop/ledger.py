"""What a verifying writer knows of its directory: what was acknowledged, and the one change that may or may not have happened.

A node that is killed may lose nothing that it acknowledged, at whatever level: written bytes are in the page cache of a host that lives on. The change
that was under way must be there whole or not at all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

LARGEST_FILE = 256 << 10
LARGEST_WRITE = 128 << 10
MOST_FILES = 8

Files = dict[str, bytes]


class Directory(Protocol):
    """A client's directory. Each change is one request that changes something; all raise `ConnectionLost` when the node goes away."""

    def create(self, name: str) -> None: ...

    def write(self, name: str, offset: int, data: bytes) -> None: ...

    def truncate(self, name: str, size: int) -> None: ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def read_all(self) -> Files: ...


class ConnectionLost(Exception):
    """The node went away while a request was on its way."""


class Create(NamedTuple):
    name: str

    def after(self, files: Files) -> Files:
        return {**files, self.name: b""}

    def perform(self, directory: Directory) -> None:
        directory.create(self.name)


class Write(NamedTuple):
    name: str
    offset: int
    data: bytes

    def after(self, files: Files) -> Files:
        old = files[self.name].ljust(self.offset, b"\0")
        new = old[: self.offset] + self.data + old[self.offset + len(self.data) :]
        return {**files, self.name: new}

    def perform(self, directory: Directory) -> None:
        directory.write(self.name, self.offset, self.data)


class Truncate(NamedTuple):
    name: str
    size: int

    def after(self, files: Files) -> Files:
        return {**files, self.name: files[self.name][: self.size].ljust(self.size, b"\0")}

    def perform(self, directory: Directory) -> None:
        directory.truncate(self.name, self.size)


class Rename(NamedTuple):
    old: str
    new: str

    def after(self, files: Files) -> Files:
        left = {name: content for name, content in files.items() if name not in (self.old, self.new)}
        return {**left, self.new: files[self.old]}

    def perform(self, directory: Directory) -> None:
        directory.rename(self.old, self.new)


class Remove(NamedTuple):
    name: str

    def after(self, files: Files) -> Files:
        return {name: content for name, content in files.items() if name != self.name}

    def perform(self, directory: Directory) -> None:
        directory.remove(self.name)


Change = Create | Write | Truncate | Rename | Remove


class Verdict(NamedTuple):
    """What was found after a restart."""

    lost: list[str]
    """Acknowledged and not there."""
    wrong: list[str]
    """There, and neither as it was before nor as after the change that was under way."""
    in_flight: bool
    """A change was under way when the node was killed."""
    happened: bool
    """That change took effect."""


@dataclass
class Ledger:
    """One directory's."""

    chance: random.Random
    files: Files = field(default_factory=dict)
    pending: Change | None = None
    acknowledged: int = 0

    def draw(self) -> Change:
        """A change that makes sense now."""
        names, chance = sorted(self.files), self.chance
        kind = chance.random()
        if not names or (kind < 0.15 and len(names) < MOST_FILES):
            return Create(f"file-{chance.getrandbits(32):08x}")
        name = chance.choice(names)
        if kind < 0.75:
            # Aligned and not, small and large, appended and over what is there.
            length = chance.choice((100, 4096, 5000, 65536, chance.randrange(1, LARGEST_WRITE)))
            offset = chance.choice((0, len(self.files[name]), chance.randrange(LARGEST_FILE), 4096 * chance.randrange(32)))
            return Write(name, min(offset, LARGEST_FILE - length), chance.randbytes(length))
        if kind < 0.83:
            return Truncate(name, chance.randrange(LARGEST_FILE))
        if kind < 0.93:
            return Rename(name, chance.choice((*names, f"moved-{chance.getrandbits(32):08x}")))
        return Remove(name)

    def step(self, directory: Directory) -> None:
        """One change, carried out. Raises `ConnectionLost`; then it stays pending."""
        change = self.draw()
        if isinstance(change, Rename) and change.old == change.new:
            return
        self.pending = change
        change.perform(directory)
        self.files = change.after(self.files)
        self.pending = None
        self.acknowledged += 1

    def verify(self, found: Files) -> Verdict:
        """Compare with what is there now; then that is what is known."""
        possible = [self.files]
        if self.pending is not None:
            possible.append(self.pending.after(self.files))
        in_flight, self.pending = self.pending is not None, None
        for state in possible:
            if found == state:
                happened = in_flight and state is possible[-1] and possible[0] != possible[-1]
                self.files = state
                return Verdict([], [], in_flight, happened)
        nearest = max(possible, key=lambda state: len(state.items() & found.items()))
        lost = [name for name in nearest if name not in found or len(found[name]) < len(nearest[name])]
        wrong = [name for name in found if name not in lost and found[name] != nearest.get(name)]
        self.files = found
        return Verdict(lost, wrong, in_flight, False)
