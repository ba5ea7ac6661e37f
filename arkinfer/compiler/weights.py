"""Evaluates weight symbols by ranges of rows, from the checkpoint. Knows no backend and no file.

No stage holds a model in memory: a weight is a rule over others, and every rule works row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from arkinfer.errors import ArkError, InternalError
from arkinfer.ir import DTYPES, QuantizedType, TensorType, Weight
from arkinfer.packing import QuantizedTensor, Scheme, parse_scheme
from arkinfer.quant import round_to_nearest

Array: TypeAlias = npt.NDArray[Any]

BLOCK = 4 << 20
"""Elements of a matrix that are in memory at a time: 16 MiB of float32."""


class Leaves(Protocol):
    """Where the weights without a rule come from: a checkpoint and its config."""

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) along axis 0."""
        ...

    def quantized(self, name: str, start: int, stop: int) -> QuantizedTensor:
        """Rows of a matrix that is quantized there; asked for by the rule "stored" alone."""
        ...


Quantizer: TypeAlias = Callable[[str, Array, Scheme, bool], QuantizedTensor]
"""The name of a weight, rows of its matrix, the scheme, whether to clip -> the rows quantized."""


def quantize_rows(name: str, rows: Array, scheme: Scheme, clip: bool) -> QuantizedTensor:
    """Rows by round-to-nearest; the plain `Quantizer`.

    Raises:
        CheckpointError: the rows hold numbers that are not finite; names the weight.
    """
    try:
        return round_to_nearest(rows, scheme, clip=clip)
    except ArkError as error:
        raise type(error)(f"@{name}: {error.what}", error.why, error.fix) from None


class WeightStore:
    """The numbers behind the weight symbols of a module.

    Args:
        weights: every symbol by name, as in `Module.weights`; read when needed, so that passes
            may add to it.
        leaves: gives those without a source.
        quantize: makes the rows of weights by the rule "rtn".
    """

    def __init__(
        self,
        weights: Mapping[str, Weight],
        leaves: Leaves,
        quantize: Quantizer = quantize_rows,
    ) -> None:
        self._weights = weights
        self._leaves = leaves
        self._quantize = quantize

    def load(self, weight: Weight) -> Array | QuantizedTensor:
        """The whole weight, in its type's dtype and shape."""
        return self.rows(weight, 0, rows_of(weight))

    def blocks(self, weight: Weight) -> Iterator[Array | QuantizedTensor]:
        """The whole weight, a bounded number of rows at a time."""
        count, width = rows_of(weight), elements_per_row(weight)
        step = max(1, BLOCK // width)
        for start in range(0, count, step):
            yield self.rows(weight, start, min(start + step, count))

    def rows(self, weight: Weight, start: int, stop: int) -> Array | QuantizedTensor:
        """Rows [start, stop) of a weight.

        Raises:
            CheckpointError: the checkpoint cannot be read, or holds numbers that are not finite.
            InternalError: a rule does not give what the symbol's type says.
        """
        found = self._evaluate(weight, start, stop)
        shape = (stop - start, *weight.type.shape[1:])
        if isinstance(found, QuantizedTensor):
            kind = found.scheme.name
            expected = weight.type.scheme.name if isinstance(weight.type, QuantizedType) else ""
        else:
            kind = found.dtype
            expected = DTYPES[weight.type.dtype] if isinstance(weight.type, TensorType) else ""
        if (kind, found.shape) != (expected, shape):
            raise InternalError(
                f"@{weight.name} is {weight.type}, but its rows came as {kind} {list(found.shape)}"
            )
        return found

    def _evaluate(self, weight: Weight, start: int, stop: int) -> Array | QuantizedTensor:
        source = weight.source
        if source is None:
            return self._leaves.rows(weight.name, start, stop)
        inputs = [self._weights[name] for name in source.inputs]
        options = dict(source.attributes)
        if source.rule == "concat":
            return self._concat(inputs, start, stop)
        if source.rule == "stored":
            return widened(self._leaves.quantized(source.inputs[0], start, stop))
        (inner,) = inputs
        matrix = cast(Array, self.rows(inner, start, stop))
        if source.rule == "scale":
            return matrix.astype(np.float32) * np.float32(cast(float, options["by"]))
        if source.rule == "cast":
            return matrix.astype(DTYPES[cast(str, options["to"])])
        if source.rule == "rtn":
            scheme = parse_scheme(cast(str, options["scheme"]))
            return self._quantize(weight.name, matrix, scheme, bool(options.get("clip", True)))
        raise InternalError(f'@{weight.name} comes by the unknown rule "{source.rule}"')

    def _concat(self, inputs: list[Weight], start: int, stop: int) -> Array | QuantizedTensor:
        parts: list[Array | QuantizedTensor] = []
        offset = 0
        for inner in inputs:
            count = rows_of(inner)
            first, last = max(start - offset, 0), min(stop - offset, count)
            if first < last:
                parts.append(self.rows(inner, first, last))
            offset += count
        if isinstance(parts[0], QuantizedTensor):
            return QuantizedTensor.concatenate(cast("list[QuantizedTensor]", parts))
        return np.concatenate(cast("list[Array]", parts))


def widened(tensor: QuantizedTensor) -> QuantizedTensor:
    """The same numbers with scales and minima in float32, as artifacts have them."""
    parts = tensor.parts()
    wide = {n: parts[n].astype(np.float32) for n in ("scale", "min") if n in parts}
    return QuantizedTensor.from_parts(tensor.scheme, tensor.shape, parts | wide)


def rows_of(weight: Weight) -> int:
    """The size of axis 0."""
    return _sizes(weight)[0]


def elements_per_row(weight: Weight) -> int:
    """Elements of one row; 1 for a vector."""
    return int(np.prod(_sizes(weight)[1:], dtype=np.int64))


def _sizes(weight: Weight) -> tuple[int, ...]:
    shape = weight.type.shape
    if not shape or not all(isinstance(d, int) for d in shape):
        raise InternalError(f"@{weight.name} is {weight.type}; weights have fixed sizes")
    return cast("tuple[int, ...]", shape)


def nbytes(weight: Weight) -> int:
    """Bytes that a weight takes in an artifact, without padding between its parts."""
    if isinstance(weight.type, QuantizedType):
        from arkinfer.packing import part_specs

        specs = part_specs(weight.type.scheme, weight.type.shape).values()
        return sum(dtype.itemsize * int(np.prod(shape, dtype=np.int64)) for dtype, shape in specs)
    return rows_of(weight) * elements_per_row(weight) * DTYPES[weight.type.dtype].itemsize
