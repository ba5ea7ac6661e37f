"""What an alignment found: values, and their form as JSON. Knows no stage and no terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from arkinfer.align.compare import Difference, plain
from arkinfer.align.tolerance import Tolerance


@dataclass(frozen=True)
class Finding:
    """One value on both sides of a stage, or one thing that the file says otherwise.

    Attributes:
        line: the IR line that makes the value; "" for what is no value.
        op, loc: of that line.
        depth: where in the function it stands, 0 … 1.
        difference: of the two sides; None: they have no numbers.
        tolerance: what is allowed; None: nothing at all.
        end_to_end: relative error of the same value when nothing is given but the tokens.
        what: which part of a weight, or what differs, or what the value stands for.
        step: what was run, where a stage runs more than one step, e.g. "1 token after 32".
        wrong: out of tolerance?
    """

    line: str
    op: str
    loc: str
    depth: float
    difference: Difference | None
    tolerance: Tolerance | None
    end_to_end: float | None = None
    what: str = ""
    step: str = ""

    @property
    def wrong(self) -> bool:
        if self.difference is None or self.tolerance is None:
            return True
        return not self.tolerance.allows(self.difference)

    def to_json(self) -> dict[str, Any]:
        return plain(
            {
                "line": self.line,
                "op": self.op,
                "path": self.loc,
                "what": self.what,
                "step": self.step,
                "depth": self.depth,
                "wrong": self.wrong,
                "end_to_end": self.end_to_end,
                "difference": None if self.difference is None else self.difference.to_json(),
                "tolerance": None
                if self.tolerance is None
                else {
                    "relative": self.tolerance.relative,
                    "channel": self.tolerance.channel,
                    "why": self.tolerance.why,
                },
            }
        )


@dataclass
class StageReport:
    """One stage.

    Attributes:
        name: e.g. "fuse-rope", "backend onnxruntime".
        sides: what its two sides are called, expected first.
        compared: values, matrices or lines that were compared.
        findings: values in order of execution, and whatever is wrong.
        notes: what is worth saying and no failure.
        seconds: what it took.
    """

    name: str
    sides: tuple[str, str]
    compared: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])
    notes: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.wrong]

    @property
    def largest(self) -> float:
        """The largest relative error."""
        known = [f.difference.relative for f in self.findings if f.difference is not None]
        return max(known, default=0.0)

    @property
    def summed(self) -> float | None:
        """The largest error from the tokens on; None: it was not asked for."""
        known = [f.end_to_end for f in self.findings if f.end_to_end is not None]
        return max(known, default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "sides": list(self.sides),
            "compared": self.compared,
            "largest_error": plain(self.largest),
            "end_to_end": plain(self.summed),
            "aligned": not self.failures,
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
            "failures": [finding.to_json() for finding in self.failures],
        }


@dataclass
class Report:
    """One alignment.

    Attributes:
        model: what the user called the model.
        artifact: the file.
        backend: of the section.
        tokens: how many were run.
        same_source: was the artifact built from this checkpoint? None: it does not say.
        notes: about the whole.
        stages: those that ran.
    """

    model: str
    artifact: str
    backend: str
    tokens: int
    same_source: bool | None
    notes: list[str] = field(default_factory=list[str])
    stages: list[StageReport] = field(default_factory=list[StageReport])

    @property
    def aligned(self) -> bool:
        return not any(stage.failures for stage in self.stages)

    @property
    def first(self) -> tuple[StageReport, Finding] | None:
        """The first stage out of tolerance, and the first op in it."""
        return next(((s, f) for s in self.stages for f in s.failures), None)

    def to_json(self) -> dict[str, Any]:
        """Stable keys, for `--json`."""
        first = self.first
        return {
            "aligned": self.aligned,
            "model": self.model,
            "artifact": self.artifact,
            "backend": self.backend,
            "tokens": self.tokens,
            "same_source": self.same_source,
            "notes": self.notes,
            "first": None if first is None else {"stage": first[0].name, **first[1].to_json()},
            "stages": [stage.to_json() for stage in self.stages],
        }
