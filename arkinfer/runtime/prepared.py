"""What comes of finishing a section on its device, such as building a TensorRT engine. Knows no
backend; `contract.Preparer` is who does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, e.g. "Building the engine", how much of it is done, and how much
there is in all; 0 of 0: nobody can know."""


@dataclass(frozen=True)
class Choice:
    """Something that a preparation measured, to keep the best of several ways.

    Attributes:
        what: what there was to choose, e.g. "network".
        taken: the way that was kept.
        seconds: what each way took, by its name, for the same work.
    """

    what: str
    taken: str
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Prepared:
    """What finishing a section on its device came to.

    Attributes:
        path: where it is kept; None: nowhere, so that it is made again by every process.
        nbytes: its size.
        seconds: how long it took to make, also when that was long ago.
        reused: it was there already.
        network: which of the section's networks it runs; "": it has only one.
        choices: what was measured on the way.
        notes: what the user should know besides, e.g. why it is not kept; sentences.
        facts: more for `--json`: plain values by names that stay; seconds and bytes.
    """

    path: Path | None
    nbytes: int
    seconds: float
    reused: bool = False
    network: str = ""
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "path": None if self.path is None else str(self.path)}
