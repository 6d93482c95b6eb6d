"""A file system of plain dictionaries: what a volume's names must amount to, for the model test.

It fails (`Refused`) where the volume must fail; which error that is, the unit tests say.
"""

from dataclasses import dataclass, field

from sofs.types import Kind
from sofs.volume.names import upcase


class Refused(Exception):
    """The request must not succeed."""


@dataclass(eq=False)
class Node:
    kind: Kind
    data: bytes = b""
    names: dict[bytes, "Node"] = field(default_factory=dict)
    streams: dict[bytes, bytes] = field(default_factory=dict)
    links: int = 0
    """Names that lead to it."""
    pending: bool = False
    opens: "list[Handle]" = field(default_factory=list)
    doomed: "Handle | None" = None
    tree: "Node | None" = None
    """The directory with a quota that it lies below, or is."""


@dataclass(eq=False)
class Handle:
    node: Node
    parent: Node
    name: bytes
    delete_on_close: bool
    number: int = 0


def need(condition: bool) -> None:
    if not condition:
        raise Refused


class Tree:
    def __init__(self) -> None:
        self.root = Node(Kind.DIRECTORY, links=1)

    def directories(self) -> list[Node]:
        found = [self.root]
        for node in found:
            found += [child for child in node.names.values() if child.kind == Kind.DIRECTORY]
        return found

    def find(self, at: Node, name: bytes, fold: bool) -> bytes | None:
        """The stored name; with `fold` the exact one or, of several, any (the volume's choice is checked elsewhere)."""
        if name in at.names or not fold:
            return name if name in at.names else None
        return next((stored for stored in at.names if upcase(stored) == upcase(name)), None)

    def make(self, at: Node, name: bytes, kind: Kind) -> Node:
        need(at.links > 0 and name not in at.names)
        node = Node(kind, links=1, tree=at.tree)
        at.names[name] = node
        return node

    def link(self, node: Node, at: Node, name: bytes) -> None:
        need(node.kind != Kind.DIRECTORY and node.links > 0 and not node.pending and at.links > 0 and name not in at.names)
        if node.tree is not at.tree:
            need(node.links == 1 and self._parent(node).tree is at.tree)
            node.tree = at.tree
        at.names[name] = node
        node.links += 1

    def _parent(self, node: Node) -> Node:
        return next(at for at in self.directories() if node in at.names.values())

    def limit(self, top: Node) -> None:
        """Puts a directory, and all that lies below it, into a tree of its own."""
        inside = self._all_below(top)
        need(top is not self.root and top.tree is None and not any(node.tree is node for node in inside))
        for node in inside:
            if node.tree is None:
                node.tree = top

    def free(self, top: Node) -> None:
        """Takes that back."""
        need(top.tree is top)
        for node in self._all_below(top):
            if node.tree is top:
                node.tree = None

    def _all_below(self, top: Node) -> list[Node]:
        found = [top]
        for node in found:
            found += [child for child in node.names.values() if child not in found]
        return found

    def _may_cross(self, node: Node, at: Node, to: Node) -> None:
        if at.tree is not to.tree:
            need(not node.names and node.tree is not node if node.kind == Kind.DIRECTORY else node.links == 1)

    def remove(self, at: Node, name: bytes) -> None:
        need(name in at.names)
        node = at.names[name]
        need(not (node.kind == Kind.DIRECTORY and node.names))
        self._drop(at, name)

    def _drop(self, at: Node, name: bytes) -> None:
        at.names.pop(name).links -= 1

    def rename(self, at: Node, name: bytes, to: Node, to_name: bytes) -> None:
        """By NFS."""
        need(name in at.names and to.links > 0)
        node = at.names[name]
        target = to.names.get(to_name)
        if target is node:
            return
        need(not (node.kind == Kind.DIRECTORY and self._below(node, to)))
        if target is not None:
            need((target.kind == Kind.DIRECTORY) == (node.kind == Kind.DIRECTORY))
            need(not target.names)
        self._may_cross(node, at, to)
        if target is not None:
            self._drop(to, to_name)
        self._move(at, name, to, to_name)

    def rename_open(self, handle: Handle, to: Node, to_name: bytes, replace: bool) -> None:
        """By SMB, where names match in any case."""
        node, at, name = handle.node, handle.parent, handle.name
        need(not node.pending and at.names.get(name) is node and to.links > 0)
        need(not (node.kind == Kind.DIRECTORY and self._open_below(node)))
        if (at, name) == (to, to_name):
            return
        # All opens here have the right to delete, which the move's own look at the directory does not share (MS-FSA 2.1.5.14.11).
        need(not to.opens)
        self._may_cross(node, at, to)
        stored = self.find(to, to_name, True)
        if stored is not None and not (to is at and stored == name):
            target = to.names[stored]
            need(replace and target.kind != Kind.DIRECTORY and node.kind != Kind.DIRECTORY)
            need(target is node or not target.opens)
            self._drop(to, stored)
        need(not (node.kind == Kind.DIRECTORY and self._below(node, to)))
        self._move(at, name, to, to_name)

    def _move(self, at: Node, name: bytes, to: Node, to_name: bytes) -> None:
        node = at.names.pop(name)
        to.names[to_name] = node
        if at.tree is not to.tree:
            node.tree = to.tree
        handles = list(node.opens)
        if node.doomed is not None:
            handles.append(node.doomed)
        for handle in handles:
            if handle.parent is at and handle.name == name:
                handle.parent, handle.name = to, to_name

    def _below(self, top: Node, node: Node) -> bool:
        return top is node or any(self._below(child, node) for child in top.names.values())

    def _open_below(self, top: Node) -> bool:
        return any(child.opens or self._open_below(child) for child in top.names.values())

    def open(self, at: Node, name: bytes, delete_on_close: bool) -> Handle:
        """OPEN_IF in any case, all rights, all sharing."""
        need(at.links > 0)
        stored = self.find(at, name, True)
        node = self.make(at, name, Kind.FILE) if stored is None else at.names[stored]
        need(not node.pending and node.kind != Kind.SYMLINK)
        handle = Handle(node, at, stored or name, delete_on_close)
        node.opens.append(handle)
        return handle

    def mark(self, handle: Handle, delete: bool) -> None:
        node = handle.node
        need(not (delete and node.kind == Kind.DIRECTORY and node.names))
        node.pending = delete
        node.doomed = handle if delete else None

    def close(self, handle: Handle) -> None:
        node = handle.node
        node.opens.remove(handle)
        if handle.delete_on_close:
            node.pending, node.doomed = True, handle
        if node.opens:
            return
        doomed, node.doomed = node.doomed, None
        if node.pending and doomed is not None and doomed.parent.names.get(doomed.name) is node:
            if not (node.kind == Kind.DIRECTORY and node.names):
                self._drop(doomed.parent, doomed.name)
        node.pending = False

    def close_without_deletion(self, handle: Handle) -> None:
        """The open is gone; there was no room to delete what was marked."""
        node = handle.node
        node.opens.remove(handle)
        if not node.opens:
            node.pending, node.doomed = False, None

    def crash(self) -> None:
        """All opens are gone, with what they would have deleted."""
        for directory in self.directories():
            for node in directory.names.values():
                node.opens, node.pending, node.doomed = [], False, None
        self.root.opens = []
