"""Whether a history of operations could have happened one after another (linearizability; Wing and Gong, JPDC 17 (1993), with memory).

An operation has the moments of its call and its return (infinite if nobody ever heard), and `apply`: given a state, the state behind it, or None if
the operation cannot have been answered there as it was. Histories must be small, or little concurrent.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

__all__ = ["NEVER", "Operation", "linearizable"]

NEVER = float("inf")


class Operation(NamedTuple):
    called: float
    returned: float
    """`NEVER`: it may have happened at any time since its call, or not at all."""
    apply: Callable[[Hashable], Hashable | None]
    text: str


def linearizable(operations: Sequence[Operation], initial: Hashable) -> bool:
    """Whether some order explains all answers."""
    rest = sorted(operations, key=lambda operation: operation.called)
    count = len(rest)
    needed = sum(1 << index for index, operation in enumerate(rest) if operation.returned < NEVER)
    seen: set[tuple[int, Hashable]] = set()
    stack: list[tuple[int, Hashable]] = [(0, initial)]
    while stack:
        taken, state = stack.pop()
        if taken & needed == needed:
            return True
        if (taken, state) in seen:
            continue
        seen.add((taken, state))
        # Only what was called before every pending return may come next.
        horizon = NEVER
        index = _first_clear(taken)
        candidates = []
        while index < count and rest[index].called <= horizon:
            if not taken >> index & 1:
                candidates.append(index)
                horizon = min(horizon, rest[index].returned)
            index += 1
        for index in candidates:
            if rest[index].called > horizon:
                continue
            following = rest[index].apply(state)
            if following is not None:
                stack.append((taken | 1 << index, following))
    return False


def _first_clear(taken: int) -> int:
    return (~taken & taken + 1).bit_length() - 1
