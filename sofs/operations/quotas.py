"""Quotas, as an operator asks for them: by volume and by user, group or path, answered once what was asked is stable."""

from __future__ import annotations

from sofs.admin import api
from sofs.errors import InvalidArgument, NotFound, SofsError
from sofs.hosting import Host, Hosted
from sofs.operations.asking import OPERATOR, ask_stable, at_path
from sofs.records import Registry
from sofs.types import ROOT, Inode
from sofs.volume.api import (
    Binding,
    Entries,
    Found,
    GetAttributes,
    GetQuota,
    ListQuotas,
    Quota,
    QuotaKind,
    QuotaList,
    ReadDirectory,
    Request,
    SetQuota,
    Stateless,
)

_DEFAULT = (1 << 32) - 1


class Quotas:
    """Those of a node's volumes."""

    def __init__(self, host: Host, registry: Registry, by: Binding) -> None:
        self._host = host
        self._registry = registry
        self._by = by

    async def all(self, volume: str) -> list[api.Quota]:
        """Every quota, and every user's use."""
        hosted = self._host.named(volume)
        found: list[Quota] = []
        after = (0, -1)
        while True:
            part = await ask_stable(hosted, ListQuotas(after), QuotaList, self._by)
            found += part.quotas
            if part.end:
                break
            after = (part.quotas[-1].kind, part.quotas[-1].subject)
        users = {user.uid: user.name for user in await self._registry.users()}
        return [await self._shown(hosted, quota, users) for quota in found]

    async def set(self, request: api.Quota) -> api.Quota:
        """Sets the limits of one; all 0 is refused, `delete` is for that."""
        if not (request.soft_bytes or request.hard_bytes or request.hard_files):
            raise InvalidArgument("a quota needs a limit: --hard, --soft or --files; `sofs quota delete` takes it away")
        hosted = self._host.named(request.volume)
        kind, subject = await self._subject(hosted, request)
        wanted = Quota(kind, subject, request.soft_bytes, request.hard_bytes, request.hard_files)
        return await self._one(hosted, SetQuota(wanted))

    async def show(self, request: api.Quota) -> api.Quota:
        hosted = self._host.named(request.volume)
        return await self._one(hosted, GetQuota(*await self._subject(hosted, request)))

    async def delete(self, request: api.Quota) -> None:
        hosted = self._host.named(request.volume)
        await self._one(hosted, SetQuota(Quota(*await self._subject(hosted, request))))

    async def _one(self, hosted: Hosted, request: Request) -> api.Quota:
        answer = await ask_stable(hosted, request, QuotaList, self._by)
        users = {user.uid: user.name for user in await self._registry.users()}
        return await self._shown(hosted, answer.quotas[0], users)

    async def _subject(self, hosted: Hosted, request: api.Quota) -> tuple[QuotaKind, int]:
        """What the request's kind and subject mean. Raises `NotFound`, `InvalidArgument`."""
        text = request.subject
        if request.kind == "volume":
            return QuotaKind.VOLUME, 0
        if request.kind == "directory":
            if not text.strip("/"):
                raise InvalidArgument("the whole volume's quota is set without --directory")
            return QuotaKind.DIRECTORY, (await at_path(hosted, text, self._by)).inode
        if request.kind == "user":
            if text == "*":
                return QuotaKind.USER, _DEFAULT
            known = {user.name.lower(): user.uid for user in await self._registry.users()}
            named = known.get(text.lower())
            return QuotaKind.USER, _number(text, "user") if named is None else named
        if request.kind == "group":
            return QuotaKind.GROUP, _number(text, "group")
        raise InvalidArgument(f"a quota is one of a volume, directory, user or group, not {request.kind!r}")

    async def _shown(self, hosted: Hosted, quota: Quota, users: dict[int, str]) -> api.Quota:
        subject = str(quota.subject)
        if quota.kind == QuotaKind.VOLUME:
            subject = ""
        elif quota.kind == QuotaKind.USER:
            subject = "*" if quota.subject == _DEFAULT else users.get(quota.subject, subject)
        elif quota.kind == QuotaKind.DIRECTORY:
            subject = await self._path(hosted, Inode(quota.subject))
        return api.Quota(
            hosted.record.name, quota.kind.name.lower(), subject, quota.soft_bytes, quota.hard_bytes, quota.hard_files,
            quota.used_bytes, quota.used_files,
        )  # fmt: skip

    async def _path(self, hosted: Hosted, inode: Inode) -> str:
        """A directory's path from the volume's root; its number if it has just been removed."""
        names: list[bytes] = []
        at = inode
        try:
            while at != ROOT:
                found = await ask_stable(hosted, GetAttributes(Stateless(at, OPERATOR)), Found, self._by)
                parent = found.attributes.parent
                names.append(await self._name(hosted, parent, at))
                at = parent
        except SofsError:
            return f"inode {inode}"
        return "/" + b"/".join(reversed(names)).decode(errors="backslashreplace")

    async def _name(self, hosted: Hosted, directory: Inode, inode: Inode) -> bytes:
        cookie = 0
        while True:
            part = await ask_stable(hosted, ReadDirectory(OPERATOR, directory, cookie, 1000), Entries, self._by)
            for entry in part.entries:
                if entry.inode == inode:
                    return entry.name
            if part.end:
                raise NotFound(f"inode {inode} has no name in directory {directory}")
            cookie = part.entries[-1].cookie


def _number(text: str, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise NotFound(f"there is no {what} {text!r}; a number will do") from None
    if not 0 <= number < _DEFAULT:
        raise InvalidArgument(f"{number} is no number of a {what}")
    return number
