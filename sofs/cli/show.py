"""Answers on the terminal: rich tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

Column = tuple[str, Callable[[Any], str]]


def size(count: int) -> str:
    """Bytes for people: three significant figures and a binary unit."""
    value = float(count)
    for unit in UNITS:
        if value < 1024 or unit == UNITS[-1]:
            return f"{value:.3g} {unit}" if value < 1000 and unit != "B" else f"{value:.0f} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes every value")


def as_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def tell(value: Any, sentence: str, json: bool) -> None:
    """Says what was done: the value to programs, the sentence to people."""
    if json:
        as_json(value)
    else:
        typer.echo(sentence)


def table(rows: Sequence[Any], columns: Sequence[Column], empty: str) -> None:
    """One row for each of `rows`; `empty` says what to do when there is none."""
    console = Console()
    if not rows:
        console.print(empty, highlight=False)
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading, _ in columns:
        # An identifier that is cut in two cannot be copied into the next command.
        whole = heading in ("DISK", "ID", "OPEN")
        drawn.add_column(heading, overflow="fold", no_wrap=whole, justify="right" if heading in ("SIZE", "FREE", "FILES") else "left")
    for row in rows:
        drawn.add_row(*(Text(_plain(text(row))) for _, text in columns))
    console.print(drawn)


def _plain(text: str) -> str:
    """Without characters that a terminal would obey: names are made by clients. (`Text` keeps rich from taking `[...]` in them for its own.)"""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


DISKS: list[Column] = [
    ("DISK", lambda d: d.id),
    ("NODE", lambda d: d.node),
    ("PATH", lambda d: d.path),
    ("TIER", lambda d: d.tier),
    ("POOL", lambda d: d.pool),
    ("STATE", lambda d: f"{d.state}: {d.reason}" if d.reason else d.state),
    ("SIZE", lambda d: size(d.total)),
    ("FREE", lambda d: size(d.free)),
]
POOLS: list[Column] = [
    ("POOL", lambda p: p.name),
    ("DISKS", lambda p: str(p.disks)),
    ("SIZE", lambda p: size(p.total)),
    ("FREE", lambda p: size(p.free)),
    ("TIERS", lambda p: ", ".join(f"{tier} {size(free)} free" for tier, (_, free) in sorted(p.tiers.items()))),
]
VOLUMES: list[Column] = [
    ("VOLUME", lambda v: v.name),
    ("POOL", lambda v: v.pool),
    ("POLICY", lambda v: v.policy),
    ("NODE", lambda v: v.coordinator or "-"),
    ("STATE", lambda v: f"{v.state}: {v.reason}" if v.reason else v.state),
    ("SIZE", lambda v: size(v.total)),
    ("FREE", lambda v: size(v.free)),
    ("FILES", lambda v: str(v.files)),
]
REPLICAS: list[Column] = [
    ("NODE", lambda r: r.node),
    ("DISK", lambda r: r.disk),
    ("LOG", lambda r: ("in step" if r.in_sync else "left out") + (f": {r.reason}" if r.reason else "")),
]
SHARES: list[Column] = [
    ("SHARE", lambda s: s.name),
    ("VOLUME", lambda s: s.volume),
    ("PATH", lambda s: "/" + s.path),
    ("PROTOCOLS", lambda s: ", ".join(s.protocols)),
    ("ACCESS", lambda s: "read-only" if s.read_only else "read and write"),
    ("NFS CLIENTS", lambda s: ", ".join(s.clients)),
    ("COMMENT", lambda s: s.comment),
]
USERS: list[Column] = [
    ("USER", lambda u: u.name),
    ("UID", lambda u: str(u.uid)),
    ("GID", lambda u: str(u.gid)),
    ("GROUPS", lambda u: ", ".join(map(str, u.groups))),
]
OPENS: list[Column] = [
    ("OPEN", lambda o: o.id),
    ("VOLUME", lambda o: o.volume),
    ("FILE", lambda o: o.path),
    ("CLIENT", lambda o: f"{o.protocol} {o.client}"),
    ("ACCESS", lambda o: o.access),
    ("SHARES", lambda o: o.share),
    ("LOCKS", lambda o: str(o.locks)),
]
STORE_MEMBERS: list[Column] = [("ETCD", lambda m: m.endpoint), ("STATE", lambda m: m.state), ("SIZE", lambda m: size(m.size))]
MEMBERS: list[Column] = [
    ("NODE", lambda m: m.name),
    ("STATE", lambda m: m.state),
    ("CONNECTED", lambda m: "yes" if m.connected else "no"),
    ("COORDINATES", lambda m: str(m.coordinates)),
    ("ADDRESSES", lambda m: " ".join(m.addresses)),
]
COORDINATED: list[Column] = [
    ("VOLUME", lambda v: v.name),
    ("COORDINATOR", lambda v: v.coordinator or "none"),
    ("STATE", lambda v: f"{v.state}: {v.reason}" if v.reason else v.state),
    ("REPLICAS", lambda v: ", ".join(map(_replica, v.replicas))),
]


def _replica(replica: Any) -> str:
    reason = f" ({replica.reason})" if replica.reason else ""
    return f"{replica.node} {'in step' if replica.in_sync else 'left out'}{reason}"
