"""What a lab consists of, as it stands in `DIR/lab.json`: made at the first start, read at every later one.

Addresses are part of it, so that a second start finds its etcd and its nodes where they were. On the loopback each lab has a network of its own,
`127.X.Y.0/24`, and takes fixed ports there; in namespaces of its own every lab has the same addresses and the protocols' standard ports.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from sofs.errors import ConfigError, Unavailable

FILE = "lab.json"
MOST_NODES = 32
MEMBER_COUNTS = (1, 3)

_FIRST_NODE, _FIRST_MEMBER, _FIRST_VIP = 11, 101, 201
_TRIES = 50


class Member(msgspec.Struct, frozen=True):
    """A member of etcd."""

    name: str
    address: str
    client_port: int = 2379
    peer_port: int = 2380

    @property
    def client(self) -> str:
        return f"{self.address}:{self.client_port}"

    @property
    def peer(self) -> str:
        return f"{self.address}:{self.peer_port}"


class Machine(msgspec.Struct, frozen=True):
    """A node."""

    name: str
    address: str
    """Where clients and operators find it."""
    cluster_address: str
    """Where the other nodes find it; in namespaces it is on a network of its own."""
    smb_port: int
    nfs_port: int
    admin_port: int
    cluster_port: int
    vip: str
    """The address that follows it at first."""


class Plan(msgspec.Struct, frozen=True):
    """All of it."""

    netns: bool
    members: tuple[Member, ...]
    nodes: tuple[Machine, ...]
    policy: str
    password: str
    user: str = "sofs"
    share: str = "share"
    volume: str = "default"
    pool: str = "default"
    images: bool = False

    def node(self, name: str) -> Machine:
        """Raises `ConfigError`."""
        for each in self.nodes:
            if each.name == name:
                return each
        raise ConfigError(f"this lab has no node {name}; it has {', '.join(each.name for each in self.nodes)}")

    def member(self, name: str) -> Member:
        """Raises `ConfigError`."""
        for each in self.members:
            if each.name == name:
                return each
        raise ConfigError(f"this lab has no etcd member {name}; it has {', '.join(each.name for each in self.members)}")


def make(nodes: int, members: int, netns: bool, images: bool, random: Callable[[int], int], password: str) -> Plan:
    """A new one; `random(n)` gives a number below n. Raises `ConfigError`, `Unavailable`."""
    if not 1 <= nodes <= MOST_NODES:
        raise ConfigError(f"a lab has 1 to {MOST_NODES} nodes, not {nodes}")
    if members not in MEMBER_COUNTS:
        raise ConfigError(f"a lab has 1 or 3 members of etcd, not {members}")
    clients, cluster = ("10.77.0", "10.77.1") if netns else (_free_network(random),) * 2
    return Plan(
        netns=netns,
        images=images,
        members=tuple(Member(f"e{number + 1}", f"{cluster}.{_FIRST_MEMBER + number}") for number in range(members)),
        nodes=tuple(
            Machine(
                name=f"n{number + 1}",
                address=f"{clients}.{_FIRST_NODE + number}",
                cluster_address=f"{cluster}.{_FIRST_NODE + number}",
                smb_port=445 if netns else 4450,
                nfs_port=2049 if netns else 20490,
                admin_port=4451,
                cluster_port=4452,
                vip=f"{clients}.{_FIRST_VIP + number}",
            )
            for number in range(nodes)
        ),
        policy="simple" if nodes == 1 else f"mirror({min(nodes, 3)}) across host",
        password=password,
    )


def _free_network(random: Callable[[int], int]) -> str:
    """A /24 of the loopback where no other lab is."""
    for _ in range(_TRIES):
        network = f"127.{64 + random(128)}.{random(256)}"
        with socket.socket() as probe:
            try:
                probe.bind((f"{network}.{_FIRST_MEMBER}", Member("", "").client_port))
            except OSError:
                continue
            return network
    raise Unavailable("no free network was found on the loopback; end other labs first")


def load(directory: Path) -> Plan | None:
    """The lab's in this directory, if there is one. Raises `ConfigError`."""
    path = directory / FILE
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path}: {error}; a lab's directory is not to be edited: take another one") from None


def save(directory: Path, plan: Plan) -> None:
    """Only at the end of a first start, so that one that was cut short begins anew."""
    path = directory / FILE
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plan)) + b"\n")
