"""Asks before a model is downloaded. Knows no hub."""

from __future__ import annotations

import sys
from collections.abc import Callable

from arkinfer.errors import UsageError


def asker(yes: bool) -> Callable[[str, int], bool]:
    """Says what a download costs and asks, unless the answer was given with --yes."""

    def confirm(model: str, size: int) -> bool:
        print(f"{model}: {size / 1e9:,.2f} GB to download", file=sys.stderr)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError(
                f"{model} would have to be downloaded ({size / 1e9:,.2f} GB)",
                "Nobody is at the terminal to agree",
                "Give --yes",
            )
        print("Download it? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return confirm
