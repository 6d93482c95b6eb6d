"""A node's configuration: one documented tree of dataclasses.

`conf/sofs.toml` is generated from it (`python -m sofs.config`), and a test keeps the two in step. Units stand in names. A
key that is unknown, of the wrong type or out of bounds is a `ConfigError` that names the file, the line
and what to do about it. What many nodes share (disks, pools, volumes, shares, users) is not here: those are records
in the coordination store, made with `sofs disk add`, `sofs share create` and so on.

Settings marked live take effect when the file changes; the others at the next start, and the node says which.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from sofs.errors import ConfigError

MIB = 1 << 20


def _setting(
    default: Any, text: str, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = (), live: bool = False
) -> Any:
    """A key of the file: its default, what it means, what it may be, and whether it may change while running."""
    metadata = {"text": text, "low": low, "high": high, "choices": choices, "live": live}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _port(default: int, text: str) -> Any:
    return _setting(default, text, low=0, high=65535)


@dataclass
class NodeConfig:
    """This node."""

    name: str = _setting("", "Its name in the cluster and towards SMB clients; empty: the host's name.")
    data_dir: str = _setting(
        "/var/lib/sofs",
        "Where the node keeps what is its own: the embedded coordination store, the admin socket, its identity. "
        "A relative path starts at the directory of this file.",
    )


@dataclass
class LogConfig:
    """What the node writes about itself, on stderr."""

    level: str = _setting("info", "The least level that is written.", choices=("debug", "info", "warning", "error"), live=True)
    format: str = _setting(
        "auto", "One JSON object a line, or text for people; auto: text when stderr is a terminal.", choices=("auto", "json", "text")
    )


@dataclass
class CoordinationConfig:
    """Where disks, pools, volumes, shares and users are recorded. Only changes need it, never a read or write of data."""

    kind: str = _setting("embedded", "embedded: one file in the data directory, for a single node. etcd: a cluster's.", choices=("embedded", "etcd"))
    endpoints: list[str] = _setting(["127.0.0.1:2379"], "The etcd members, `host:port` each.")
    prefix: str = _setting("sofs/", "What all keys in etcd begin with, so that clusters can share one.")
    authority_file: str = _setting(
        "", "The certificate (PEM) of whoever signed etcd's, as an absolute path; empty: without TLS, for a network of the nodes' own."
    )
    certificate_file: str = _setting("", "This node's certificate for an etcd that asks for one, with `key_file`.")
    key_file: str = _setting("", "The key of that certificate.")


@dataclass
class ClusterConfig:
    """This node's place in a cluster; a single node has none. `sofs cluster init` and `sofs cluster join` fill it in."""

    addresses: list[str] = _setting(
        [], "Where other nodes reach it, `IP:PORT` each; IPv6 in brackets. Several are used together: a cable between two nodes is enough for one."
    )
    host: str = _setting("", "The fault domain of its disks, shared by the nodes of one host; empty: the node's name.")


@dataclass
class AdminConfig:
    """The interface behind `sofs status` and the other commands, and `/metrics`."""

    address: str = _setting("127.0.0.1", "Where it listens besides the socket `admin.sock` in the data directory.")
    port: int = _port(0, "0: only on that socket.")
    token_file: str = _setting(
        "",
        "A file with the secret that requests over the network bear; empty: `admin.token` in the data directory, made at "
        "first start. `/metrics` needs none.",
    )


@dataclass
class SmbConfig:
    """The SMB gateway."""

    enabled: bool = _setting(True, "Whether to serve SMB.")
    addresses: list[str] = _setting(["0.0.0.0"], "Where it listens.")
    port: int = _port(445, "Windows clients know only 445; ports below 1024 need CAP_NET_BIND_SERVICE.")
    signing: str = _setting(
        "required",
        "Whether every message must be signed. offered: only when the client asks, which lets someone in between change messages.",
        choices=("required", "offered"),
    )
    encryption: str = _setting(
        "offered",
        "For the whole server; a share can ask for more. required: clients that cannot encrypt are refused.",
        choices=("off", "offered", "required"),
    )
    minimum_dialect: str = _setting(
        "2.0.2",
        "The oldest dialect that clients may speak. All of them are signed, and a client that knows a newer one notices when it is kept from it; "
        "but only 3.0 and later can encrypt.",
        choices=("2.0.2", "2.1", "3.0", "3.0.2", "3.1.1"),
    )
    name: str = _setting(
        "", "What clients know the server by, the same at all nodes of a cluster; empty: of a single node the node's name, of a cluster `sofs`."
    )
    workgroup: str = _setting("WORKGROUP", "The domain name that NTLM tells clients.")


@dataclass
class NfsConfig:
    """The NFS gateway; MOUNT answers on the same port."""

    enabled: bool = _setting(True, "Whether to serve NFS.")
    addresses: list[str] = _setting(["0.0.0.0"], "Where it listens.")
    port: int = _port(2049, "qemu's and ESXi's clients know only 2049.")
    portmap: bool = _setting(False, "Answer on port 111 too, for clients that ask there; not together with rpcbind.")
    lease_s: float = _setting(90.0, "How long a client of NFS 4.1 or 4.2 may be silent before it loses its opens and locks.", low=1, high=3600)


@dataclass
class VolumeConfig:
    """Limits of the volumes this node coordinates."""

    checkpoint_interval_s: float = _setting(5.0, "The longest time between two checkpoints of a changed volume.", low=0.1, high=3600)
    log_limit_mib: int = _setting(1024, "How far a log may grow before writers wait for destaging.", low=64, high=1 << 20)
    missing_grace_s: float = _setting(600.0, "How long a disk may be missing before what lies on it is copied elsewhere.", low=0, high=1 << 30)
    moving_mib_s: int = _setting(200, "How much a volume may copy in a second for that, and to balance disks.", low=1, high=1 << 20)


@dataclass
class Config:
    """All of it."""

    node: NodeConfig = field(default_factory=NodeConfig)
    log: LogConfig = field(default_factory=LogConfig)
    coordination: CoordinationConfig = field(default_factory=CoordinationConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    admin: AdminConfig = field(default_factory=AdminConfig)
    smb: SmbConfig = field(default_factory=SmbConfig)
    nfs: NfsConfig = field(default_factory=NfsConfig)
    volume: VolumeConfig = field(default_factory=VolumeConfig)


def load(path: Path) -> Config:
    """The configuration in `path`. Raises `ConfigError`."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); `--config` says where the file is") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Config:
    """The configuration that `text` describes; `name` is what errors call it."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}; correct that line") from None
    config = Config()
    sections = {section.name: getattr(config, section.name) for section in fields(config)}
    for section, values in tree.items():
        where = Where(text, name, section)
        if section not in sections:
            raise ConfigError(f"{where} unknown section or key `{section}`{_instead(section, sections)}")
        if not isinstance(values, dict):
            raise ConfigError(f"{where} `{section}` is a section: write it as [{section}]")
        for key, value in values.items():
            _assign(sections[section], key, value, Where(text, name, section, key))
    return config


class Where:
    """A place in the file, found again in its text: tomllib does not tell lines."""

    def __init__(self, text: str, name: str, section: str, key: str = "") -> None:
        self.name = name
        self.line = self._find(text.splitlines(), section, key)

    @staticmethod
    def _find(lines: list[str], section: str, key: str) -> int:
        header = re.compile(rf"\s*\[\s*[\"']?{re.escape(section)}[\"']?\s*[\].]|\s*{re.escape(section)}\s*[.=]")
        wanted = re.compile(rf"\s*(?:{re.escape(section)}\s*\.\s*)?[\"']?{re.escape(key)}[\"']?\s*[.=]")
        found = 0
        inside = False
        for number, line in enumerate(lines, 1):
            if header.match(line):
                inside = True
                found = found or number
            elif line.lstrip().startswith("["):
                inside = False
            if key and inside and wanted.match(line):
                return number
        return found or 1

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:"


def _instead(wrong: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(wrong, known, 1)
    if close:
        return f"; did you mean `{close[0]}`?"
    return "; remove it, or use one of: " + ", ".join(known)


def _assign(section: Any, key: str, value: Any, where: Where) -> None:
    """Set one key after checking its type and bounds against its field."""
    known = {entry.name: entry for entry in fields(section)}
    if key not in known:
        raise ConfigError(f"{where} unknown key `{key}`{_instead(key, known)}")
    wanted = get_type_hints(type(section))[key]
    if wanted is float and type(value) is int:
        value = float(value)
    if not _is(value, wanted):
        raise ConfigError(f"{where} `{key}` is {_shown(value)}; write {_described(wanted)}")
    rules = known[key].metadata
    if rules["choices"] and value not in rules["choices"]:
        raise ConfigError(f"{where} `{key}` is {_shown(value)}; write one of {', '.join(rules['choices'])}")
    if rules["low"] is not None and not rules["low"] <= value <= rules["high"]:
        raise ConfigError(f"{where} `{key}` is {_shown(value)}; write a number from {rules['low']} to {rules['high']}")
    setattr(section, key, value)


def _is(value: Any, wanted: Any) -> bool:
    if wanted == list[str]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return type(value) is wanted  # not isinstance: true is no number


def _described(wanted: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: 'text in quotes ("…")'}
    return words.get(wanted, 'a list of texts (["…", "…"])')


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)


def changes(old: Config, new: Config) -> Iterator[tuple[str, Any, bool]]:
    """What differs, as (`section.key`, new value, whether it takes effect while running)."""
    for section in fields(Config):
        before, after = getattr(old, section.name), getattr(new, section.name)
        for entry in fields(before):
            value = getattr(after, entry.name)
            if value != getattr(before, entry.name):
                yield f"{section.name}.{entry.name}", value, entry.metadata["live"]


def render(config: Config, *, commented: bool) -> str:
    """The file for `config`, every key with its explanation; `commented` leaves all of them commented out."""
    lines = _comment("sofs: a node's configuration. All keys are optional; what stands here is the default.", "# ")
    mark = "# " if commented else ""
    for section in fields(config):
        values = getattr(config, section.name)
        lines += ["", *_comment(type(values).__doc__ or "", "# "), f"[{section.name}]"]
        for entry in fields(values):
            lines += ["", *_comment(_explained(entry), "# "), f"{mark}{entry.name} = {_shown(getattr(values, entry.name))}"]
    return "\n".join(lines) + "\n"


def amended(text: str, name: str, section: str, settings: dict[str, Any]) -> str:
    """The file's text with these keys of a section set, and nothing else changed. Raises `ConfigError` when they stand there in a form that takes a person."""
    lines = text.splitlines()
    header = re.compile(rf"\s*\[\s*{re.escape(section)}\s*\]")
    start = next((number for number, line in enumerate(lines) if header.match(line)), None)
    if start is None:
        lines += ["", f"[{section}]"]
        start = len(lines) - 1
    for key, value in settings.items():
        end = next((n for n in range(start + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
        present = re.compile(rf"\s*{re.escape(key)}\s*=")
        found = next((n for n in range(start + 1, end) if present.match(lines[n])), None)
        written = f"{key} = {_shown(value)}"
        if found is None:
            lines.insert(start + 1, written)
        else:
            lines[found] = written
    result = "\n".join(lines) + "\n"
    try:
        values = getattr(parse(result, name), section)
    except ConfigError:
        values = None
    if values is None or any(getattr(values, key) != value for key, value in settings.items()):
        wanted = ", ".join(f"{key} = {_shown(value)}" for key, value in settings.items())
        raise ConfigError(f"{name}: section [{section}] could not be changed; write there {wanted}")
    return result


def _explained(entry: dataclasses.Field[Any]) -> str:
    rules = entry.metadata
    text: str = rules["text"]
    if rules["choices"]:
        text += " One of: " + ", ".join(rules["choices"]) + "."
    if rules["live"]:
        text += " Live."
    return text


def _comment(text: str, prefix: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 100, initial_indent=prefix, subsequent_indent=prefix)


if __name__ == "__main__":
    print(render(Config(), commented=True), end="")
