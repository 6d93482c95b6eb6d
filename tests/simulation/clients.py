"""Clients of a simulated volume: what each may ask next, and the model of its directory after every request."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from sofs.runtime.simulated_loop import SimulatedRandom
from sofs.types import PAGE, Inode, Kind, Level
from sofs.volume.api import (
    Allocate,
    Changes,
    Clone,
    Copy,
    Found,
    Link,
    Make,
    Punch,
    Remove,
    Rename,
    Reply,
    Request,
    SetAttributes,
    SetExtended,
    Stateless,
    Token,
)
from tests.unit.volume.volume_rig import BY, SUPER, VolumeRig

__all__ = ["KIB", "Call", "Change", "Client", "File", "Sent", "State", "Visible"]

KIB = 1 << 10


class File(NamedTuple):
    """A file or (without content) a directory, as the model has it."""

    content: bytes | None
    mode: int
    extended: bytes = b""


Visible = dict[bytes, tuple[File, frozenset[bytes]]]
"""By name: the file, and all names it has."""


@dataclass
class State:
    """One client's directory after some request."""

    names: dict[bytes, int] = field(default_factory=dict)
    files: dict[int, File] = field(default_factory=dict)

    def copy(self) -> "State":
        return State(dict(self.names), dict(self.files))

    def visible(self) -> Visible:
        groups: dict[int, list[bytes]] = {}
        for name, number in self.names.items():
            groups.setdefault(number, []).append(name)
        return {name: (self.files[number], frozenset(groups[number])) for name, number in self.names.items()}


Change = Callable[[State], None]
Call = Callable[[Token], Reply | Awaitable[Reply]]
"""Sends a request. Sent again with the same token it is answered, and not carried out again."""


class Sent(NamedTuple):
    """A client's last request, for it to be sent again after a crash."""

    number: int
    token: Token
    call: Call
    change: Change


class Client:
    """One client: what it has done, and what it has been promised."""

    def __init__(self, number: int, random: SimulatedRandom) -> None:
        self.directory = b"client %d" % number
        self.inode = Inode(0)
        self.random = random
        self.states = [State()]
        self.first = self.committed = self.stable = 0
        self.pending = False
        """Whether the newest state is that of a request that has not been answered."""
        self.inodes: dict[int, Inode] = {}
        self.last = 0
        self.sent: Sent | None = None
        self.requests = 0

    @property
    def newest(self) -> int:
        return self.first + len(self.states) - 1

    def restart(self, number: int, found: dict[bytes, Inode]) -> None:
        self.states = [self.states[number - self.first].copy()]
        self.first = self.committed = self.stable = number
        self.pending = False
        self.inodes = {self.states[0].names[name]: inode for name, inode in found.items()}
        if self.sent is not None and self.sent.number not in (number, number + 1):
            self.sent = None  # what it rested on is lost

    def new_token(self) -> Token:
        self.requests += 1
        return Token(b"%s, request %d" % (self.directory, self.requests))

    def acknowledge(self, level: Level, number: int) -> None:
        self.committed = max(self.committed, number)
        if level is Level.STABLE:
            self.stable = max(self.stable, number)

    # What it may do next: a request with its effect on the state

    def next(self, rig: VolumeRig) -> tuple[Call, Change]:
        state, random = self.states[-1], self.random
        files = [number for number in state.names.values() if state.files[number].content is not None]
        if not files or random.chance(0.1):
            return self._make(rig, state)
        number = files[random.below(len(files))]
        choices = (
            self._write, self._write, self._write, self._write, self._append, self._truncate, self._punch,
            self._allocate, self._clone, self._copy, self._rename, self._remove, self._link, self._chmod, self._extended,
        )  # fmt: skip
        return choices[random.below(len(choices))](rig, state, number)

    def _call(self, rig: VolumeRig, request: Request) -> Call:
        return lambda token: rig.volume.call(request, token, BY)

    def _target(self, number: int) -> Stateless:
        return Stateless(self.inodes[number], SUPER)

    def _name(self) -> bytes:
        return b"name %d" % self.random.below(12)

    def _make(self, rig: VolumeRig, state: State) -> tuple[Call, Change]:
        free = [name for name in (b"name %d" % index for index in range(40)) if name not in state.names]
        name = free[self.random.below(len(free))]
        directory = self.random.chance(0.2)
        self.last += 1
        number = self.last

        kind = Kind.DIRECTORY if directory else Kind.FILE

        def make(token: Token) -> Reply:
            found: Found = rig.call(Make(SUPER, self.inode, name, kind, Changes(mode=0o640)), token)
            self.inodes[number] = found.attributes.inode
            return found

        def change(after: State) -> None:
            after.names[name] = number
            after.files[number] = File(None if directory else b"", 0o640)

        return make, change

    def _edit(self, number: int, edit: Callable[[bytes], bytes]) -> Change:
        def change(after: State) -> None:
            file = after.files[number]
            assert file.content is not None
            after.files[number] = file._replace(content=edit(file.content))

        return change

    def _write(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        random = self.random
        if random.chance(0.5):
            offset, length = random.below(40) * PAGE, (1 + random.below(4)) * PAGE
        elif random.chance(0.7):
            offset, length = random.below(100 * KIB), 1 + random.below(9000)
        else:
            offset, length = random.below(20) * PAGE, (20 + random.below(30)) * PAGE
        return self._write_at(rig, number, offset, length)

    def _append(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        content = state.files[number].content
        assert content is not None
        return self._write_at(rig, number, len(content), 1 + self.random.below(5000))

    def _write_at(self, rig: VolumeRig, number: int, offset: int, length: int) -> tuple[Call, Change]:
        data = self.random.bytes(16) * (length // 16 + 1)
        data = data[:length]
        target = self._target(number)

        def write(token: Token) -> Reply | Awaitable[Reply]:
            return rig.volume.write(target, offset, memoryview(data), token, Level.COMMITTED, BY)

        return write, self._edit(number, lambda old: old[:offset].ljust(offset, b"\0") + data + old[offset + length :])

    def _truncate(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        size = self.random.below(150 * KIB)
        request = SetAttributes(self._target(number), Changes(size=size))
        return self._call(rig, request), self._edit(number, lambda old: old[:size].ljust(size, b"\0"))

    def _punch(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        offset, length = self.random.below(100 * KIB), 1 + self.random.below(50 * KIB)
        request = Punch(self._target(number), offset, length)

        def edit(old: bytes) -> bytes:
            end = min(len(old), offset + length)
            return old if offset >= end else old[:offset] + bytes(end - offset) + old[end:]

        return self._call(rig, request), self._edit(number, edit)

    def _allocate(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        offset, length = self.random.below(100 * KIB), 1 + self.random.below(50 * KIB)
        extend = self.random.chance(0.5)
        request = Allocate(self._target(number), offset, length, extend)
        return self._call(rig, request), self._edit(number, lambda old: old.ljust(offset + length, b"\0") if extend else old)

    def _other(self, state: State, number: int) -> int:
        others = [each for each in state.names.values() if state.files[each].content is not None and each != number]
        return others[self.random.below(len(others))] if others else number

    def _clone(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        source = self._other(state, number)
        content = state.files[source].content or b""
        pages = len(content) // PAGE
        if source == number or pages == 0:
            return self._write(rig, state, number)
        if self.random.chance(0.5):
            return self._clone_whole(rig, source, number, content)
        first = self.random.below(pages)
        count = 1 + self.random.below(pages - first)
        to = self.random.below(30) * PAGE
        request = Clone(self._target(source), first * PAGE, self._target(number), to, count * PAGE)
        piece = content[first * PAGE : (first + count) * PAGE]
        return self._call(rig, request), self._edit(number, lambda old: old[:to].ljust(to, b"\0") + piece + old[to + len(piece) :])

    def _clone_whole(self, rig: VolumeRig, source: int, number: int, content: bytes) -> tuple[Call, Change]:
        request = Clone(self._target(source), 0, self._target(number), 0, len(content))
        return self._call(rig, request), self._edit(number, lambda old: content + old[len(content) :])

    def _copy(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        source = self._other(state, number)
        content = state.files[source].content or b""
        if source == number or not content:
            return self._write(rig, state, number)
        offset = self.random.below(len(content))
        # Short, and so in one batch.
        piece = content[offset : offset + 1 + self.random.below(3000)]
        to = self.random.below(100 * KIB)
        request = Copy(self._target(source), offset, self._target(number), to, len(piece))
        return self._call(rig, request), self._edit(number, lambda old: old[:to].ljust(to, b"\0") + piece + old[to + len(piece) :])

    def _name_of(self, state: State, number: int) -> bytes:
        return next(name for name, each in state.names.items() if each == number)

    def _rename(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        name, new = self._name_of(state, number), self._name()
        old = state.names.get(new)
        if old is not None and state.files[old].content is None:
            return self._write(rig, state, number)

        def change(after: State) -> None:
            if old != number:  # two names of one file: POSIX leaves both
                after.names[new] = after.names.pop(name)

        return self._call(rig, Rename(SUPER, self.inode, new, True, self.inode, name)), change

    def _remove(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        name = list(state.names)[self.random.below(len(state.names))]

        def change(after: State) -> None:
            del after.names[name]

        return self._call(rig, Remove(SUPER, self.inode, name, None)), change

    def _link(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        new = self._name()
        if new in state.names:
            return self._write(rig, state, number)

        def change(after: State) -> None:
            after.names[new] = number

        return self._call(rig, Link(SUPER, self.inodes[number], self.inode, new)), change

    def _chmod(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        mode = self.random.below(0o1000)

        def change(after: State) -> None:
            after.files[number] = after.files[number]._replace(mode=mode)

        return self._call(rig, SetAttributes(self._target(number), Changes(mode=mode))), change

    def _extended(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        value = self.random.bytes(1 + self.random.below(200))

        def change(after: State) -> None:
            after.files[number] = after.files[number]._replace(extended=value)

        return self._call(rig, SetExtended(self._target(number), ((b"user.test", value),))), change
