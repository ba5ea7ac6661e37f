"""Lowers a function of the IR to standard ONNX, node by node. Knows no file.

f32 [T, width] becomes [1, T, width] and f32 [T, heads, D] becomes [1, heads, T, D], in the
network's one float type. Caches have a fixed capacity: the network is strongly typed, every
cache is an input and an output at the same address, and a mask hides what is not written yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from onnx import TensorProto

from arkinfer import ir
from arkinfer.errors import UnsupportedError
from arkinfer.ir import CacheType, Node, Value
from arkinfer_trt.graph import Graph
from arkinfer_trt.support import is_native
from arkinfer_trt.weights import ONNX, Initializers

TOKENS, ROWS, POSITIONS, LENGTH = "tokens", "rows", "positions", "length"
"""Inputs besides the caches: int64 [1, T], [R], [1, T] and [1]; the last is the tokens before."""


class Lowering:
    """Lowers `step(tokens, rows, k0, v0, …) -> logits, k0, v0, …`.

    Args:
        function: what to lower; every node is supported.
        context: tokens that the caches hold.
        graph: where nodes go.
        weights: where weights come from.
        dtype: what the network computes in, "f16" or "f32".
    """

    def __init__(
        self, function: ir.Function, context: int, graph: Graph, weights: Initializers, dtype: str
    ) -> None:
        self.graph, self.weights, self.context = graph, weights, context
        self.caches: list[dict[str, object]] = []
        self._function = function
        self._type = ONNX[dtype]
        self._scalar = np.dtype(ir.DTYPES[dtype])
        self._names: dict[Value, str] = {}
        self._mask = ""

    def run(self) -> None:
        """Emits everything.

        Raises:
            UnsupportedError: the function has an interface of its own.
        """
        self._inputs()
        for node in self._function.nodes:
            self._names[node.result] = _EMITTERS[node.op](self, node)
        self._outputs()

    def _inputs(self) -> None:
        integer = TensorProto.INT64
        for value in self._function.inputs:
            if isinstance(value.type, CacheType):
                _, heads, size = value.type.shape
                shape = [1, cast(int, heads), self.context, cast(int, size)]
                name = f"past.{value.name}"
                self._names[value] = self.graph.input(name, self._type, list(shape))
                self.caches.append({"name": value.name, "shape": shape})
            elif value.name == "tokens":
                self._names[value] = self.graph.input(TOKENS, integer, [1, "T"])
            elif value.name == "rows":
                self._names[value] = self.graph.input(ROWS, integer, ["R"])
            else:
                raise UnsupportedError(
                    f"The function has an input {value.name}", "only tokens, rows and caches fit"
                )
        self.graph.input(POSITIONS, integer, [1, "T"])
        self.graph.input(LENGTH, integer, [1])

    def _outputs(self) -> None:
        for name, value in zip(self._function.output_names, self._function.outputs, strict=True):
            found = self._names[value]
            if isinstance(value.type, CacheType):
                shape = next(
                    cast("list[int]", c["shape"]) for c in self.caches if c["name"] == name
                )
                if found != f"present.{name}":
                    raise UnsupportedError(
                        f"The function returns a cache as {name}", "it is the next of another one"
                    )
                self.graph.output(found, self._type, list(shape))
            else:
                self.graph.add("Cast", [found], name, name, to=TensorProto.FLOAT)
                width = cast(int, value.tensor.shape[-1])
                self.graph.output(name, TensorProto.FLOAT, [1, "R", width])

    def _add(self, node: Node, op: str, *inputs: str, **attributes: Any) -> str:
        return self.graph.add(op, list(inputs), node.loc, **attributes)

    def _of(self, node: Node, index: int) -> str:
        return self._names[node.values[index]]

    def _times(self, node: Node, x: str, by: float) -> str:
        if by == 1.0:
            return x
        return self._add(node, "Mul", x, self.graph.constant(by, self._scalar))

    def embedding(self, node: Node) -> str:
        (weight,) = node.weights
        quantized = node.op == "quant.embedding"
        table = self.weights.widened(weight) if quantized else self.weights.dense(weight, node.loc)
        rows = self._add(node, "Gather", table, self._of(node, 0), axis=0)
        return self._times(node, rows, cast(float, node.attributes["scale"]))

    def linear(self, node: Node) -> str:
        (weight,) = node.weights
        x = self._of(node, 0)
        kind = weight.type
        if isinstance(kind, ir.QuantizedType) and is_native(kind.scheme):
            codes, scales, block = self.weights.int4(weight)
            matrix = self._add(node, "DequantizeLinear", codes, scales, axis=0, block_size=block)
            return self._add(node, "MatMul", x, matrix)
        if isinstance(kind, ir.QuantizedType):
            matrix = self.weights.widened(weight)
        else:
            matrix = self.weights.dense(weight, node.loc)
        return self._add(node, "MatMul", x, self._add(node, "Transpose", matrix, perm=[1, 0]))

    def rms_norm(self, node: Node) -> str:
        scale = self.weights.dense(node.weights[0], node.loc)
        epsilon = cast(float, node.attributes["eps"])
        return self._add(node, "RMSNormalization", self._of(node, 0), scale, epsilon=epsilon)

    def add(self, node: Node) -> str:
        branch = self._times(node, self._of(node, 1), cast(float, node.attributes["scale"]))
        return self._add(node, "Add", self._of(node, 0), branch)

    def silu_mul(self, node: Node) -> str:
        gate, up = self._of(node, 0), self._of(node, 1)
        silu = self._add(node, "Mul", gate, self._add(node, "Sigmoid", gate))
        return self._add(node, "Mul", silu, up)

    def rope(self, node: Node) -> str:
        factor = cast(float, node.attributes["factor"])
        cos, sin = self.weights.rotary(node.weights[0], factor, self.context)
        return self._add(node, "RotaryEmbedding", self._of(node, 0), cos, sin, POSITIONS)

    def append(self, node: Node) -> str:
        cache = node.values[0]
        inputs = [self._names[cache], self._of(node, 1), LENGTH]
        return self.graph.add("TensorScatter", inputs, node.loc, f"present.{cache.name}", axis=-2)

    def attention(self, node: Node) -> str:
        inputs = [self._of(node, index) for index in range(3)]
        scale = cast(float, node.attributes["scale"])
        return self._add(node, "Attention", *inputs, self._visible(), scale=scale)

    def _visible(self) -> str:
        """bool [1, 1, T, capacity]: query at position p sees the cache up to p."""
        if not self._mask:
            keys = self.graph.constant(np.arange(self.context)[None, None, None], np.int64)
            axes = self.graph.constant([1, 3], np.int64)
            queries = self.graph.add("Unsqueeze", [POSITIONS, axes], "mask")
            self._mask = self.graph.add("LessOrEqual", [keys, queries], "mask")
        return self._mask

    def positions(self, node: Node) -> str:
        return POSITIONS

    def reshape(self, node: Node) -> str:
        x, y = node.values[0].tensor.shape, node.result.tensor.shape
        if len(y) == 3:
            shape = self.graph.constant([1, -1, y[1], y[2]], np.int64)
            split = self._add(node, "Reshape", self._of(node, 0), shape)
            return self._add(node, "Transpose", split, perm=[0, 2, 1, 3])
        joined = self._add(node, "Transpose", self._of(node, 0), perm=[0, 2, 1, 3])
        width = cast(int, x[1]) * cast(int, x[2])
        return self._add(node, "Reshape", joined, self.graph.constant([1, -1, width], np.int64))

    def slice(self, node: Node) -> str:
        rank = len(node.values[0].tensor.shape)
        start, stop, axis = (cast(int, node.attributes[k]) for k in ("start", "stop", "axis"))
        onnx_axis = {(2, 1): 2, (3, 1): 1, (3, 2): 3}[rank, axis % rank]
        bounds = [self.graph.constant([n], np.int64) for n in (start, stop, onnx_axis)]
        return self._add(node, "Slice", self._of(node, 0), *bounds)

    def take(self, node: Node) -> str:
        axis = 1 if len(node.values[0].tensor.shape) == 2 else 2
        return self._add(node, "Gather", self._of(node, 0), self._of(node, 1), axis=axis)


_EMITTERS: dict[str, Callable[[Lowering, Node], str]] = {
    "attn.dense": Lowering.attention,
    "cache.append": Lowering.append,
    "nn.add": Lowering.add,
    "nn.embedding": Lowering.embedding,
    "nn.linear": Lowering.linear,
    "nn.rms_norm": Lowering.rms_norm,
    "nn.rope": Lowering.rope,
    "nn.silu_mul": Lowering.silu_mul,
    "quant.embedding": Lowering.embedding,
    "quant.linear": Lowering.linear,
    "tensor.arange": Lowering.positions,
    "tensor.reshape": Lowering.reshape,
    "tensor.slice": Lowering.slice,
    "tensor.take": Lowering.take,
}
