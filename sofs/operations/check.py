"""`sofs check` of hosted volumes: a copy of a fresh checkpoint is checked while the volume goes on serving.

Offline it is the same: the node's volumes are opened, and nobody is let in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from sofs.admin.api import Progress
from sofs.errors import SofsError
from sofs.hosting import Host, Hosted
from sofs.runtime.ports import Files
from sofs.types import VolumeId
from sofs.volume.check import RecordsView, Report, check

SLICE_S = 0.002
"""How long the check keeps the loop from clients at a time."""
REPORT_S = 0.25
RECORDS_SIZE = 64 << 30
"""Bytes of address space for the copy."""


class _Steps:
    """Counts a check's steps, and gives the loop its turn between them."""

    def __init__(self, host: Host) -> None:
        self.done = 0
        self._clock = host.clock
        self._until = 0.0

    async def pause(self) -> None:
        self.done += 1
        if self._clock.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = self._clock.monotonic() + SLICE_S


async def check_volumes(host: Host, wanted: Sequence[Hosted], data: bool) -> AsyncIterator[Progress]:
    """Checks the volumes one after another. The last step has all problems, each beginning with its volume's name, and what was counted."""
    problems: list[str] = []
    facts: dict[str, int] = {}
    steps = _Steps(host)
    for hosted in wanted:
        name = hosted.record.name
        task = asyncio.ensure_future(_check_one(host, hosted, data, steps))
        try:
            while not task.done():
                await asyncio.wait([task], timeout=REPORT_S)
                yield Progress(steps.done, 0, f"checking {name}")
            report = task.result()
        except SofsError as error:
            problems.append(f"{name}: {error or type(error).__name__}")
            continue
        finally:
            task.cancel()
        problems += [f"{name}: {finding}" for finding in report.findings]
        for fact, value in (
            ("files", report.inodes),
            ("pages", report.pages),
            ("extents", report.extents),
            ("orphaned extents", report.orphans),
            ("pages read", report.pages_read),
        ):
            facts[fact] = facts.get(fact, 0) + value
    yield Progress(steps.done, steps.done, "checked", finished=True, problems=problems, facts=facts)


async def _check_one(host: Host, hosted: Hosted, data: bool, steps: _Steps) -> Report:
    store = hosted.opened_store()
    await store.checkpoints.run_once()
    place = next(place for place in host.places(hosted.record) if place.id in store.checkpoints.records)
    path = f"{place.path}/check"
    _remove(host.files, path)  # of a check that was cut short
    await store.checkpoints.records[place.id].copy(path)
    copied = host.files.records(path, RECORDS_SIZE)
    try:
        volume = VolumeId(hosted.record.id)
        pool = host.pools[hosted.record.pool]
        view = RecordsView(copied)
        return await check(
            view, store.keyspace, store.log, pool, volume, steps.pause, read_data=data,
            doubtful=lambda: hosted.data is not None and hosted.data.extents.doubtful,
        )  # fmt: skip
    finally:
        copied.close()
        _remove(host.files, path)


def _remove(files: Files, path: str) -> None:
    if files.exists(path):
        for name in files.list(path):
            files.remove(f"{path}/{name}")
        files.remove(path)
