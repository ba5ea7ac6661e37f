"""What the networks read, and where its numbers are: stored in packing's form, once for all
sections of the artifact. Knows no node.

No number is read here: the board casts, repacks and transposes. The exception are tables of the
rotary embedding, which are made of the angles when the writer asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from arkinfer import ir
from arkinfer.backend import SectionWriter
from arkinfer.ir import QuantizedType, Weight
from arkinfer_trt.graph import Tensor
from arkinfer_trt.kernels.gemv import Gemv
from arkinfer_trt.section import NETWORKS, Form, Network, NetworkWeight, Stored

Array = npt.NDArray[Any]

ELEMENTS = 1 << 22
"""Of a table that are in memory at a time."""

ONNX = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16}


class Weights:
    """Weights of networks that compute in `dtype`, "f16" or "f32".

    Attributes:
        entries: by the names of their inputs, in the order in which they were asked for.
    """

    def __init__(self, out: SectionWriter, dtype: str) -> None:
        self._out, self._type = out, ONNX[dtype]
        self._numpy = np.dtype(ir.DTYPES[dtype])
        self._stored: dict[str, Stored] = {}
        self.entries: dict[tuple[str, ...], NetworkWeight] = {}

    def stored(self, weight: Weight) -> Stored:
        """Where a weight is, as it is."""
        if weight.name not in self._stored:
            kind, shape = weight.type, cast("tuple[int, ...]", weight.type.shape)
            scheme = kind.scheme.name if isinstance(kind, QuantizedType) else ""
            self._stored[weight.name] = Stored(shape, scheme, self._out.weight(weight))
        return self._stored[weight.name]

    def dense(self, weight: Weight, network: Network) -> Tensor:
        """A float tensor, in the network's dtype. What is small is a constant."""
        tensor = Tensor(weight.name, self._type, cast("tuple[int, ...]", weight.type.shape))
        small = len(tensor.shape) < 2
        self._note([tensor], "dense", network, small, lambda: self.stored(weight))
        return tensor

    def gemv(self, weight: Weight, network: Network) -> tuple[Gemv, list[Tensor]]:
        """A quantized matrix as our kernels read it: the product, its words and its scales."""
        kind = cast(QuantizedType, weight.type)
        gemv = Gemv.of(kind.scheme, kind.shape)
        types = {"words": TensorProto.INT32, "scale": self._type}
        tensors = [
            Tensor(f"{weight.name}.{part}", types[part], shape)
            for part, (_, shape) in gemv.parts().items()
        ]
        self._note(tensors, "gemv", network, False, lambda: self.stored(weight))
        return gemv, tensors

    def int4(self, weight: Weight, network: Network) -> tuple[int, list[Tensor]]:
        """A matrix of symmetric int4 as DequantizeLinear takes it: the block, codes [K, N] and
        scales [K / block, N]."""
        kind = cast(QuantizedType, weight.type)
        rows, columns = kind.shape
        block, name = kind.scheme.group_size(columns), f"{weight.name}.int4"
        tensors = [
            Tensor(name, TensorProto.INT4, (columns, rows)),
            Tensor(f"{name}.scale", self._type, (columns // block, rows)),
        ]
        self._note(tensors, "int4", network, True, lambda: self.stored(weight))
        return block, tensors

    def rotary(
        self, inv_freq: Weight, factor: float, context: int, network: Network
    ) -> tuple[Tensor, Tensor]:
        """Tables of cos and sin of every position, times factor: [context, D / 2]."""
        (half,) = cast("tuple[int]", inv_freq.type.shape)

        def table(kind: str, function: Callable[[Array], Array]) -> Tensor:
            name, shape = f"{inv_freq.name}.{factor!r}.{kind}", (context, half)

            def store() -> Stored:
                chunks = self._angles(inv_freq, factor, shape, function)
                return Stored(
                    shape, "", {"": self._out.tensor(name, self._numpy.name, shape, chunks)}
                )

            tensor = Tensor(name, self._type, shape)
            self._note([tensor], "dense", network, True, store)
            return tensor

        return table("cos", np.cos), table("sin", np.sin)

    def _angles(
        self,
        inv_freq: Weight,
        factor: float,
        shape: tuple[int, int],
        function: Callable[[Array], Array],
    ) -> Iterator[Array]:
        context, half = shape
        step = max(1, ELEMENTS // half)
        freq = cast(Array, self._out.store.load(inv_freq)).astype(np.float32)
        for start in range(0, context, step):
            positions = np.arange(start, min(start + step, context), dtype=np.float32)
            angle = positions[:, None] * freq  # in float32, as the model itself does
            yield (function(angle) * np.float32(factor)).astype(self._numpy)

    def _note(
        self,
        tensors: list[Tensor],
        form: Form,
        network: Network,
        constant: bool,
        store: Callable[[], Stored],
    ) -> None:
        inputs = tuple(tensor.name for tensor in tensors)
        found = self.entries.get(inputs)
        if found is None:
            found = NetworkWeight(inputs, form, (), constant, store())
        networks = tuple(name for name in NETWORKS if name in (*found.networks, network))
        self.entries[inputs] = replace(found, networks=networks)
