"""How a build tells what it is doing. Knows no terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Progress:
    """One moment of a build.

    Attributes:
        stage: what is being done, e.g. "writing weights".
        done: how much of it, in `unit`.
        total: of how much; 0: unknown.
        unit: "bytes" or "".
        seconds: how long the stage took in earlier builds of such models; 0: unknown.
        step: what of the stage is being done, where that is worth knowing; else "".
        note: a sentence for the user that is worth keeping; else "".
    """

    stage: str
    done: int = 0
    total: int = 0
    unit: str = ""
    seconds: float = 0.0
    step: str = ""
    note: str = ""


OnProgress: TypeAlias = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Tells nobody."""
