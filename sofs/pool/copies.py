"""Reading an extent of copies when the first copy did not answer, and mending the copies that were bad.

The plan is always the same: ask the copies in the order of trust, each for the pages that are still missing; then write
every page that was bad on one copy from what another gave. Erasure coding will stand beside this module: other sources of
a missing page, the same mending.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sofs.cluster import Priority
from sofs.errors import Damaged, DiskFailed, ExtentGone, SofsError, Unavailable
from sofs.pool.disk import BadPages, Disk
from sofs.pool.extent import ExtentId
from sofs.types import PAGE


class Copy(NamedTuple):
    """One copy of an extent."""

    disk: Disk
    slot: int


class Trouble(NamedTuple):
    """What was wrong with a copy."""

    copy: Copy
    pages: tuple[int, ...]
    """Which pages it did not give, though another copy may have."""
    error: SofsError


async def read_copies(
    copies: Sequence[Copy], id: ExtentId, offset: int, into: memoryview, sums: Sequence[int] | None,
    priority: Priority = Priority.FOREGROUND,
) -> tuple[list[Trouble], Copy | None]:  # fmt: skip
    """Fills `into`, verified, from the copies in turn; gives what was wrong with which, and the copy that gave the last pages.

    That is `None` when some page could be had from no copy: see `worst`.
    """
    first = offset // PAGE
    missing = list(range(first, first + len(into) // PAGE))
    troubles: list[Trouble] = []
    for copy in copies:
        bad, error = await _ask(copy, id, missing, first, into, sums, priority)
        if error is None:
            return troubles, copy
        if isinstance(error, Damaged) and not isinstance(error, BadPages):
            # No checksums of its own, but the data may be good, and the others' checksums are the same.
            lender, lent = await _borrow(copies, id, copy)
            if lender is not None:
                bad, _ = await _ask(copy, id, missing, first, into, lent[first : first + len(into) // PAGE], priority)
                if not bad:
                    return [*troubles, Trouble(copy, (), error)], lender
        troubles.append(Trouble(copy, tuple(bad), error))
        missing = bad
    return troubles, None


async def _borrow(copies: Sequence[Copy], id: ExtentId, borrower: Copy) -> tuple[Copy | None, Sequence[int]]:
    """The checksums of a copy whose header is good."""
    for copy in copies:
        if copy is not borrower:
            try:
                _, sums, _ = await copy.disk.describe(copy.slot, id)
            except (Damaged, DiskFailed, ExtentGone, Unavailable):
                continue
            return copy, sums.pages
    return None, ()


async def _ask(
    copy: Copy, id: ExtentId, pages: list[int], first: int, into: memoryview, sums: Sequence[int] | None, priority: Priority
) -> tuple[list[int], SofsError | None]:
    """Reads pages from one copy; gives those that it does not have, and why."""
    bad: list[int] = []
    failure: SofsError | None = None
    work = list(_stretches(pages))
    while work:
        start, stop = work.pop(0)
        view = into[(start - first) * PAGE : (stop - first) * PAGE]
        expected = None if sums is None else sums[start - first : stop - first]
        try:
            waiting = copy.disk.read(copy.slot, id, start * PAGE, view, expected, priority)
            if waiting is not None:
                await waiting
        except BadPages as error:
            bad += error.pages
            failure = error
        except DiskFailed as error:
            failure = error
            if stop - start > 1:
                # One bad sector fails the whole call; the pages beside it may be all there is.
                work = [(page, page + 1) for page in range(start, stop)] + work
            else:
                bad.append(start)
        except (ExtentGone, Damaged, Unavailable) as error:
            # Nothing of this copy can be used: no fragment there, no checksums, or nobody who answers.
            return pages, error
    return sorted(bad), failure if bad else None


def _stretches(pages: list[int]) -> Iterator[tuple[int, int]]:
    """Ascending page numbers as ranges."""
    start = previous = -1
    for page in pages:
        if page != previous + 1 or start < 0:
            if start >= 0:
                yield start, previous + 1
            start = page
        previous = page
    if start >= 0:
        yield start, previous + 1


def worst(troubles: Sequence[Trouble]) -> SofsError:
    """What to raise when no copy had a page: `ExtentGone` if one says so, else `Damaged` if one could be read, else `DiskFailed`, else `Unavailable`.

    Whoever reads an extent that is just being deleted finds some copies gone and the others in whatever condition they were; that is
    no damage, and a look at the map will tell.
    """
    for kind in (ExtentGone, Damaged, DiskFailed):
        for trouble in troubles:
            if isinstance(trouble.error, kind):
                return trouble.error
    return troubles[0].error


async def mend(trouble: Trouble, good: Copy, id: ExtentId, offset: int, data: memoryview) -> bool:
    """Writes over what was bad of one copy, from `data` (verified, read from `offset` on) and the good copy's header.

    Says whether there was anything to mend: a copy that is not there at all is the volume's to replace. Raises as
    `Disk.mend`.
    """
    bad, slot = trouble.copy
    if isinstance(trouble.error, ExtentGone):
        return False
    try:
        await bad.describe(slot, id)
    except ExtentGone:
        return False
    except (Damaged, DiskFailed):
        _, sums, names = await good.disk.describe(good.slot, id)
        await bad.mend_header(slot, id, sums, names)
    first = offset // PAGE
    for start, stop in _stretches(list(trouble.pages)):
        await bad.mend(slot, id, start, bytes(data[(start - first) * PAGE : (stop - first) * PAGE]))
    return True
