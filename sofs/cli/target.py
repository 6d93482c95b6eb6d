"""Which node a command means: `--data DIR`, `--node ADDRESS:PORT`, or the one that is nearest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sofs.admin.client import AdminClient
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
Node = Annotated[
    str | None,
    typer.Option("--node", envvar="SOFS_NODE", metavar="ADDRESS:PORT", help="Admin address of a node."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Holds the token for --node (or set SOFS_TOKEN)."),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


def data_directory(data: Path | None) -> Path:
    """The directory that was named, or the nearest."""
    return data or (QUICKSTART_DATA if QUICKSTART_DATA.is_dir() else SERVICE_DATA)


def connect(data: Path | None, node: str | None, token_file: Path | None) -> AdminClient:
    """The client for the node that the options name. `--node` wins over a data directory from the environment."""
    if node is None:
        return AdminClient(data=data_directory(data))
    token = os.environ.get("SOFS_TOKEN", "")
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"{token_file}: {error.strerror}; copy it from the node's data directory"
            ) from None
    return AdminClient(node=node, token=token)
