"""`sofs quota …`: what a volume, its directories, users and groups may use, and what they do."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from sofs.admin import api
from sofs.cli import show
from sofs.cli.target import Target, on_node
from sofs.errors import InvalidArgument

quota = typer.Typer(help="Quotas: limits of volumes, directories, users and groups.", no_args_is_help=True)

QUOTAS: list[show.Column] = [
    ("WHOSE", lambda q: f"{q.kind} {q.subject}".strip()),
    ("USED", lambda q: show.size(q.used_bytes)),
    ("SOFT", lambda q: show.size(q.soft_bytes) if q.soft_bytes else "-"),
    ("HARD", lambda q: show.size(q.hard_bytes) if q.hard_bytes else "-"),
    ("FILES", lambda q: str(q.used_files)),
    ("MOST FILES", lambda q: str(q.hard_files) if q.hard_files else "-"),
]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtpe]?)i?b?", re.IGNORECASE)

User = Annotated[str, typer.Option(help="A user's name or number; `*`: everybody who has no quota of his own, but the superuser.")]
Group = Annotated[str, typer.Option(help="A group's number.")]
Directory = Annotated[str, typer.Option(help="A directory's path in the volume.")]


def size(text: str) -> int:
    """Bytes from `10GiB`, `1.5T`, `4096`; units are binary. Raises `InvalidArgument`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidArgument(f"{text!r} is not a size: 500M, 10GiB, 1.5T or a number of bytes")
    return int(float(found[1]) * 1024 ** " kmgtpe".index(found[2].lower() or " "))


def _asked(volume: str, user: str, group: str, directory: str) -> api.Quota:
    given = [(kind, text) for kind, text in (("user", user), ("group", group), ("directory", directory)) if text]
    if len(given) > 1:
        raise InvalidArgument("give one of --user, --group and --directory; none of them means the volume")
    return api.Quota(volume, *(given[0] if given else ("volume", "")))


def _whose(shown: api.Quota) -> str:
    return f"{shown.kind} {shown.subject} in volume {shown.volume}" if shown.subject else f"volume {shown.volume}"


@quota.command("set")
@on_node
def quota_set(
    on: Target,
    volume: str,
    user: User = "",
    group: Group = "",
    directory: Directory = "",
    hard: Annotated[str, typer.Option(help="Nobody gets beyond this: 500M, 10GiB, 1.5T.")] = "0",
    soft: Annotated[str, typer.Option(help="Shown, and to Windows as the warning level.")] = "0",
    files: Annotated[int, typer.Option(min=0, help="The most files and directories.")] = 0,
) -> None:
    """Limit what a user, group, directory or the volume may use. Replaces former limits; what is there already is counted in the background."""
    wanted = _asked(volume, user, group, directory)
    wanted.hard_bytes, wanted.soft_bytes, wanted.hard_files = size(hard), size(soft), files
    made = on.client.ask(api.Operations.set_quota, wanted)
    on.tell(made, f"quota of {_whose(made)} set")


@quota.command("show")
@on_node
def quota_show(on: Target, volume: str, user: User = "", group: Group = "", directory: Directory = "") -> None:
    """One quota, and what is used of it."""
    shown = on.client.ask(api.Operations.show_quota, _asked(volume, user, group, directory))
    limits = [show.size(shown.hard_bytes)] if shown.hard_bytes else []
    limits += [f"{shown.hard_files} files"] if shown.hard_files else []
    on.tell(
        shown, f"{_whose(shown)} uses {show.size(shown.used_bytes)} in {shown.used_files} files, and may use {' and '.join(limits) or 'any amount'}"
    )


@quota.command("list")
@on_node
def quota_list(on: Target, volume: str) -> None:
    """All quotas of a volume, and what each user uses."""
    quotas = on.client.ask(api.Operations.quotas, volume)
    on.list(quotas, QUOTAS, f"No quotas: sofs quota set {volume} --user NAME --hard SIZE")


@quota.command("delete")
@on_node
def quota_delete(on: Target, volume: str, user: User = "", group: Group = "", directory: Directory = "") -> None:
    """Take a quota away. Nothing is counted any more once the last one is gone."""
    wanted = _asked(volume, user, group, directory)
    on.client.ask(api.Operations.delete_quota, wanted)
    on.tell({"deleted": wanted}, f"quota of {_whose(wanted)} deleted")
