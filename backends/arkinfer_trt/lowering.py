"""Lowers a function of the IR to an ONNX network, node by node. Knows no file.

f32 [T, width] becomes [1, T, width] and f32 [T, heads, D] becomes [1, heads, T, D], in the
network's one float type. Caches have a fixed capacity: the network is strongly typed, every
cache is an input and an output at the same address. Attention reads the rows of it that the input
`keys` counts, and a mask hides those of them that are not written yet.
Weights are inputs; `section.py` tells what all inputs and outputs are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from onnx import TensorProto

from arkinfer import ir
from arkinfer.errors import UnsupportedError
from arkinfer.ir import CacheType, Node, Value
from arkinfer_trt.graph import Graph, Origin, Tensor
from arkinfer_trt.products import Products
from arkinfer_trt.section import HIDDEN, KEYS, LENGTH, LOGITS, POSITIONS, ROWS, Cache, Network
from arkinfer_trt.support import TOKENS
from arkinfer_trt.weights import ONNX, Weights


class Lowering:
    """Lowers `step(tokens, rows, k0, v0, …) -> logits, k0, v0, …`.

    Args:
        function: what to lower; every node is supported.
        context: tokens that the caches hold.
        network: whose products are used where int4 can be had both ways.
        weights: where weights come from.
        dtype: what the network computes in, "f16" or "f32".

    Attributes:
        graph: where nodes go.
        caches: in the order of the function.
        embedding: the node that looks tokens up, which the network is without.

    Raises:
        UnsupportedError: the function embeds nothing.
    """

    def __init__(
        self,
        function: ir.Function,
        context: int,
        network: Network,
        weights: Weights,
        dtype: str,
    ) -> None:
        self.graph = Graph("step")
        self.caches: list[Cache] = []
        self.embedding = _embedding(function)
        self._function, self._context = function, context
        self._weights = weights
        self._network: Network = network
        self._products = Products(self.graph, weights, network, dtype)
        self._type = ONNX[dtype]
        self._scalar = np.dtype(ir.DTYPES[dtype])
        self._names: dict[Value, str] = {}
        self._mask = self._count = ""

    def run(self) -> None:
        """Emits everything.

        Raises:
            UnsupportedError: the function has an interface of its own, or uses tokens for
                something else than one embedding.
        """
        self._inputs()
        for node in self._function.nodes:
            self._names[node.result] = _EMITTERS[node.op](self, node)
        self._outputs()

    def _inputs(self) -> None:
        width = cast(int, self.embedding.result.tensor.shape[-1])
        self._names[self.embedding.result] = self._input(HIDDEN, self._type, 1, "T", width)
        self._input(POSITIONS, TensorProto.INT64, 1, "T")
        self._input(LENGTH, TensorProto.INT64, 1)
        self._input(KEYS, TensorProto.INT64, 1, 1, 1, "C")
        for value in sorted(self._function.inputs, key=lambda value: value.name != ROWS):
            if isinstance(value.type, CacheType):
                _, heads, size = value.type.shape
                shape = (1, cast(int, heads), self._context, cast(int, size))
                self._names[value] = self._input(f"past.{value.name}", self._type, *shape)
                self.caches.append(Cache(value.name, shape))
            elif value.name == ROWS:
                self._names[value] = self._input(ROWS, TensorProto.INT64, "R")
            elif value.name != TOKENS:
                raise UnsupportedError(
                    f"The function has an input {value.name}", "Only tokens, rows and caches fit"
                )

    def _input(self, name: str, dtype: int, *shape: int | str) -> str:
        return self.graph.input(Tensor(name, dtype, shape))

    def _outputs(self) -> None:
        for name, value in zip(self._function.output_names, self._function.outputs, strict=True):
            found = self._names[value]
            if isinstance(value.type, CacheType):
                shape = next(cache.shape for cache in self.caches if cache.name == name)
                if found != f"present.{name}":
                    raise UnsupportedError(
                        f"The function returns a cache as {name}", "It is the next of another one"
                    )
                self.graph.output(Tensor(found, self._type, shape))
            else:
                origin = Origin(*_place(value.producer))
                self.graph.add("Cast", [found], origin, LOGITS, to=TensorProto.FLOAT)
                width = cast(int, value.tensor.shape[-1])
                self.graph.output(Tensor(LOGITS, TensorProto.FLOAT, (1, "R", width)))

    def _add(self, node: Node, op: str, *inputs: str, **attributes: Any) -> str:
        return self.graph.add(op, list(inputs), Origin(node.op, node.loc), **attributes)

    def _of(self, node: Node, index: int) -> str:
        value = node.values[index]
        if value not in self._names:
            raise UnsupportedError(
                f"TensorRT cannot run {node.op}{_at(node)}",
                "It reads the tokens, which an embedding alone may do",
            )
        return self._names[value]

    def _times(self, node: Node, x: str, by: float) -> str:
        if by == 1.0:
            return x
        return self._add(node, "Mul", x, self.graph.constant(by, self._scalar))

    def lookup(self, node: Node) -> str:
        """Outside of the network, by its caller."""
        if node is not self.embedding:
            raise UnsupportedError(
                f"TensorRT cannot run {node.op}{_at(node)}",
                "Tokens are embedded once, outside of the network, and this is the second time",
            )
        return HIDDEN

    def linear(self, node: Node) -> str:
        (weight,) = node.weights
        if isinstance(weight.type, ir.QuantizedType):
            rows = str(node.result.tensor.shape[0])  # T, or R behind the choice of rows
            return self._products.add(weight, self._of(node, 0), rows, Origin(node.op, node.loc))
        matrix = self.graph.input(self._weights.dense(weight, self._network))
        turned = self._add(node, "Transpose", matrix, perm=[1, 0])
        return self._add(node, "MatMul", self._of(node, 0), turned)

    def rms_norm(self, node: Node) -> str:
        scale = self.graph.input(self._weights.dense(node.weights[0], self._network))
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
        tables = self._weights.rotary(node.weights[0], factor, self._context, self._network)
        cos, sin = (self.graph.input(table) for table in tables)
        return self._add(node, "RotaryEmbedding", self._of(node, 0), cos, sin, self._of(node, 1))

    def append(self, node: Node) -> str:
        cache = node.values[0]
        inputs = [self._names[cache], self._of(node, 1), LENGTH]
        output = f"present.{cache.name}"
        return self._add(node, "TensorScatter", *inputs, output=output, axis=-2)

    def attention(self, node: Node) -> str:
        keys, values = (self._rows_of_cache(node, index) for index in (1, 2))
        scale = cast(float, node.attributes["scale"])
        inputs = [self._of(node, 0), keys, values, self._visible(node)]
        return self._add(node, "Attention", *inputs, scale=scale)

    def _rows_of_cache(self, node: Node, index: int) -> str:
        """[1, heads, C, size]: the first rows, of which there are as many as `keys`."""
        first, axis, last = (self.graph.constant([n], np.int64) for n in (0, 2, 3))
        if not self._count:
            self._count = self._add(node, "Gather", self._add(node, "Shape", KEYS), last, axis=0)
        rows = self._add(node, "Slice", self._of(node, index), first, self._count, axis)
        _, heads, size = cast("tuple[int, ...]", node.values[index].type.shape)
        return self.graph.declared(Tensor(rows, self._type, (1, heads, "C", size)))

    def _visible(self, node: Node) -> str:
        """bool [1, 1, T, C]: query at position p sees the cache up to p."""
        if not self._mask:
            axes = self.graph.constant([1, 3], np.int64)
            queries = self._add(node, "Unsqueeze", POSITIONS, axes)
            self._mask = self._add(node, "LessOrEqual", KEYS, queries)
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


def _embedding(function: ir.Function) -> Node:
    """The first that looks something up."""
    found = next((node for node in function.nodes if node.op.endswith(".embedding")), None)
    if found is None:
        raise UnsupportedError("TensorRT cannot run this step", "It embeds no tokens")
    return found


def _place(node: Node | None) -> tuple[str, str]:
    return ("", "") if node is None else (node.op, node.loc)


def _at(node: Node) -> str:
    return f" at {node.loc}" if node.loc else ""


_EMITTERS: dict[str, Callable[[Lowering, Node], str]] = {
    "attn.dense": Lowering.attention,
    "cache.append": Lowering.append,
    "nn.add": Lowering.add,
    "nn.embedding": Lowering.lookup,
    "nn.linear": Lowering.linear,
    "nn.rms_norm": Lowering.rms_norm,
    "nn.rope": Lowering.rope,
    "nn.silu_mul": Lowering.silu_mul,
    "quant.embedding": Lowering.lookup,
    "quant.linear": Lowering.linear,
    "tensor.arange": Lowering.positions,
    "tensor.reshape": Lowering.reshape,
    "tensor.slice": Lowering.slice,
    "tensor.take": Lowering.take,
}
