"""The device half of the reference backend: interprets the IR with numpy, op by op.

Slow, and the meaning of everything. Knows no compiler. It is the one executor that may import
`arkinfer.ir`; any other one reads what its own compiler wrote.
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.artifact import Artifact, Section
from arkinfer.errors import ArtifactError, InternalError
from arkinfer.limits import count
from arkinfer.packing import QuantizedTensor
from arkinfer.runtime.contract import (
    Demand,
    IntArray,
    LoadOptions,
    Observer,
    OpTime,
    Rows,
    StepOutput,
    StepTimes,
    check_context,
    check_length,
    check_tokens,
    closed,
)

_MALFORMED = (
    ArithmeticError, AttributeError, InternalError, LookupError, TypeError, ValueError
)  # fmt: skip
"""What reading a section raises that the compiler did not write."""


class ReferenceExecutor:
    """Entry point "reference" of the group `arkinfer.executors`."""

    name = "reference"

    def open(
        self, artifact: Artifact, section: Section, options: LoadOptions
    ) -> ReferenceExecutable:
        """Reads the text and maps the weights; numpy chooses its threads itself.

        Raises:
            ArtifactError: the section is not what the compiler writes.
        """
        try:
            module = _module(artifact, section)
            weights = _map_weights(artifact, module, section.config["weights"])
            return ReferenceExecutable(module, MappedWeights(weights), options)
        except _MALFORMED as error:
            raise _unreadable(artifact, error) from error

    def check(self, artifact: Artifact, section: Section) -> Demand:
        """Whether the text can be interpreted: it runs wherever numpy does."""
        try:
            values = _module(artifact, section).functions["step"].inputs
        except _MALFORMED as error:
            raise _unreadable(artifact, error) from error
        caches = [value.type for value in values if isinstance(value.type, ir.CacheType)]
        per_token = sum(_row_bytes(cache) for cache in caches)
        return Demand(artifact.section_bytes(self.name), per_token)


def _module(artifact: Artifact, section: Section) -> ir.Module:
    module = ir.parse_module(artifact.read(section.config["ir"]).decode())
    ir.verify_module(module)
    for name in ("vocab_size", "context", "chunk"):
        count(module.attributes[name])
    for value in module.functions["step"].inputs:
        if isinstance(value.type, ir.CacheType):
            for size in value.type.shape[1:]:
                count(size)
    return module


def _row_bytes(cache: ir.CacheType) -> int:
    """Of one token."""
    shape = cast("tuple[int, ...]", cache.shape[1:])
    return math.prod(shape) * ir.DTYPES[cache.dtype].itemsize


def _unreadable(artifact: Artifact, error: Exception) -> ArtifactError:
    return ArtifactError(
        f'The section "{ReferenceExecutor.name}" of "{artifact.path}" cannot be read',
        str(error),
        "Build the artifact again",
    )


def _map_weights(
    artifact: Artifact, module: ir.Module, stored: dict[str, dict[str, str]]
) -> dict[str, npt.NDArray[Any] | QuantizedTensor]:
    """Every weight that a node reads, as views of the file."""
    weights: dict[str, npt.NDArray[Any] | QuantizedTensor] = {}
    for weight in (weight for node in module.nodes() for weight in node.weights):
        parts = {part: artifact.tensor(name) for part, name in stored[weight.name].items()}
        if isinstance(weight.type, ir.QuantizedType):
            kind = weight.type
            weights[weight.name] = QuantizedTensor.from_parts(kind.scheme, kind.shape, parts)
        else:
            weights[weight.name] = parts[""].reshape(cast("tuple[int, ...]", weight.type.shape))
    return weights


class MappedWeights:
    """The `ir.WeightStore` of an artifact: nothing is read before a node needs it."""

    def __init__(self, weights: dict[str, npt.NDArray[Any] | QuantizedTensor]) -> None:
        self._weights = weights

    def load(self, weight: ir.Weight) -> npt.NDArray[Any] | QuantizedTensor:
        return self._weights[weight.name]


class ReferenceExecutable:
    """A module and its weights.

    Attributes:
        vocab_size: columns of the logits.
        max_context: the longest sequence, in tokens.
        chunk: the most tokens of one step.
        features: "values" and "times" when it was opened to be observed.
    """

    def __init__(
        self, module: ir.Module, weights: ir.WeightStore, options: LoadOptions | None = None
    ) -> None:
        observed = options is not None and options.observe
        self.features: frozenset[str] = frozenset({"values", "times"} if observed else ())
        self.vocab_size = cast(int, module.attributes["vocab_size"])
        self.max_context = cast(int, module.attributes["context"])
        self.chunk = cast(int, module.attributes["chunk"])
        self.step = module.functions["step"]
        self._weights: ir.WeightStore | None = weights

    @property
    def weights(self) -> ir.WeightStore:
        if self._weights is None:
            raise closed()
        return self._weights

    def new_state(self, context: int) -> ReferenceState:
        if self._weights is None:
            raise closed()
        check_context(self, context)
        return ReferenceState(self, context)

    def close(self) -> None:
        self._weights = None


class ReferenceState:
    """One sequence. Its caches are exactly as long as it is, and a step makes new ones: whatever
    interrupts a step, the old ones are still there."""

    def __init__(self, executable: ReferenceExecutable, capacity: int) -> None:
        self.executable = executable
        self._caches = {
            value.name: _empty(value.type)
            for value in executable.step.inputs
            if isinstance(value.type, ir.CacheType)
        }
        self.capacity = capacity

    @property
    def length(self) -> int:
        return len(next(iter(self._caches.values())))

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        return self.run(check_tokens(self.executable, self, tokens, taps), rows, None)

    def observe(self, tokens: IntArray, observer: Observer, *, rows: Rows = "all") -> StepOutput:
        """See `arkinfer.runtime.contract.Observed`."""
        names = ir.value_names(self.executable.step)

        def show(node: ir.Node, results: list[npt.NDArray[Any]]) -> None:
            for value, result in zip(node.results, results, strict=True):
                observer(names[value], result)

        return self.run(check_tokens(self.executable, self, tokens), rows, show)

    def profiler(self) -> ReferenceProfiler:
        """See `arkinfer.runtime.contract.Timed`."""
        return ReferenceProfiler(self)

    def run(self, tokens: IntArray, rows: Rows, show: ir.Observer | None) -> StepOutput:
        executable = self.executable
        count = len(tokens)
        wanted = {"last": [count - 1], "all": range(count), "none": []}[rows]
        inputs = {"tokens": tokens, "rows": np.array(wanted, np.int64), **self._caches}
        outputs = ir.run_function(executable.step, inputs, executable.weights, observe=show)
        self._caches = {name: outputs[name] for name in self._caches}
        return StepOutput(outputs["logits"])

    def truncate(self, length: int) -> None:
        check_length(self, length)
        self._caches = {name: cache[:length] for name, cache in self._caches.items()}


class ReferenceProfiler:
    """Reads the clock after every op; see `arkinfer.runtime.contract.Profiler`."""

    def __init__(self, state: ReferenceState) -> None:
        self._state = state
        self._names = ir.value_names(state.executable.step)
        self._steps: list[StepTimes] = []

    def step(self, tokens: IntArray, *, rows: Rows = "last") -> StepOutput:
        ops: list[OpTime] = []
        last = begin = perf_counter()

        def note(node: ir.Node, results: list[npt.NDArray[Any]]) -> None:
            nonlocal last
            now = perf_counter()
            values = tuple(self._names[value] for value in node.results)
            ops.append(OpTime(node.op, values, now - last))
            last = now

        ids = check_tokens(self._state.executable, self._state, tokens)
        output = self._state.run(ids, rows, note)
        self._steps.append(StepTimes(tuple(ops), perf_counter() - begin))
        return output

    def finish(self) -> list[StepTimes]:
        return self._steps


def _empty(kind: ir.CacheType) -> npt.NDArray[Any]:
    shape = (0, *cast("tuple[int, ...]", kind.shape[1:]))
    return np.empty(shape, ir.DTYPES[kind.dtype])
