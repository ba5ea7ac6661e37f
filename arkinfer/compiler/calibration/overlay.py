"""A checkpoint in which a calibrated method has quantized the linears: the same interface, other
numbers. Knows no method.

The matrices lie in a file, of which only the rows that are asked for are read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.compiler.calibration.spill import SpillFile
from arkinfer.errors import InternalError
from arkinfer.frontend.leaves import Tensors
from arkinfer.packing import QuantizedTensor, Scheme, part_specs


class Overlay:
    """Tensors of a checkpoint, some of them replaced; see `arkinfer.frontend.leaves.Tensors`.

    What is replaced is known from the beginning, so that a graph can be made of it; the numbers
    are those of the checkpoint until they are put.

    Args:
        under: the checkpoint.
        schemes: of the matrices that will be quantized.
        norms: names of those that may change.
    """

    def __init__(
        self, under: Tensors, schemes: Mapping[str, Scheme], norms: Collection[str]
    ) -> None:
        self._under, self._schemes = under, dict(schemes)
        self._norms: dict[str, npt.NDArray[np.float32] | None] = dict.fromkeys(norms)
        self._places: dict[str, int] = {}
        self._file, self._end = SpillFile(), 0

    def put(self, name: str, matrix: QuantizedTensor) -> None:
        """Replaces a matrix.

        Raises:
            ResourceError: the disk is full.
        """
        if matrix.scheme != self._schemes[name] or matrix.shape != self.shape(name):
            raise InternalError(f"{name} came as {matrix.scheme.name} {list(matrix.shape)}")
        self._places[name] = self._end
        for part in matrix.parts().values():
            self._end += self._file.write(self._end, part)

    def put_norm(self, name: str, weight: npt.NDArray[np.float32]) -> None:
        """Replaces a norm's weight."""
        self._norms[name] = weight

    def names(self) -> list[str]:
        return self._under.names()

    def schemes(self) -> dict[str, Scheme]:
        return {**self._under.schemes(), **self._schemes}

    def dtype(self, name: str) -> np.dtype[Any]:
        replaced = name in self._schemes or name in self._norms
        return np.dtype(np.float32) if replaced else self._under.dtype(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._under.shape(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        norm = self._norms.get(name)
        if norm is not None:
            return norm[start:stop].copy()
        if name in self._places:
            start, stop, _ = slice(start, stop).indices(self.shape(name)[0])
            return self.quantized(name, start, max(start, stop)).dequantize()
        return self._under.read(name, start, stop).astype(self.dtype(name), copy=False)

    def quantized(self, name: str, start: int, stop: int) -> QuantizedTensor:
        """Rows [start, stop) of a matrix that was put; of others, those of the checkpoint."""
        if name not in self._schemes:
            return self._under.quantized(name, start, stop)
        rows, columns = self.shape(name)
        scheme, offset = self._schemes[name], self._places[name]
        parts: dict[str, npt.NDArray[Any]] = {}
        for part, (dtype, size) in part_specs(scheme, (rows, columns)).items():
            row = int(np.prod(size[1:], dtype=np.int64)) * dtype.itemsize
            whole = part == "order"
            found = np.empty(size if whole else (stop - start, *size[1:]), dtype)
            self._file.read(offset if whole else offset + start * row, found)
            parts[part] = found
            offset += size[0] * row
        return QuantizedTensor.from_parts(scheme, (stop - start, columns), parts)

    def close(self) -> None:
        """Frees the file; may be called again."""
        self._file.close()

    def __enter__(self) -> Overlay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
