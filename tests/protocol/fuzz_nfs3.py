"""Whole calls to NFSv3 and MOUNT at a gateway with a real volume under it: random procedures with real and wrong handles and names,
some of their bytes changed. Every call that is accepted must be answered with results of its type."""

from __future__ import annotations

import logging
import struct
from random import Random
from typing import Any

import structlog

from gateways.nfs.v3 import messages as m
from gateways.nfs.xdr import encode, unpack
from tests.protocol import nfs3_results as r3
from tests.protocol.fuzz import Target, mutated
from tests.protocol.fuzz_nfs import sample
from tests.protocol.fuzzed_server import FuzzedServer
from tests.protocol.nfs_types import NFS, TYPES
from tests.unit.gateways.nfs_link import call_bytes, sys_credential

NAMES = [b"a", b"b", b"c", b"d", b"A", b"\xff\xfe", b"", b".", b"..", b"x" * 300, b"a/b"]


class Bench(FuzzedServer):
    """The server that all inputs go to; made with the first."""

    def __init__(self) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        super().__init__()
        self.loop.run_until_complete(self.give([(100005, 1, encode(m.MountPath(b"/data"))), (100005, 1, encode(m.MountPath(b"/")))], 1))

    async def give(self, calls: list[tuple[int, int, bytes]], uid: int) -> None:
        """Calls on one connection, until all are answered; the answers are checked."""
        credential = sys_credential(uid, uid)
        records = [
            call_bytes(program, 3, procedure, arguments, xid=xid, auth=credential) for xid, (program, procedure, arguments) in enumerate(calls)
        ]
        for reply in await self.answered(records):
            self.check(reply, *calls[int.from_bytes(reply[:4])][:2])

    def check(self, reply: bytes, program: int, procedure: int) -> None:
        denied, accepted = struct.unpack_from(">8xI8xI", reply)
        if denied or accepted or (program, procedure) not in TYPES:
            return
        row = TYPES[program, procedure]
        results = memoryview(reply)[24:]
        kind = row.success
        if row.status:
            kind = row.failure if results[:4] != bytes(4) else row.success
            results = results[4:]
        value, end = unpack(kind, results, 0)
        assert end == len(results), "something follows the results"
        for found in (getattr(value, "object", None), getattr(value, "handle", None)):
            if found:
                self.remember(found)


def lively(value: Any, chance: Random, handles: list[bytes]) -> Any:
    """A sample with handles and names that mean something put in."""
    if not hasattr(value, "_fields"):
        return value
    changed = {}
    for name, part in zip(value._fields, value, strict=True):
        if name in ("object", "directory", "file", "symlink") and isinstance(part, bytes):
            part = chance.choice(handles)
        elif name == "name":
            part = chance.choice(NAMES)
        elif name in ("size", "offset") and isinstance(part, int):
            part = chance.choice((0, 1, 4095, 4096, 1 << 20, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1))
        elif name == "length":
            part = chance.choice((0, 1, 5000, 1 << 20, (1 << 32) - 1))
        else:
            part = lively(part, chance, handles)
        changed[name] = part
    value = value._replace(**changed)
    if isinstance(value, r3.WriteArgs) and chance.random() < 0.9:
        value = value._replace(length=len(value.data))
    return value


PROCEDURES = sorted(TYPES)


def calls(chance: Random) -> None:
    """A few calls at once."""
    bench = Bench.get()
    made = []
    for _ in range(chance.choice((1, 1, 2, 4))):
        program, procedure = chance.choice(PROCEDURES) if chance.random() < 0.98 else (NFS, 22)
        row = TYPES.get((program, procedure))
        arguments = b"" if row is None else encode(lively(sample(row.arguments, chance), chance, bench.handles))
        made.append((program, procedure, mutated(arguments, chance) if chance.random() < 0.4 else arguments))
    bench.loop.run_until_complete(bench.give(made, chance.choice((0, 0, 1))))


TARGETS = (
    Target(
        "nfs3",
        calls,
        (
            "gateways.nfs.v3.attributes",
            "gateways.nfs.v3.data",
            "gateways.nfs.v3.directories",
            "gateways.nfs.v3.names",
            "gateways.nfs.v3.program",
            "gateways.nfs.v3.pseudo",
            "gateways.nfs.mount",
            "gateways.nfs.handles",
        ),
    ),
)
