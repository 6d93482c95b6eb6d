"""Which node a command means: `--data DIR`, `--node ADDRESS:PORT`, or the one that is nearest; and how it wants its answer.

A command takes a `Target` first, and `on_node` gives it the options that all commands have.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from sofs.admin.api import Operations
from sofs.admin.client import AdminClient
from sofs.cli import show
from sofs.errors import ConfigError

QUICKSTART_DATA = Path("sofs-data")
SERVICE_DATA = Path("/var/lib/sofs")

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="SOFS_DATA",
        metavar="DIR",
        help="Data directory of a node on this host (default: ./sofs-data if it is there, else /var/lib/sofs).",
    ),
]
Node = Annotated[str | None, typer.Option("--node", envvar="SOFS_NODE", metavar="ADDRESS:PORT", help="Admin address of a node.")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", metavar="FILE", help="Holds the token for --node (or set SOFS_TOKEN).")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]

Listing = Callable[[Operations], Coroutine[Any, Any, Sequence[Any]]]


def data_directory(data: Path | None) -> Path:
    """The directory that was named, or the nearest."""
    return data or (QUICKSTART_DATA if QUICKSTART_DATA.is_dir() else SERVICE_DATA)


class Target:
    """The node that the options name, and the form of the answer."""

    def __init__(self, data: Path | None, node: str | None, token_file: Path | None, json: bool) -> None:
        self.data = data
        self.node = node
        self.json = json
        self._token_file = token_file

    @functools.cached_property
    def client(self) -> AdminClient:
        """`--node` wins over a data directory from the environment. Raises `ConfigError`."""
        if self.node is None:
            return AdminClient(data=data_directory(self.data))
        token = os.environ.get("SOFS_TOKEN", "")
        if self._token_file is not None:
            try:
                token = self._token_file.read_text().strip()
            except OSError as error:
                raise ConfigError(f"{self._token_file}: {error.strerror}; copy it from the node's data directory") from None
        return AdminClient(node=self.node, token=token)

    def tell(self, value: Any, sentence: str) -> None:
        """Says what was done."""
        show.tell(value, sentence, self.json)

    def list(self, rows: Sequence[Any], columns: Sequence[show.Column], empty: str) -> None:
        """Shows what was asked for; `empty` says what to do when there is none."""
        if self.json:
            show.as_json(rows)
        else:
            show.table(rows, columns, empty)


def add_list(group: typer.Typer, operation: Listing, help: str, columns: Sequence[show.Column], empty: str) -> None:
    """Gives the group its command `list`."""

    @group.command("list", help=help)
    @on_node
    def command(on: Target) -> None:
        on.list(on.client.ask(operation), columns, empty)


def on_node(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that say which node, instead of its first parameter `on`."""
    hints = get_type_hints(command, include_extras=True)
    own = [parameter.replace(annotation=hints[parameter.name]) for parameter in list(inspect.signature(command).parameters.values())[1:]]
    options = {"data": (Data, None), "node": (Node, None), "token_file": (TokenFile, None), "json": (Json, False)}
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in options.items()
    ]

    @functools.wraps(command)
    def run(*given: Any, data: Path | None, node: str | None, token_file: Path | None, json: bool, **named: Any) -> None:
        command(Target(data, node, token_file, json), *given, **named)

    shown = inspect.Signature([*own, *common])
    run.__signature__ = shown  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown.parameters.values()}
    return run
