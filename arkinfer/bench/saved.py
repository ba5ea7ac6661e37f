"""Reads what `arkinfer bench -o` saved, and compares two of them. Knows no process.

Saved files are foreign: they may be damaged, of a later version, or no such files at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from arkinfer.bench.cases import Case
from arkinfer.bench.compare import Difference, Rule
from arkinfer.bench.confidence import Interval, launches_needed, unpaired
from arkinfer.errors import ArkError, ResourceError, UsageError
from arkinfer.limits import JSON_BYTES, parse_json
from arkinfer.machine.environment import Environment, alike, noted

_LAUNCHES = 200
"""The most of a saved run that are compared; the exact test takes the square of their square."""

_Seconds = Annotated[float, Field(ge=1e-9, le=1e9, allow_inf_nan=False)]
_Round = Annotated[list[_Seconds], Field(min_length=1)]


class _Result(BaseModel):
    kind: Literal["prefill", "decode"]
    tokens: Annotated[int, Field(ge=1, le=1 << 31)]
    depth: Annotated[int, Field(ge=0, le=1 << 31)]
    seconds: Annotated[list[_Round], Field(min_length=1, max_length=_LAUNCHES)]


class _Environments(BaseModel):
    before: dict[str, Any]
    after: dict[str, Any]
    disturbed: list[str]


class _File(BaseModel):
    path: str
    backend: str
    threads: int | None
    results: Annotated[list[_Result], Field(min_length=1)]
    environment: _Environments


@dataclass(frozen=True)
class Saved:
    """A saved run.

    Attributes:
        path: of the saved file.
        facts: what it is: the artifact's path, its backend and threads.
        seconds: of each case, by launch and round.
        before: the machine before the run.
        disturbed: what slowed the machine during the run.
    """

    path: str
    facts: dict[str, Any]
    seconds: dict[Case, list[list[float]]]
    before: Environment
    disturbed: list[str]


def read_saved(path: str | Path) -> Saved:
    """Reads a file.

    Raises:
        UsageError: there is no such file, or it is not what `arkinfer bench -o` writes.
        ResourceError: it may not be read.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(JSON_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        found = _File.model_validate(parse_json(data))
        before = Environment.from_json(found.environment.before)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _foreign(path, f"{place}: {first['msg']}" if place else first["msg"]) from error
    except ValueError as error:
        raise _foreign(path, f"Reason: {error}") from error
    seconds = {Case(r.kind, r.depth, r.tokens): r.seconds for r in found.results}
    facts = {"path": found.path, "backend": found.backend, "threads": found.threads}
    return Saved(str(path), facts, seconds, before, found.environment.disturbed)


def unlike(a: Saved, b: Saved) -> list[str]:
    """Why figures of the two cannot be compared, a sentence each."""
    found = alike(a.before, b.before)
    if a.facts["threads"] != b.facts["threads"]:
        found.append(f"threads: {_threads(a)}, {_threads(b)}")
    found += [f"{saved.path}: {text}" for saved in (a, b) for text in saved.disturbed]
    return found


def worth_noting(a: Saved, b: Saved) -> list[str]:
    """What differs and may stand."""
    found = noted(a.before, b.before)
    if a.facts["backend"] != b.facts["backend"]:
        found.append(f"backend: {a.facts['backend']}, {b.facts['backend']}")
    return found


def compare_saved(a: Saved, b: Saved, rule: Rule) -> list[Difference]:
    """Judges the cases that both have; a launch's median speed is one observation.

    Raises:
        UsageError: they have no case in common.
    """
    common = [case for case in a.seconds if case in b.seconds]
    if not common:
        raise UsageError(
            "The two runs have no case in common",
            f"A has {_names(a.seconds)}; B has {_names(b.seconds)}",
            "Measure both with the same --lengths, --depths and --tokens",
        )
    return [_judged(case, a, b, rule, rule.alpha(len(common))) for case in common]


def too_few(a: Saved, b: Saved, differences: Sequence[Difference]) -> str | None:
    """How many launches would be needed, if there are too few for any verdict."""
    if all(d.verdict != "unknown" for d in differences):
        return None
    needed = launches_needed(differences[0].rule.alpha(len(differences)))
    counts = [min(map(len, saved.seconds.values())) for saved in (a, b)]
    return (f"the runs have {counts[0]} and {counts[1]} launches; measure both with "
            f"--launches {needed}, or give the two .ark files")  # fmt: skip


def _judged(case: Case, a: Saved, b: Saved, rule: Rule, alpha: float) -> Difference:
    logs = [[math.log(case.tokens / median(rounds)) for rounds in saved.seconds[case]]
            for saved in (a, b)]  # fmt: skip
    found = unpaired(logs[0], logs[1], alpha)
    speed = Interval(*(math.exp(v) for v in (found.middle, found.low, found.high)))
    medians = [median(case.tokens / s for rounds in saved.seconds[case] for s in rounds)
               for saved in (a, b)]  # fmt: skip
    return Difference(case, medians[0], medians[1], speed, rule)


def _names(cases: Sequence[Case] | dict[Case, Any]) -> str:
    return ", ".join(f"{c.name} ({c.tokens})" if c.kind == "decode" else c.name for c in cases)


def _threads(saved: Saved) -> str:
    threads = saved.facts["threads"]
    return "as the backend likes" if threads is None else str(threads)


def _unreadable(path: str | Path, error: OSError) -> ArkError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f'There is no file "{path}"', fix="Check the path")
    return ResourceError(f'"{path}" cannot be read', error.strerror or str(error),
                         "Check the file's permissions")  # fmt: skip


def _foreign(path: str | Path, why: str) -> UsageError:
    return UsageError(
        f'"{path}" is not a saved run', why, "Make one with: arkinfer bench model.ark -o run.json"
    )
