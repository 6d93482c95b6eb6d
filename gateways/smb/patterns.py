"""Search patterns of QUERY_DIRECTORY, MS-FSA 2.1.4.4: `*` and `?`, and the three that DOS's rules became.

`<` takes any characters but the name's last dot, `>` one character, or nothing before a dot and at the end, `"` a dot, or nothing at
the end. A pattern is walked as a set of positions, so that no pattern costs more than its length times the name's.
"""

import re
from collections.abc import Callable
from functools import lru_cache

Matcher = Callable[[str], bool]

_WILD = re.compile(r'[*?<>"]')
_DOS = re.compile(r'[<>"]')


def has_wildcards(pattern: str) -> bool:
    return _WILD.search(pattern) is not None


@lru_cache(256)
def matcher(pattern: str) -> Matcher:
    """Tells whether a name matches `pattern`, in any case."""
    if pattern == "*":
        return lambda name: True
    if _DOS.search(pattern) is None and pattern.count("*") <= 2:
        # At most quadratic in a regular expression, and many times quicker there.
        expression = "".join({"*": ".*", "?": "."}.get(char) or re.escape(char) for char in pattern)
        compiled = re.compile(expression, re.IGNORECASE | re.DOTALL)
        return lambda name: compiled.fullmatch(name) is not None
    folded = re.sub(r"\*+", "*", pattern).upper()
    return lambda name: _walk(folded, name.upper())


def _walk(pattern: str, name: str) -> bool:
    last_dot = name.rfind(".")
    places = {0}
    for at, char in enumerate(name):
        following = set()
        for place in _skipped(pattern, places, char):
            wanted = pattern[place : place + 1]
            if wanted == "*" or (wanted == "<" and at != last_dot):
                following.add(place)
            elif wanted in ("?", char) or (wanted == ">" and char != ".") or (wanted == '"' and char == "."):
                following.add(place + 1)
        places = following
        if not places:
            return False
    return len(pattern) in _skipped(pattern, places, "")


def _skipped(pattern: str, places: set[int], char: str) -> set[int]:
    """`places`, and those reached from them without taking `char` ("" at the name's end)."""
    reached = set(places)
    waiting = list(places)
    while waiting:
        place = waiting.pop()
        wanted = pattern[place : place + 1]
        free = wanted in ("*", "<") or (wanted == ">" and char in ("", ".")) or (wanted == '"' and not char)
        if wanted and free and place + 1 not in reached:
            reached.add(place + 1)
            waiting.append(place + 1)
    return reached
