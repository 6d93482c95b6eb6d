"""Where each virtual address belongs: a function from what is known to a plan, the same at every node."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple


class Vip(NamedTuple):
    address: str
    group: int = 0
    volume: int = 0


def place(
    vips: Sequence[Vip], candidates: Collection[int], holders: Mapping[str, int], coordinators: Mapping[int, int], bound: Collection[int] = ()
) -> dict[str, int]:
    """The node for each address; without a candidate, none for any.

    `candidates` run and take addresses on; `holders` says by address who has it; `coordinators` who serves a volume. Who is `bound` has just been started,
    and gets nothing yet but what is its own and at nobody, unless all are: a cluster that starts waits for each. An address that is tied to a volume
    goes where the volume is. The others stay where they are, or go to their group's own member, or to the node with the fewest; then
    as few as possible move until no node has two more than another.
    """
    plan: dict[str, int] = {}
    if not candidates:
        return plan
    load = dict.fromkeys(sorted(candidates), 0)
    free = [node for node in load if node not in bound] or list(load)
    movable: list[Vip] = []
    homeless: list[Vip] = []
    for vip in sorted(vips):
        at = coordinators.get(vip.volume, 0)
        if vip.volume and at in load:
            plan[vip.address] = at
            load[at] += 1
        elif (holder := holders.get(vip.address, 0)) in load:
            plan[vip.address] = holder
            load[holder] += 1
            movable.append(vip)
        else:
            homeless.append(vip)
    # Those who have a home go first, so that the others can fill up what is left.
    for vip in sorted(homeless, key=lambda vip: vip.group not in load):
        at = vip.group if vip.group in load else _least(load, free)
        plan[vip.address] = at
        load[at] += 1
        movable.append(vip)
    _balance(plan, load, free, movable)
    return plan


def _least(load: Mapping[int, int], free: Sequence[int]) -> int:
    return min(free, key=lambda node: (load[node], node))


def _balance(plan: dict[str, int], load: dict[int, int], free: Sequence[int], movable: Sequence[Vip]) -> None:
    while True:
        least = _least(load, free)
        crowded = [vip for vip in movable if load[plan[vip.address]] > load[least] + 1]
        if not crowded:
            return
        # Home if possible, from the fullest node; one that is at home goes last.
        vip = min(crowded, key=lambda vip: (vip.group != least, vip.group == plan[vip.address], -load[plan[vip.address]], vip.address))
        load[plan[vip.address]] -= 1
        load[least] += 1
        plan[vip.address] = least
