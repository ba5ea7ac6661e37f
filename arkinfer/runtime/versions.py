"""Does an installed version lie in a range? Knows no package and no artifact."""

from __future__ import annotations

import re

_PART = re.compile(r"\s*(>=|<|==)\s*([0-9][0-9A-Za-z.+]*)\s*")


def satisfies(installed: str, wanted: str) -> bool:
    """Whether a version lies in a range.

    Args:
        installed: a version; what follows its numbers ("rc1", "+cpu") does not count, but for "==".
        wanted: bounds that all must hold, with commas between: ">=", "<" or "==" and a version.

    Raises:
        ValueError: the range is written otherwise.

    >>> satisfies("1.32.0+cpu", ">=1.23,<2"), satisfies("1.9", ">=1.23")
    (True, False)
    """
    version = numbers(installed)
    fits = True
    for part in wanted.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{wanted!r} is not a version range")
        sign, bound = match[1], numbers(match[2])
        if sign == "==":
            fits &= installed.partition("+")[0] == match[2].partition("+")[0]
        else:
            fits &= version >= bound if sign == ">=" else version < bound
    return fits


def numbers(version: str) -> tuple[int, ...]:
    """(1, 23, 2) of "1.23.2+cu12"; () of what does not begin with a number."""
    match = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
