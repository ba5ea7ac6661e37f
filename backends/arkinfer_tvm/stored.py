"""Puts the weights of a section into its file, in the form that kernels read, each once.

Knows the section's writer and the layouts; no kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.backend.contract import RowStore
from arkinfer.packing import QuantizedTensor
from arkinfer_tvm.layout import DenseStream, Stream, packed, packed_dense

Matrix = Stream | DenseStream


class Writer(Protocol):
    """What of `SectionWriter` is used here."""

    @property
    def store(self) -> RowStore: ...

    def weight(self, weight: ir.Weight) -> dict[str, str]: ...

    def tensor(
        self, name: str, dtype: str, shape: tuple[int, ...], chunks: Iterable[npt.NDArray[Any]]
    ) -> str: ...


class Stored:
    """The weights of a function, by what reads them.

    Matrices are repacked as streams for an architecture: `<weight>.packed`. Scales stay float32
    unless every product with a matrix rounds its activations. Other weights, and tables of floats
    that are only looked up in, stay as they are.
    """

    def __init__(self, out: Writer, arch: str, function: ir.Function) -> None:
        self._out, self._arch = out, arch
        self._names: dict[str, str] = {}
        products = [node for node in function.nodes if node.op in ("nn.linear", "quant.linear")]
        self._multiplied = {weight for node in products for weight in node.weights}
        as_they_are = [node for node in products if node.attributes.get("activations") == "f32"]
        exact = {weight for node in as_they_are for weight in node.weights}
        self._rounded = self._multiplied - exact

    def whole(self, weight: ir.Weight) -> str:
        """The name of the tensor that holds a weight as it is."""
        return self._out.weight(weight)[""]

    def is_multiplied(self, weight: ir.Weight) -> bool:
        """Whether it is the matrix of a product."""
        return weight in self._multiplied

    def stream(self, weight: ir.Weight) -> Matrix:
        """How a matrix is stored; follows from types alone."""
        shape = cast("tuple[int, int]", weight.type.shape)
        if isinstance(weight.type, ir.QuantizedType):
            return Stream.of(weight.type.scheme, shape, self._arch, weight not in self._rounded)
        assert isinstance(weight.type, ir.TensorType)
        return DenseStream.of(weight.type.dtype, shape)

    def packed(self, weight: ir.Weight) -> str:
        """The name of the tensor that holds a matrix as a stream."""
        name = f"{weight.name}.packed"
        if name not in self._names:
            stream, store = self.stream(weight), self._out.store
            if isinstance(stream, Stream):
                chunks = packed(stream, lambda a, b: _quantized(store.rows(weight, a, b)))
            else:
                chunks = packed_dense(stream, lambda a, b: _dense(store.rows(weight, a, b)))
            self._names[name] = self._out.tensor(name, "uint8", stream.shape, chunks)
        return self._names[name]

    def order(self, weight: ir.Weight) -> str:
        """The name of the tensor that holds the order of a matrix's inputs."""
        name = f"{weight.name}.order"
        if name not in self._names:
            columns = cast(int, weight.type.shape[1])
            chunks = _order(self._out.store, weight)
            self._names[name] = self._out.tensor(name, "int32", (columns,), chunks)
        return self._names[name]


def _order(store: RowStore, weight: ir.Weight) -> Iterator[npt.NDArray[np.int32]]:
    found = _quantized(store.rows(weight, 0, 1)).order
    assert found is not None
    yield found


def _quantized(rows: npt.NDArray[Any] | QuantizedTensor) -> QuantizedTensor:
    assert isinstance(rows, QuantizedTensor)
    return rows


def _dense(rows: npt.NDArray[Any] | QuantizedTensor) -> npt.NDArray[Any]:
    assert not isinstance(rows, QuantizedTensor)
    return rows
