"""The device half of the reference backend: interprets the IR with numpy, op by op.

Slow, and the meaning of everything. Knows no compiler. It is the one executor that may import
`arkinfer.ir`; any other one reads what its own compiler wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy.typing as npt

from arkinfer import ir
from arkinfer.artifact import Artifact, Section
from arkinfer.errors import ArtifactError, InternalError
from arkinfer.limits import count
from arkinfer.packing import QuantizedTensor
from arkinfer.runtime.contract import Demand, LoadOptions, check_context, closed
from arkinfer.runtime.saved_state import SavedCache, StateForm
from arkinfer_ref.state import ReferenceState, row_bytes

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
            mapped = MappedWeights(weights)
            return ReferenceExecutable(module, mapped, artifact.digest, options)
        except _MALFORMED as error:
            raise _unreadable(artifact, error) from error

    def check(self, artifact: Artifact, section: Section) -> Demand:
        """Whether the text can be interpreted: it runs wherever numpy does."""
        try:
            values = _module(artifact, section).functions["step"].inputs
        except _MALFORMED as error:
            raise _unreadable(artifact, error) from error
        caches = [value.type for value in values if isinstance(value.type, ir.CacheType)]
        per_token = sum(row_bytes(cache) for cache in caches)
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
        features: "persist"; "tree" and "taps" where the step is one of which the IR tells them;
            "values" and "times" when it was opened to be observed.
        caches: their types by name.
        form: of saved states.
        taps: names of hidden states.
    """

    def __init__(
        self, module: ir.Module, weights: ir.WeightStore, digest: str, options: LoadOptions
    ) -> None:
        self.vocab_size = cast(int, module.attributes["vocab_size"])
        self.max_context = cast(int, module.attributes["context"])
        self.chunk = cast(int, module.attributes["chunk"])
        self.step = module.functions["step"]
        self.caches = {
            value.name: value.type
            for value in self.step.inputs
            if isinstance(value.type, ir.CacheType)
        }
        saved = (SavedCache(n, kind.dtype, row_bytes(kind)) for n, kind in self.caches.items())
        self.form = StateForm(digest, ReferenceExecutor.name, tuple(saved))
        self.stream = ir.find_stream(self.step)
        self.taps = self.stream.taps if self.stream is not None else ()
        self.features = frozenset(self._features(options))
        self._weights: ir.WeightStore | None = weights

    def _features(self, options: LoadOptions) -> Iterator[str]:
        yield "persist"
        if not ir.obstacle(self.step):
            yield "tree"
        if self.taps:
            yield "taps"
        if options.observe:
            yield from ("values", "times")

    @property
    def weights(self) -> ir.WeightStore:
        if self._weights is None:
            raise closed()
        return self._weights

    def new_state(self, context: int) -> ReferenceState:
        self.check_open()
        check_context(self, context)
        return ReferenceState(self, context)

    def check_open(self) -> None:
        if self._weights is None:
            raise closed()

    def close(self) -> None:
        self._weights = None
