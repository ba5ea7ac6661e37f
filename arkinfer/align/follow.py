"""Executes a snapshot on values that somebody else computed, so that each op answers for itself.

An op reads what was given for its operands; what was not given is computed from what was. So
errors do not add up, and the op that makes one is the op that shows it. Knows no stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.align.snapshot import Line, Snapshot
from arkinfer.ir import Value

Array = npt.NDArray[Any]


class Unknown(Exception):
    """What an op reads is not known here; neither is what it makes, then."""


@dataclass
class Follow:
    """One execution.

    Attributes:
        snapshot: what is executed.
        given: values as the other side has them.
        store: the weights.
        symbols: sizes of T, R and S.
        values: what ops read: the given value where there is one, else the computed one.
    """

    snapshot: Snapshot
    given: Mapping[Value, Array]
    store: ir.WeightStore
    symbols: Mapping[str, int]
    values: dict[Value, Array] = field(default_factory=dict[Value, Array])

    def run(
        self, needed: Callable[[Line], bool] = lambda line: True
    ) -> Iterator[tuple[Line, list[Array]]]:
        """Executes line by line: the line, and what it computes.

        Args:
            needed: False leaves a line out; all of its results must be given.
        """
        self.values.update(self.given)
        for line in self.snapshot.lines:
            if not needed(line) and all(value in self.given for value in line.results):
                continue
            try:
                computed = self.compute(line)
            except Unknown:
                continue
            for value, array in zip(line.results, computed, strict=True):
                self.values.setdefault(value, array)
            yield line, computed

    def compute(self, line: Line) -> list[Array]:
        """The results of one line.

        Raises:
            Unknown: an operand could not be computed, or the store does not have a weight.
        """
        if any(value not in self.values for value in line.values):
            raise Unknown
        operands = [
            self.values[o] if isinstance(o, Value) else ir.load_wide(o, self.store)
            for o in line.operands
        ]
        with np.errstate(all="ignore"):  # what is not finite is reported, not warned about
            return ir.run_op(line.op, operands, line.attributes, self.symbols, line.types)
