"""Seeds of `pool_nodes`: the disks of three nodes under every fault at once; and what is broken on purpose is noticed."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from sofs.pool.extent import ExtentId
from sofs.pool.local_disk import LocalDisk
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import Members
from sofs.pool.neighbours import Neighbours
from sofs.pool.table import Entry
from tests.simulation import pool_nodes

SEEDS = int(os.environ.get("POOL_NODE_SEEDS", "4"))


def test_no_extent_is_lost_wrong_or_leaked_over_three_nodes() -> None:
    met: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            met += pool_nodes.run(seed, 40.0)
        except BaseException as error:
            error.add_note(f"seed {seed}: python -m tests.simulation.pool_nodes {seed} 40")
            raise
    for event in ("written", "deleted", "read", "rot", "restarts", "put back", "re-protected", "orphans", "tenures", "Fenced"):
        assert met[event], f"no run met anything of {event!r}: {dict(met)}"


Patch = Callable[[pytest.MonkeyPatch], None]


def deletes_whatever_lies_there(patch: pytest.MonkeyPatch) -> None:
    delete = LocalDisk.delete

    async def careless(self: LocalDisk, slot: int, id: ExtentId) -> None:
        entry = self._table.get(slot)
        await delete(self, slot, entry.id if isinstance(entry, Entry) else id)

    patch.setattr(LocalDisk, "delete", careless)


def revokes_nothing(patch: pytest.MonkeyPatch) -> None:
    async def revoke(self: LocalPool, *rest: object) -> None:
        pass

    patch.setattr(LocalPool, "revoke", revoke)


def tells_a_returning_disk_nothing(patch: pytest.MonkeyPatch) -> None:
    async def knows(self: Neighbours, *rest: object) -> bool:
        return True

    patch.setattr(Neighbours, "_knows_revoked", knows)
    patch.setattr(LocalPool, "in_doubt", property(lambda self: 1))


def looks_for_orphans_by_number_only(patch: pytest.MonkeyPatch) -> None:
    orphans = LocalPool.orphans

    async def coarse(self: LocalPool, volume: Any, ids: range, known: Callable[[int], Any]) -> Any:
        class Everything:
            def __contains__(self, fragment: object) -> bool:
                return True

        return await orphans(self, volume, ids, lambda number: Everything() if known(number) else ())  # type: ignore[arg-type, return-value]

    patch.setattr(LocalPool, "orphans", coarse)


def believes_what_arrives(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("sofs.pool.remote_disk.wrong_pages", lambda *rest: [])


def writes_off_what_is_away(patch: pytest.MonkeyPatch) -> None:
    forget = Members.away

    def away(self: Members, disk: Any, error: Any) -> None:
        forget(self, disk, error)
        self.get(disk.id).spec = self.get(disk.id).spec._replace(lost=True)

    patch.setattr(Members, "away", away)


MUTATIONS = {
    deletes_whatever_lies_there: 0,
    revokes_nothing: 12,
    tells_a_returning_disk_nothing: 5,
    looks_for_orphans_by_number_only: 11,
    believes_what_arrives: 4,
    writes_off_what_is_away: 4,
}
"""With a seed that has caught it; when the code changes it may take another."""
TRIES = 12


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_what_is_broken_on_purpose_is_noticed(mutation: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    first = MUTATIONS[mutation]
    for seed in range(first, first + TRIES):
        try:
            pool_nodes.run(seed, 60.0)
        except (pool_nodes.Broken, AssertionError):
            return
    raise AssertionError(f"nothing was noticed in {TRIES} runs")
