"""Names the first op of a step whose result is off. Knows no tolerance and no IR but its text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer.artifact import Artifact, Section
from arkinfer.runtime.contract import Executable, IntArray, Observed
from arkinfer.verify.fingerprint import distance, fingerprint
from arkinfer.verify.golden import KnownValue


@dataclass(frozen=True)
class Suspect:
    """An op of a section's IR.

    Attributes:
        name: of the value that it gives.
        line: its line in the section's `module.ir`, without the torch path.
        path: the torch module that it came from; "" when the text names none.
        entries: of the artifact, the weights that it reads.
        error: how far its result points elsewhere (0: not at all, 1.4: anywhere), or the
            logarithm of how much longer or shorter it is, whichever is more.
    """

    name: str
    line: str
    path: str
    entries: tuple[str, ...]
    error: float

    def __str__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        reads = f"; it reads {', '.join(self.entries)}" if self.entries else ""
        return f"{self.line}{where}{reads}"


def errors_of_values(
    executable: Executable, tokens: IntArray, known: Sequence[KnownValue]
) -> list[tuple[KnownValue, float]]:
    """How far each known value is off at the last of the tokens, in order of execution; empty
    when the executable shows no values."""
    if "values" not in executable.features:
        return []
    state = cast(Observed, executable.new_state(len(tokens)))
    seen: dict[str, npt.NDArray[Any]] = {}
    for start in range(0, len(tokens), executable.chunk):
        part = tokens[start : start + executable.chunk]
        state.observe(part, lambda name, array: seen.__setitem__(name, array[-1:]))
    return [(value, _error(value, seen[value.name])) for value in known if value.name in seen]


def _error(known: KnownValue, row: npt.NDArray[Any]) -> float:
    length, prints = fingerprint(row)
    error = distance(prints, known.prints)
    if known.length:
        error = max(error, abs(math.log(length / known.length)) if length > 0 else math.inf)
    return error if not math.isnan(error) and np.isfinite(length) else math.inf


@dataclass(frozen=True)
class Off:
    """How far a value is off.

    Attributes:
        name: in the section's `module.ir`.
        error: see `Suspect`.
        jump: how much more that is than the worst of the values before it.
    """

    name: str
    error: float
    jump: float


def jumps(errors: Sequence[tuple[KnownValue, float]]) -> list[Off]:
    """What each value adds to those before it, in order of execution."""
    found: list[Off] = []
    before = 0.0
    for value, error in errors:
        found.append(Off(value.name, error, error - before))
        before = max(before, error)
    return found


def first_off(values: Sequence[Off], limit: float, jump: float) -> Off | None:
    """The first value beyond a limit; without one, the one that adds most to those before it."""
    beyond = (value for value in values if value.error > limit or value.jump > jump)
    return next(beyond, max(values, key=lambda value: value.jump, default=None))


def suspect(artifact: Artifact, section: Section, off: Off) -> Suspect:
    """What the artifact's own texts say of the op that gives a value."""
    name, error = off.name, off.error
    text = artifact.read(section.ir).decode(errors="replace") if section.ir in artifact else ""
    step = text.partition("func @step(")[2]
    match = re.search(rf"^ *%{re.escape(name)}(?:, %\w+)* = .*$", step, re.M)
    line, _, path = (match[0].strip() if match else f"%{name}").partition("  // ")
    weights = set(re.findall(r"@([\w.\-]+)", line))
    return Suspect(name, line, path, tuple(_entries(section, weights)), error)


def _entries(section: Section, weights: set[str]) -> list[str]:
    """The tensors of a section that are weights, parts of them, or made of their parts."""
    wanted = re.compile(
        "|".join(rf"{re.escape(w)}(?:\.(?:{_PARTS})\b.*)?" for w in sorted(weights))
    )
    tensors = {t: t.removeprefix(f"{section.backend}/") for t in section.tensors}
    return [f"weights/{t}" for t, own in tensors.items() if weights and wanted.fullmatch(own)]


_PARTS = "codes|scale|zero|min|order"
"""Of a quantized weight, as the names of tensors call them."""
