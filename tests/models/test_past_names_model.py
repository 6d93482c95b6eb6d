"""The model of names with snapshots among its requests: every snapshot stays, in each attribute, what the tree was when it was taken."""

from copy import deepcopy
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from sofs.types import ROOT, Inode, Kind
from sofs.volume.api import (
    Binding,
    DeleteSnapshot,
    GetAttributes,
    GetExtended,
    GetSecurity,
    ListSnapshots,
    ListStreams,
    Lookup,
    MakeSnapshot,
    ReadDirectory,
    ReadLink,
    Request,
    RestoreSnapshot,
    SetExtended,
    Stateless,
    Volume,
)
from tests.models.plain_tree import Node, Tree
from tests.models.test_namespace_model import CHOICE, Names
from tests.unit.volume.rig import done
from tests.unit.volume.volume_rig import BY, SUPER

Dump = dict[tuple[bytes, ...], Any]


class PastNames(Names):
    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[int, tuple[Dump, Tree, dict[Node, Inode]]] = {}
        self.counter = 0

    def teardown(self) -> None:
        self.make_room()
        for number in list(self.taken):
            self.rig.call(DeleteSnapshot(number))
        self.taken.clear()
        self.run(self.rig.volume.run_once())
        super().teardown()

    @rule()
    @precondition(lambda self: len(self.taken) < 5)
    def take(self) -> None:
        self.make_room()
        self.counter += 1
        made = self.run(self.on_loop(lambda: self.rig.call(MakeSnapshot(f"s{self.counter}"))))
        self.remember(made.snapshots[0].number)

    def remember(self, number: int) -> None:
        dump = self.run(self.dump(self.rig.volume))
        tree, inodes = deepcopy((self.tree, self.inodes))
        self.taken[number] = dump, tree, inodes

    @rule(choice=CHOICE, at_once=st.booleans())
    @precondition(lambda self: self.taken)
    def give_up(self, choice: int, at_once: bool) -> None:
        self.make_room()
        number = sorted(self.taken)[choice % len(self.taken)]
        del self.taken[number]
        self.run(self.on_loop(lambda: self.rig.call(DeleteSnapshot(number))))
        if at_once:
            self.run(self.rig.volume.run_once())
            self.run(self.rig.clean())

    @rule(choice=CHOICE)
    @precondition(lambda self: self.taken and len(self.taken) < 5)
    def bring_back(self, choice: int) -> None:
        self.make_room()
        for handle in list(self.handles):
            self.close_handle(handle)
        number = sorted(self.taken)[choice % len(self.taken)]
        before = self.run(self.dump(self.rig.volume))
        was, old_inodes = deepcopy((self.tree, self.inodes))
        self.run(self.rig.later(RestoreSnapshot(number)))
        newest = self.run(self.on_loop(lambda: self.rig.call(ListSnapshots()))).snapshots[-1].number
        self.taken[newest] = before, was, old_inodes
        _, tree, inodes = self.taken[number]
        self.tree, self.inodes = deepcopy((tree, inodes))
        self.tree.crash()
        self.run(self.rig.volume.run_once())
        self.run(self.rig.clean())

    @rule(choice=CHOICE, name=st.sampled_from([b"x", b"xy", b"y"]), value=st.binary(max_size=40))
    def attribute(self, choice: int, name: bytes, value: bytes) -> None:
        if (found := self.child(choice)) is not None and found[2].kind != Kind.SYMLINK:
            self.make_room()
            target = Stateless(self.inodes[found[2]], SUPER)
            self.run(self.on_loop(lambda: self.rig.call(SetExtended(target, ((name, value),)))))

    @rule(choice=CHOICE, mode=st.sampled_from([0o600, 0o755, 0o4711]))
    def change_mode(self, choice: int, mode: int) -> None:
        if (found := self.child(choice)) is not None:
            self.make_room()
            self.run(self.on_loop(lambda: self.rig.set_attributes(self.inodes[found[2]], mode=mode)))

    @invariant()
    def the_past_stays(self) -> None:
        for number, (dump, _, _) in self.taken.items():
            assert self.run(self.dump(self.rig.volume.at(number))) == dump, f"snapshot {number} has changed"

    async def dump(self, volume: Volume) -> Dump:
        found: Dump = {}
        waiting: list[tuple[tuple[bytes, ...], Inode]] = [((), ROOT)]
        for path, inode in waiting:
            found[path] = await self.facts(volume, path, inode)
            if found[path]["attributes"]["kind"] == Kind.DIRECTORY:
                listed: Any = await done(volume.call(ReadDirectory(SUPER, inode, 0, 1000), None, BY))
                found[path]["entries"] = [(entry.cookie, entry.name, entry.inode) for entry in listed.entries]
                waiting += [((*path, entry.name), entry.inode) for entry in listed.entries]
        return found

    async def facts(self, volume: Volume, path: tuple[bytes, ...], inode: Inode) -> dict[str, Any]:
        target = Stateless(inode, SUPER)

        async def ask(request: Request) -> Any:
            return await done(volume.call(request, None, Binding(0, 0)))

        looked_up = await ask(Lookup(SUPER, ROOT, path))
        attributes = msgspec.structs.asdict(looked_up.attributes)
        assert attributes["inode"] == inode
        del attributes["delete_pending"]
        if looked_up.attributes.kind == Kind.DIRECTORY or looked_up.attributes.links == 1:
            assert (await ask(GetAttributes(target))).attributes.change == attributes["change"]
        facts: dict[str, Any] = {"attributes": attributes}
        facts["extended"] = (await ask(GetExtended(target))).attributes
        facts["security"] = (await ask(GetSecurity(target, 7))).text
        facts["streams"] = (await ask(ListStreams(target))).streams
        if looked_up.attributes.kind == Kind.FILE:
            data = bytearray(looked_up.attributes.size + 1)
            got = await done(volume.read(target, 0, memoryview(data), BY))
            facts["data"] = bytes(data[: got.count])
        elif looked_up.attributes.kind == Kind.SYMLINK:
            facts["text"] = (await ask(ReadLink(SUPER, inode))).text
        return facts


TestPastNames = PastNames.TestCase
TestPastNames.settings = settings(max_examples=40, stateful_step_count=40)
