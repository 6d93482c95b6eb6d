"""Random requests about names, against a tree of dictionaries: same successes, same tree, clean `sofs check`, whatever restarts happen."""

import itertools
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sofs.errors import NoSpace, NotFound, SofsError
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_process import Crash
from sofs.types import ROOT, Inode, Kind, Lsn, OpenId
from sofs.volume.api import Close, Disposition, Link, ListStreams, Quota, QuotaKind, Rename, SetDisposition, SetQuota, Stateless
from tests.models.plain_tree import Handle, Node, Refused, Tree
from tests.unit.volume.volume_rig import SUPER, VolumeRig

NAMES = st.sampled_from([b"a", b"A", b"b", b"B", "ü".encode(), "Ü".encode(), b"\xff", b"a longer name"])
CHOICE = st.integers(0, 1 << 16)


class Names(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = SimulatedLoop()
        self.random = SimulatedRandom(1)
        self.rig = VolumeRig(SimulatedFiles(self.random), SimulatedClock(self.loop), self.random, disks=1, log_disks=1, policy="simple")
        self.run(self.rig.make())
        self.tree = Tree()
        self.inodes: dict[Node, Inode] = {self.tree.root: ROOT}
        self.handles: list[Handle] = []

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """On the loop, where background tasks stay alive in between."""
        result = self.loop.run_until_complete(work)
        assert not self.loop.failures, self.loop.failures
        return result

    def teardown(self) -> None:
        self.make_room()
        for handle in list(self.handles):
            self.close_handle(handle)
        self.same_tree()
        self.run(self.rig.volume.run_once())
        self.run(self.rig.clean())
        self.run(self.rig.close())
        self.loop.close()

    # What is chosen, and what must come of it

    def directory(self, choice: int) -> Node:
        directories = self.tree.directories()
        return directories[choice % len(directories)]

    def child(self, choice: int) -> tuple[Node, bytes, Node] | None:
        children = [(at, name, node) for at in self.tree.directories() for name, node in at.names.items()]
        return children[choice % len(children)] if children else None

    def both(self, model: Callable[[], Any], volume: Callable[[], Any], without: Callable[[], Any] | None = None) -> tuple[Any, Any] | None:
        """Does it in both worlds; either both refuse, or both give something.

        When the log is full for the volume, nothing must have happened, or at most `without`.
        """
        refused = actual = None
        try:
            actual = self.run(self.on_loop(volume))
        except SofsError as error:
            refused = error
        if isinstance(refused, NoSpace):
            if without is not None:
                without()
            return None
        try:
            expected = model()
        except Refused:
            assert refused is not None, "the volume should have refused"
            return None
        assert refused is None, f"the volume refused: {type(refused).__name__} {refused}"
        return expected, actual

    @rule()
    def fill_the_log(self) -> None:
        """The next batch finds no room."""
        keyspace = self.rig.store.keyspace

        def full(*_: Any, **__: Any) -> Lsn:
            del keyspace.commit
            raise NoSpace("the log is full")

        keyspace.commit = full  # type: ignore[method-assign]

    @staticmethod
    async def on_loop(call: Callable[[], Any]) -> Any:
        return call()

    # Requests

    @rule(choice=CHOICE, name=NAMES, kind=st.sampled_from([Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK]))
    def make(self, choice: int, name: bytes, kind: Kind) -> None:
        at = self.directory(choice)
        made = self.both(
            lambda: self.tree.make(at, name, kind),
            lambda: self.rig.make_name(name, kind, self.inodes[at], target=b"to" if kind == Kind.SYMLINK else b""),
        )
        if made is not None:
            self.inodes[made[0]] = made[1]

    @rule(choice=CHOICE, to=CHOICE, name=NAMES)
    def link(self, choice: int, to: int, name: bytes) -> None:
        if (found := self.child(choice)) is not None:
            node, at = found[2], self.directory(to)
            self.both(lambda: self.tree.link(node, at, name), lambda: self.rig.call(Link(SUPER, self.inodes[node], self.inodes[at], name)))

    @rule(choice=CHOICE)
    def remove(self, choice: int) -> None:
        if (found := self.child(choice)) is not None:
            at, name, _ = found
            self.both(lambda: self.tree.remove(at, name), lambda: self.rig.remove(name, self.inodes[at]))

    @rule(choice=CHOICE, to=CHOICE, name=NAMES)
    def rename(self, choice: int, to: int, name: bytes) -> None:
        if (found := self.child(choice)) is not None:
            at, old, _ = found
            target = self.directory(to)
            self.both(lambda: self.tree.rename(at, old, target, name), lambda: self.rig.rename(old, name, self.inodes[at], self.inodes[target]))

    @rule(choice=CHOICE)
    def directory_quota(self, choice: int) -> None:
        """Gives a directory a quota, so large that it only divides the tree, or takes it away."""
        at = self.directory(choice)
        self.make_room()
        has = at.tree is at
        quota = Quota(QuotaKind.DIRECTORY, self.inodes[at], 0, 0 if has else 1 << 40)
        self.both(lambda: (self.tree.free if has else self.tree.limit)(at), lambda: self.rig.call(SetQuota(quota)))
        self.run(self.rig.volume.run_once())
        self.run(self.rig.clean())

    @rule(kind=st.sampled_from([QuotaKind.USER, QuotaKind.GROUP, QuotaKind.VOLUME]), on=st.booleans())
    def quota(self, kind: QuotaKind, on: bool) -> None:
        """Begins counting, as a rule, or ends it."""
        self.make_room()
        with suppress(NotFound):
            self.rig.call(SetQuota(Quota(kind, 0, 0, 0, 1 << 40 if on else 0)))
        self.run(self.rig.volume.run_once())

    @rule(choice=CHOICE, uid=st.integers(0, 2))
    def give_away(self, choice: int, uid: int) -> None:
        if (found := self.child(choice)) is not None:
            self.make_room()
            self.rig.set_attributes(self.inodes[found[2]], SUPER, uid=uid, gid=uid)

    @rule(choice=CHOICE, name=NAMES, delete_on_close=st.booleans())
    def open(self, choice: int, name: bytes, delete_on_close: bool) -> None:
        at = self.directory(choice)
        opened = self.both(
            lambda: self.tree.open(at, name, delete_on_close),
            lambda: self.rig.open_name(name, at=self.inodes[at], disposition=Disposition.OPEN_IF, delete_on_close=delete_on_close),
        )
        if opened is not None:
            handle, reply = opened
            handle.number = reply.open
            known = self.inodes.setdefault(handle.node, reply.attributes.inode)
            if known != reply.attributes.inode:
                # Of several names that differ in case only the volume took another one; that is its choice.
                other = next(node for node, inode in self.inodes.items() if inode == reply.attributes.inode)
                handle.node.opens.remove(handle)
                other.opens.append(handle)
                handle.node, handle.name = other, reply.path[-1]
            self.handles.append(handle)

    @precondition(lambda self: self.handles)
    @rule(choice=CHOICE)
    def close(self, choice: int) -> None:
        self.close_handle(self.handles[choice % len(self.handles)])

    def close_handle(self, handle: Handle) -> None:
        self.handles.remove(handle)
        self.both(
            lambda: self.tree.close(handle),
            lambda: self.rig.call(Close(OpenId(handle.number))),
            without=lambda: self.tree.close_without_deletion(handle),
        )

    @precondition(lambda self: self.handles)
    @rule(choice=CHOICE, delete=st.booleans())
    def mark(self, choice: int, delete: bool) -> None:
        handle = self.handles[choice % len(self.handles)]
        self.both(lambda: self.tree.mark(handle, delete), lambda: self.rig.call(SetDisposition(OpenId(handle.number), delete)))

    @precondition(lambda self: self.handles)
    @rule(choice=CHOICE, to=CHOICE, name=NAMES, replace=st.booleans())
    def rename_open(self, choice: int, to: int, name: bytes, replace: bool) -> None:
        handle, target = self.handles[choice % len(self.handles)], self.directory(to)
        variants = [stored for stored in target.names if stored != name and self.tree.find(target, stored.upper(), True)]
        if name not in target.names and len([stored for stored in variants if self.tree.find(target, name, True)]) > 1:
            return  # which of several variants is replaced is the volume's choice
        self.both(
            lambda: self.tree.rename_open(handle, target, name, replace),
            lambda: self.rig.call(Rename(SUPER, self.inodes[target], name, replace, open=OpenId(handle.number), fold=True)),
        )

    @precondition(lambda self: self.handles)
    @rule(choice=CHOICE, data=st.binary(max_size=5000))
    def write(self, choice: int, data: bytes) -> None:
        handle = self.handles[choice % len(self.handles)]
        if handle.node.kind == Kind.FILE:
            self.make_room()
            self.run(self.rig.put(OpenId(handle.number), 0, data))
            handle.node.data = data + handle.node.data[len(data) :]

    def make_room(self) -> None:
        """For what the model does in several requests."""
        self.rig.store.keyspace.__dict__.pop("commit", None)

    @rule(choice=CHOICE, name=st.sampled_from([b"s", b"t"]), data=st.binary(max_size=100))
    def stream(self, choice: int, name: bytes, data: bytes) -> None:
        """Writes a named stream and closes it."""
        found = self.child(choice)
        if found is None or found[2].pending or found[2].kind == Kind.SYMLINK:
            return
        at, stored, node = found
        others = [other for other in at.names if other != stored]
        assert stored not in others

        async def write() -> None:
            opened = self.rig.open_name(stored, at=self.inodes[at], stream=name, disposition=Disposition.OVERWRITE_IF)
            await self.rig.put(opened.open, 0, data)
            self.rig.close_open(opened)

        self.make_room()
        self.run(write())
        node.streams[name] = data

    @rule(power=st.booleans())
    def crash(self, power: bool) -> None:
        """Everything is stable; then the host or the process dies."""
        self.make_room()
        self.run(self.sync())
        with pytest.raises(Crash):
            self.loop.run(self.end())
        self.loop.close()
        self.loop = SimulatedLoop()
        self.rig.clock = SimulatedClock(self.loop)
        files = self.rig.files
        assert isinstance(files, SimulatedFiles)
        self.rig.files = files.after_power_loss() if power else files.after_process_death()
        self.rig.boot += b"'" if power else b""
        self.run(self.start())
        self.handles.clear()
        self.tree.crash()

    async def sync(self) -> None:
        await self.rig.store.log.sync()

    async def end(self) -> None:
        raise Crash

    async def start(self) -> None:
        await self.rig.open()
        self.rig.mount()
        await self.rig.volume.run_once()

    @rule()
    def checkpoint(self) -> None:
        self.make_room()
        self.run(self.rig.store.checkpoints.run_once())

    # What must hold

    @invariant()
    def same_tree(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        for at in self.tree.directories():
            inode = self.inodes[at]
            entries = self.rig.entries(inode, attributes=True)
            assert {entry.name: entry.inode for entry in entries} == {name: self.inodes[node] for name, node in at.names.items()}
            assert self.rig.stat(inode).size == len(at.names)
            assert self.rig.stat(inode).links == 2 + sum(node.kind == Kind.DIRECTORY for node in at.names.values())
            for entry in entries:
                await self.compare_node(at.names[entry.name], entry.inode, entry.attributes)

    async def compare_node(self, node: Node, inode: Inode, found: Any) -> None:
        assert found is not None and found.kind == node.kind and found.delete_pending == node.pending
        target = Stateless(inode, SUPER)
        if node.kind != Kind.DIRECTORY:
            assert found.links == node.links
        if node.kind == Kind.FILE:
            assert found.size == len(node.data)
            assert await self.rig.content(target, 0, len(node.data) + 10) == node.data
        streams = {name: size for name, size, _ in self.rig.call(ListStreams(target)).streams}
        assert streams == {name: len(data) for name, data in node.streams.items()}

    @invariant()
    def every_name_is_found(self) -> None:
        self.run(self.find_all())

    async def find_all(self) -> None:
        for at in itertools.islice(self.tree.directories(), 3):
            for name, node in at.names.items():
                assert self.rig.lookup(name, at=self.inodes[at]).inode == self.inodes[node]
                assert self.rig.lookup(name, at=self.inodes[at], fold=True).inode == self.inodes[node]


TestNames = Names.TestCase
TestNames.settings = settings(max_examples=80, stateful_step_count=40)
