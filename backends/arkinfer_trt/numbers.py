"""The numbers of a network's weights as it has them: read from the artifact, and repacked, cast or
transposed a block at a time, so that memory stays bounded. Knows neither TensorRT nor CUDA.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from arkinfer.artifact import Artifact
from arkinfer.errors import UnsupportedError
from arkinfer.packing import QuantizedTensor, pack_bits, parse_scheme, unpack_bits
from arkinfer_trt.kernels.gemv import ROWS, Gemv
from arkinfer_trt.kernels.layout import repacked
from arkinfer_trt.section import NetworkWeight, Stored

Array = npt.NDArray[Any]

ELEMENTS = 1 << 22
"""Of a matrix that are in memory as floats or unpacked codes at a time."""

INT4 = "int4"
"""The dtype of two codes in a byte, the low one first."""


class NegativeScales(UnsupportedError):
    """DequantizeLinear may have positive scales only."""


@dataclass(frozen=True)
class Input:
    """An input of a network that is a weight, or a part of one.

    Attributes:
        dtype: numpy's name, or `INT4`.
        shape: as the network has it.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        numbers = math.prod(self.shape)
        return numbers // 2 if self.dtype == INT4 else numbers * np.dtype(self.dtype).itemsize


class Block(NamedTuple):
    """Some bytes of an input, in one piece."""

    name: str
    offset: int
    numbers: Array


def inputs(weight: NetworkWeight, dtype: str) -> dict[str, Input]:
    """The inputs of a weight by name, in a network that computes in `dtype`.

    Raises:
        UnsupportedError, ValueError: it cannot be in that form.
    """
    if weight.form == "dense":
        return {weight.inputs[0]: Input(dtype, weight.stored.shape)}
    rows, columns = weight.stored.shape
    first, second = weight.inputs
    scheme = parse_scheme(weight.stored.scheme)
    if weight.form == "gemv":
        words, scale = Gemv.of(scheme, (rows, columns)).parts().values()
        return {first: Input(*words), second: Input(dtype, scale[1])}
    groups = columns // scheme.group_size(columns)
    return {first: Input(INT4, (columns, rows)), second: Input(dtype, (groups, rows))}


def blocks(artifact: Artifact, weight: NetworkWeight, dtype: str) -> Iterator[Block]:
    """All bytes of a weight's inputs; those of an input in order.

    Raises:
        NegativeScales: the form is "int4", and a scale is negative.
        UnsupportedError: `dtype` cannot hold a scale that the kernel needs in it.
        ArtifactError, ValueError, LookupError: the artifact has something else there.
    """
    if not weight.stored.scheme:
        return _in_order(weight.inputs[0], _cast(dense(artifact, weight.stored), dtype))
    matrix = quantized(artifact, weight.stored)
    if weight.form == "dense":
        return _in_order(weight.inputs[0], _widened(matrix, dtype))
    form = _gemv if weight.form == "gemv" else _int4
    return form(weight, matrix, dtype)


def whole(artifact: Artifact, weight: NetworkWeight, dtype: str) -> dict[str, Array]:
    """The bytes of a weight's inputs by name, uint8 [nbytes] each; raises as `blocks`."""
    found = inputs(weight, dtype)
    arrays: dict[str, Array] = {name: np.empty(i.nbytes, np.uint8) for name, i in found.items()}
    for name, offset, numbers in blocks(artifact, weight, dtype):
        raw = numbers.reshape(-1).view(np.uint8)
        arrays[name][offset : offset + raw.size] = raw
    return arrays


def dense(artifact: Artifact, stored: Stored) -> Array:
    """A view of the mapped file."""
    return artifact.tensor(stored.parts[""]).reshape(stored.shape)


def quantized(artifact: Artifact, stored: Stored) -> QuantizedTensor:
    """Views of the mapped file."""
    rows, columns = stored.shape
    parts = {part: artifact.tensor(name) for part, name in stored.parts.items()}
    return QuantizedTensor.from_parts(parse_scheme(stored.scheme), (rows, columns), parts)


def _in_order(name: str, arrays: Iterator[Array]) -> Iterator[Block]:
    offset = 0
    for array in arrays:
        yield Block(name, offset, array)
        offset += array.nbytes


def _cast(array: Array, dtype: str) -> Iterator[Array]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, ELEMENTS):
        yield flat[start : start + ELEMENTS].astype(dtype)


def _widened(matrix: QuantizedTensor, dtype: str) -> Iterator[Array]:
    for part in _rows(matrix):
        yield part.dequantize().astype(dtype)


def _gemv(weight: NetworkWeight, matrix: QuantizedTensor, dtype: str) -> Iterator[Block]:
    done = [0, 0]
    for part in _rows(matrix):
        arrays = repacked(part, dtype)
        for i, numbers in enumerate((arrays["words"], arrays["scale"])):
            yield Block(weight.inputs[i], done[i], numbers)
            done[i] += numbers.nbytes


def _rows(matrix: QuantizedTensor) -> Iterator[QuantizedTensor]:
    """Parts of a matrix, in multiples of the rows that the kernel has side by side."""
    rows, columns = matrix.shape
    step = max(1, ELEMENTS // (ROWS * columns)) * ROWS
    for start in range(0, rows, step):
        yield matrix.rows(slice(start, start + step))


def _int4(weight: NetworkWeight, matrix: QuantizedTensor, dtype: str) -> Iterator[Block]:
    codes, scale = weight.inputs
    yield Block(scale, 0, _positive(matrix.scale, weight, np.dtype(dtype)))
    yield from _in_order(codes, _transposed(matrix))


def _transposed(matrix: QuantizedTensor) -> Iterator[Array]:
    """Two's complement nibbles of [K, N], flat, low one first, some groups of K at a time."""
    rows, groups, _ = matrix.codes.shape
    step = max(1, ELEMENTS // (rows * matrix.group))
    for start in range(0, groups, step):
        codes = matrix.codes[:, start : start + step].reshape(rows, -1)
        if rows % 2 == 0:
            yield _turned(codes)
        else:  # a byte then has codes of two inputs
            unpacked = unpack_bits(codes, 4, 2 * codes.shape[1])
            yield pack_bits((unpacked.T ^ np.uint8(8)).reshape(-1), 4)


def _turned(codes: Array) -> Array:
    """Pairs of codes along K, uint8 [N, K / 2], as pairs along N, [K, 2, N / 2]: five times as fast
    as through unpacked ones. A code less 8, as four bits, is that with its highest bit flipped."""
    first, second = codes[0::2] ^ np.uint8(0x88), codes[1::2] ^ np.uint8(0x88)
    turned = np.empty((codes.shape[1], 2, len(first)), np.uint8)
    turned[:, 0] = (first & 0x0F | second << 4).T
    turned[:, 1] = (first >> 4 | second & 0xF0).T
    return turned


def _positive(scale: Array, weight: NetworkWeight, dtype: np.dtype[Any]) -> Array:
    """[groups, N]; scales of groups that are all zero become small, not zero."""
    wide = scale.astype(np.float32)
    if (wide < 0).any():
        raise NegativeScales(
            f"{weight.inputs[0]} has negative scales",
            "TensorRT dequantizes with positive ones only",
        )
    narrow = np.maximum(wide.astype(dtype), np.finfo(dtype).smallest_normal)
    return np.ascontiguousarray(narrow.T)
