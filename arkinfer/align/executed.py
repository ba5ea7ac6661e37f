"""What an executable computes, op by op, against the IR that it was compiled from.

An op is judged on the operands that the backend itself has for it; where those exist inside of a
kernel only, the IR computes them from what the backend shows before it. Knows no backend by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.align.compare import compare, relative_error
from arkinfer.align.follow import Follow
from arkinfer.align.report import Finding
from arkinfer.align.snapshot import Snapshot
from arkinfer.align.tolerance import Tolerance, carried, of_backend
from arkinfer.errors import UnsupportedError
from arkinfer.ir import CacheType, Value
from arkinfer.ir.types import evaluate
from arkinfer.runtime.contract import Executable, Observed

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Step:
    """One step as the backend ran it.

    Attributes:
        seen: tokens that were in the caches before.
        tokens: int64 [T].
        shown: values by their names in the section's IR.
    """

    seen: int
    tokens: Array
    shown: dict[str, Array]

    @property
    def name(self) -> str:
        count = len(self.tokens)
        return f"{count} token{'s' if count > 1 else ''} after {self.seen}"

    @property
    def symbols(self) -> dict[str, int]:
        return {"T": len(self.tokens), "R": len(self.tokens), "S": self.seen}


def observe(executable: Executable, backend: str, chunks: Sequence[Array]) -> list[Step]:
    """Runs the chunks one after the other, all rows wanted.

    Raises:
        UnsupportedError: the backend shows nothing.
    """
    if "values" not in executable.features:
        raise UnsupportedError(
            f"The backend {backend} does not show what it computes",
            "The section was built by an older arkinfer, or its executor has no such hook",
            "Build the artifact again, or compare by its answers: arkinfer verify",
        )
    total = sum(map(len, chunks))
    state = cast(Observed, executable.new_state(min(executable.max_context, total)))
    steps: list[Step] = []
    for tokens in chunks:
        shown: dict[str, Array] = {}
        seen = state.length
        output = state.observe(tokens, shown.__setitem__, rows="all")
        del output
        steps.append(Step(seen, tokens, {k: np.array(v) for k, v in shown.items()}))
    return steps


@dataclass
class Executed:
    """The steps of a backend, and the same steps by the IR.

    Attributes:
        backend: its name.
        graph: of the section's own IR.
        store: the weights as the file has them.
        reference: what the IR computes from the tokens alone, step by step.
    """

    backend: str
    graph: Snapshot
    store: ir.WeightStore
    reference: list[dict[Value, Array]] = field(default_factory=list[dict[Value, Array]])

    def compute(
        self, steps: Sequence[Step], on_done: Callable[[float], None] = lambda done: None
    ) -> None:
        """Fills `reference`; tells how much of it is done, 0 … 1."""
        caches: dict[str, Array] = {}
        whole = len(steps) * len(self.graph.lines)
        for number, step in enumerate(steps):
            follow = Follow(self.graph, self.inputs(step, caches), self.store, step.symbols)
            for index, _ in enumerate(follow.run(), number * len(self.graph.lines)):
                on_done(index / whole)
            self.reference.append(follow.values)
            caches = self.outputs(follow.values)

    def findings(self, steps: Sequence[Step]) -> Iterator[Finding]:
        """Every value that the backend shows, in order of execution.

        Where it computes an op inside of another one's kernel, what that op may cost is allowed
        to the value that comes out.
        """
        caches: dict[str, Array] = {}
        last = max(1, len(self.graph.lines) - 1)
        for number, step in enumerate(steps):
            shown = {v: step.shown[n] for v, n in self.graph.names.items() if n in step.shown}
            given = {**self.inputs(step, caches), **shown}
            follow = Follow(self.graph, given, self.store, step.symbols)
            inside: dict[Value, Tolerance] = {}
            for index, (line, computed) in enumerate(follow.run()):
                hidden = [inside[v] for v in line.values if v in inside]
                tolerance = carried(of_backend(self.backend, line), hidden)
                for value, expected in zip(line.results, computed, strict=True):
                    if value not in shown:
                        inside[value] = tolerance
                        continue
                    whole: float | None = None
                    if number < len(self.reference) and value in self.reference[number]:
                        whole = relative_error(shown[value], self.reference[number][value])
                    difference = compare(shown[value], expected)
                    yield Finding(
                        line.text, line.op, line.loc, index / last, difference, tolerance, whole,
                        step=step.name,
                    )  # fmt: skip
            caches = self.outputs(follow.values)

    def outputs(self, values: dict[Value, Array]) -> dict[str, Array]:
        """The results of a step by name, those that are known."""
        outputs = self.graph.outputs.items()
        return {name: values[value] for name, value in outputs if value in values}

    def inputs(self, step: Step, caches: dict[str, Array]) -> dict[Value, Array]:
        """Tokens, rows, and the caches of the step before, or empty ones."""
        given: dict[Value, Array] = {}
        for name, value in self.graph.inputs.items():
            kind = self.graph.kinds[name]
            if not isinstance(kind, CacheType):
                given[value] = step.tokens if name == "tokens" else np.arange(len(step.tokens))
            elif step.seen == 0:
                shape = tuple(evaluate(d, {"S": 0}) for d in kind.shape)
                given[value] = np.zeros(shape, ir.DTYPES[kind.dtype])
            elif name in caches:
                given[value] = caches[name]
        return given
