"""Search patterns of QUERY_DIRECTORY, MS-FSA 2.1.4.4: `*` and `?`, and the three that DOS's rules became.

`<` takes any characters but the name's last dot, `>` one character, or nothing before a dot and at the end, `"` a dot, or nothing at
the end. No pattern costs more than its length times the name's: names are others' choice, patterns a stranger's, and a listing has many names.
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
    stars = pattern.count("*")
    if _DOS.search(pattern) is None and (stars < 2 or (stars == 2 and pattern[0] == pattern[-1] == "*")):
        # At most the pattern's length times the name's in a regular expression too, and many times quicker there.
        expression = "".join({"*": ".*", "?": "."}.get(char) or re.escape(char) for char in pattern)
        compiled = re.compile(expression, re.IGNORECASE | re.DOTALL)
        return lambda name: compiled.fullmatch(name) is not None
    walk = _Walk(pattern.upper())
    return lambda name: walk.matches(name.upper())


class _Walk:
    """A pattern as an automaton. The set of places at which a name may stand in it is the bits of one number, so a step of all of them is a few
    operations (Navarro and Raffinot, "Flexible Pattern Matching in Strings", section 4.2)."""

    def __init__(self, pattern: str) -> None:
        # Of neighbours that take any number of characters, one that takes the most does the work of all.
        pattern = re.sub(r"[*<]{2,}", lambda run: "*" if "*" in run[0] else "<", pattern)
        places: dict[str, int] = {}
        for place, char in enumerate(pattern):
            places[char] = places.get(char, 0) | 1 << place
        self._end = 1 << len(pattern)
        self._any = places.pop("*", 0)
        self._stem = places.pop("<", 0)
        self._one = places.pop("?", 0)
        self._some = places.pop(">", 0)
        self._dot = places.pop('"', 0)
        self._chars = places

    def matches(self, name: str) -> bool:
        last_dot = name.rfind(".")
        loops, one, some = self._any | self._stem, self._one, self._some
        chars, places = self._chars, 1
        for at, char in enumerate(name):
            taken = one | chars.get(char, 0)
            if char == ".":
                places = _reached(places, loops | some)
                stay = places & (self._any if at == last_dot else loops)
                taken |= self._dot
            else:
                places = _reached(places, loops)
                stay = places & loops
                taken |= some
            places = stay | (places & taken) << 1
            if not places:
                return False
        return bool(_reached(places, loops | some | self._dot) & self._end)


def _reached(places: int, free: int) -> int:
    """`places`, and those behind any number of `free` ones: the sum's carry runs through neighbouring bits."""
    return places | ((places & free) + free) ^ free
