"""The operators of our TensorRT networks in torch, one function each, by the rules of ONNX: what a
node gives has the dtype of what it gets, as in a strongly typed engine. Knows no artifact.

Products by the plug-in are whoever's who calls. Caches are written in place, as on a board. Sizes
of tensors are computed on the host, so that a CUDA graph can be captured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from arkinfer_trt.kernels.gemv import ATTRIBUTE, OP, Gemv

Multiply = Callable[[Gemv, Tensor, Tensor, Tensor], Tensor]
"""Product, x [tokens, inputs], words, scale -> [tokens, width]."""

DTYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
}

Step = Callable[[dict[str, Tensor]], Tensor]


class TorchNetwork:
    """A network, ready to run.

    Args:
        model: as the artifact has it.
        device: of the tensors that it gets.
        multiply: what a node of the plug-in does.

    Raises:
        ValueError: it has an operator, an input or an attribute that this does not know.
    """

    def __init__(self, model: onnx.ModelProto, device: str, multiply: Multiply) -> None:
        self._multiply = multiply
        self._host = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._constants = {name: _tensor(array).to(device) for name, array in self._host.items()}
        self.inputs = [value.name for value in model.graph.input]
        self._outputs = [value.name for value in model.graph.output]
        self._sizes: set[str] = set()
        nodes = list(model.graph.node)
        last = {name: i for i, node in enumerate(nodes) for name in node.input}
        kept = {*self._outputs, *self._constants}
        self._steps = [
            (
                node.output[0],
                self._step(node),
                [n for n in node.input if last[n] == i and n not in kept],
            )
            for i, node in enumerate(nodes)
        ]

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; `present.X` is the tensor `past.X`, with what is new in it."""
        values = {**self._constants, **tensors}
        for output, step, done in self._steps:
            values[output] = step(values)
            for name in done:
                del values[name]
        return {name: values[name] for name in self._outputs}

    def _step(self, node: onnx.NodeProto) -> Step:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == OP:
            return self._product(list(node.input), Gemv(*attributes[ATTRIBUTE]))
        known = _OPS.get(node.op_type)
        if known is None:
            raise ValueError(f"there is no torch for {node.op_type}")
        operation, names, fixed = known
        if not set(attributes) <= set(names):
            raise ValueError(f"{node.op_type} has the attributes {sorted(attributes)}")
        given = list(node.input)[: len(node.input) - fixed]
        numbers = {name: self._host.get(name) for name in list(node.input)[len(given) :]}
        host = self._constant_sizes(node, given)

        def step(values: dict[str, Tensor]) -> Tensor:
            operands = (host[name] if name in host else values[name] for name in given)
            known = ((values[n] if a is None else a).tolist() for n, a in numbers.items())
            return operation(*operands, *known, **attributes)

        return step

    def _constant_sizes(self, node: onnx.NodeProto, given: list[str]) -> dict[str, Tensor]:
        """The operands of a node on the host, where it computes sizes."""
        if node.op_type != "Shape" and not self._sizes & set(given):
            return {}
        self._sizes.add(node.output[0])
        return {n: torch.from_numpy(self._host[n].copy()) for n in given if n in self._host}

    def _product(self, names: list[str], gemv: Gemv) -> Step:
        def step(values: dict[str, Tensor]) -> Tensor:
            x, words, scale = (values[name] for name in names)
            rows = x.reshape(-1, gemv.inputs).contiguous()
            return self._multiply(gemv, rows, words, scale).reshape(*x.shape[:-1], gemv.width)

        return step


def _tensor(array: Any) -> Tensor:
    """Numbers of four bits one a byte, as torch has no others."""
    return torch.from_numpy(array.astype(np.int8) if array.dtype.name == "int4" else array.copy())


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Grouped heads [1, heads, T, size] by caches [1, fewer, context, size]: rows of the heads that
    share a cache are rows of one product."""
    _, heads, tokens, size = q.shape
    fewer = k.shape[1]
    each = heads // fewer
    rows = q.reshape(1, fewer, each * tokens, size)
    seen = mask.expand(1, each, tokens, -1).reshape(1, 1, each * tokens, -1)
    y = torch.nn.functional.scaled_dot_product_attention(rows, k, v, attn_mask=seen, scale=scale)
    return y.reshape(1, heads, tokens, size)


def cast(x: Tensor, to: int) -> Tensor:
    return x.to(DTYPES[to])


def dequantize(codes: Tensor, scale: Tensor, axis: int, block_size: int) -> Tensor:
    """int4 [K, N], as int8, by scales [K / block, N]."""
    if axis != 0:
        raise ValueError(f"blocks lie along axis {axis}")
    blocks = codes.to(scale.dtype).reshape(-1, block_size, codes.shape[1])
    return (blocks * scale[:, None]).reshape(codes.shape)


def gather(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    return x.index_select(axis, indices)


def rms_norm(x: Tensor, scale: Tensor, epsilon: float = 1e-5, axis: int = -1) -> Tensor:
    """In float32 until it is normalized, as ONNX's `stash_type` says."""
    wide = x.float()
    unit = torch.rsqrt(wide.square().mean(axis, keepdim=True) + epsilon)
    return (wide * unit).to(x.dtype) * scale


def rotary(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """Halves of a head [1, heads, T, size] turned by tables [context, size / 2]; rounded once."""
    c, s = (table[positions[0]].float() for table in (cos, sin))
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * c - second * s, second * c + first * s), dim=-1).to(x.dtype)


def scatter(cache: Tensor, update: Tensor, start: Tensor, axis: int) -> Tensor:
    """Rows from `start` on, in place."""
    at = start + torch.arange(update.shape[axis], device=start.device)
    return cache.index_copy_(axis, at, update)


def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape)


def slices(x: Tensor, starts: list[int], ends: list[int], axes: list[int]) -> Tensor:
    for start, end, axis in zip(starts, ends, axes, strict=True):
        x = x.narrow(axis, start, end - start)
    return x


def unsqueeze(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


_OPS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...], int]] = {
    "Add": (torch.add, (), 0),
    "Attention": (attention, ("scale",), 0),
    "Cast": (cast, ("to",), 0),
    "DequantizeLinear": (dequantize, ("axis", "block_size"), 0),
    "Gather": (gather, ("axis",), 0),
    "LessOrEqual": (torch.le, (), 0),
    "MatMul": (torch.matmul, (), 0),
    "Mul": (torch.mul, (), 0),
    "RMSNormalization": (rms_norm, ("axis", "epsilon"), 0),
    "Reshape": (torch.reshape, (), 1),
    "RotaryEmbedding": (rotary, (), 0),
    "Shape": (shape, (), 0),
    "Sigmoid": (torch.sigmoid, (), 0),
    "Slice": (slices, (), 3),
    "TensorScatter": (scatter, ("axis",), 0),
    "Transpose": (lambda x, perm: x.permute(perm), ("perm",), 0),
    "Unsqueeze": (unsqueeze, (), 1),
}
"""By operator: the function, the attributes that it knows, and how many of its last inputs are
constants or sizes."""
