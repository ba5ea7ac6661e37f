"""What TensorRT 10.15 and later parse from standard ONNX, and what kernels of our own multiply by,
as data, and the answer for one node.

Nothing here was timed on a board. Sources: the operator table of onnx-tensorrt 10.15, the rules
of `IDequantizeLayer` in TensorRT's headers, and `kernels/gemv.py`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from arkinfer import ir
from arkinfer.backend import Support
from arkinfer.errors import UnsupportedError
from arkinfer.ir import CacheType, QuantizedType, TensorType
from arkinfer.targets import Target
from arkinfer_trt.kernels.compiled import SHARED
from arkinfer_trt.kernels.gemv import BITS, Gemv

VERSION = "10.15"
"""The first TensorRT whose parser takes RMSNormalization, RotaryEmbedding and TensorScatter."""

FLOATS = ("f32", "f16", "bf16")

CACHES = ("f32", "f16")
"""Dtypes of caches, which are kept in what the network computes in whichever of these it is: a
board's in float16."""

TOKENS = "tokens"
"""The input of a step that the embedding looks up."""

INSTALL = 'pip install "arkinfer[kernels]"'

NATIVE = Support.slow(
    "without kernels of our own it is left to TensorRT, and nobody has published how fast its int4 "
    f"is on Orin; Triton compiles them: {INSTALL}"
)


def is_native(kind: ir.Type) -> bool:
    """Whether DequantizeLinear takes such a matrix: symmetric int4, a scale per block of inputs."""
    if not isinstance(kind, QuantizedType):
        return False
    scheme = kind.scheme
    return scheme.bits == 4 and scheme.offset == "none" and not scheme.act_order


def has_triton() -> bool:
    """Whether kernels can be compiled here."""
    return importlib.util.find_spec("triton") is not None


def supports(node: ir.Node, target: Target) -> Support:
    """How TensorRT runs a node on the target."""
    if target.sm not in SHARED:
        known = ", ".join(f"sm_{sm}" for sm in SHARED)
        return Support.no(f"{target.name} has no GPU that networks are made for ({known})")
    rule = _RULES.get(node.op)
    if rule is None:
        return Support.no(f"the TensorRT backend has no layer for {node.op}")
    return rule(node)


def _quantized_linear(node: ir.Node) -> Support:
    kind = node.weights[0].type if node.weights else None
    if not isinstance(kind, QuantizedType):
        return Support.no("its matrix is not a weight of the model")
    scheme = kind.scheme
    if scheme.offset != "none":
        return Support.no("our kernels and TensorRT multiply by symmetric weights only")
    if scheme.act_order:
        return Support.no("neither has the inputs of a matrix in another order")
    if scheme.bits not in BITS:
        known = ", ".join(map(str, BITS))
        return Support.no(f"our kernels multiply by {known} bits, not {scheme.bits}")
    try:
        Gemv.of(scheme, kind.shape)
    except UnsupportedError as error:
        return Support.no(error.why[:1].lower() + error.why[1:])
    if has_triton():
        return Support.fast()
    if is_native(kind):
        return NATIVE
    return Support.no(
        f"TensorRT has no {scheme.bits} bits of its own, and our kernels are compiled with Triton, "
        f"which is not installed: {INSTALL}"
    )


def _table(node: ir.Node) -> Support:
    """Of any form: rows are looked up outside of the network, in the table as it is stored."""
    if not node.weights:
        return Support.no("its table is not a weight of the model")
    tokens = node.values[0]
    if tokens.producer is not None or tokens.name != TOKENS:
        return Support.no("it looks up something else than the tokens of the step")
    return Support.fast()


def _dense(node: ir.Node) -> Support:
    kind = node.weights[0].type if node.weights else None
    if not isinstance(kind, TensorType) or kind.dtype not in FLOATS:
        return Support.no("its weight is not a float tensor of the model")
    return Support.fast()


def _rows(node: ir.Node) -> Support:
    """Works on [T, width] only."""
    kind = node.values[0].type
    if len(kind.shape) != 2:
        return Support.no(f"it works on {kind}, not on rows")
    return _dense(node) if node.op == "nn.rms_norm" else Support.fast()


def _rope(node: ir.Node) -> Support:
    source = node.values[1].producer
    if source is None or source.op != "tensor.arange":
        return Support.no("it rotates by positions that are not those in the sequence")
    return _dense(node)


def _append(node: ir.Node) -> Support:
    cache = node.values[0]
    if cache.producer is not None:
        return Support.no("it appends to what is no input of the function")
    if not isinstance(cache.type, CacheType) or cache.type.dtype not in CACHES:
        return Support.no(f"TensorRT keeps caches as its network computes, not as {cache.type}")
    return Support.fast()


def _attention(node: ir.Node) -> Support:
    for cache in node.values[1:]:
        if cache.producer is None or cache.producer.op != "cache.append":
            return Support.no("it reads a cache that nothing was appended to")
    if node.weights:
        return Support.no("TensorRT keeps caches as its network computes, not as codes")
    return Support.fast()


def _positions(node: ir.Node) -> Support:
    start, stop = str(node.attributes["start"]), str(node.attributes["stop"])
    if (start, stop) != ("S", "S + T"):
        return Support.no(f"it counts from {start} to {stop}, not over the new positions")
    return Support.fast()


def _heads(node: ir.Node) -> Support:
    """[T, n * D] to [T, n, D], or back."""
    x, y = node.values[0].tensor.shape, node.result.tensor.shape
    if {len(x), len(y)} != {2, 3} or x[0] != y[0]:
        return Support.no(f"it neither splits nor joins heads: {node.values[0].type}")
    return Support.fast()


def _slice(node: ir.Node) -> Support:
    if node.attributes["axis"] in (0, -len(node.values[0].tensor.shape)):
        return Support.no("it cuts the sequence")
    return Support.fast()


def _fast(node: ir.Node) -> Support:
    return Support.fast()


_RULES: dict[str, Callable[[ir.Node], Support]] = {
    "attn.dense": _attention,
    "cache.append": _append,
    "nn.add": _rows,
    "nn.embedding": _table,
    "nn.linear": _dense,
    "nn.rms_norm": _rows,
    "nn.rope": _rope,
    "nn.silu_mul": _rows,
    "quant.embedding": _table,
    "quant.linear": _quantized_linear,
    "tensor.arange": _positions,
    "tensor.reshape": _heads,
    "tensor.slice": _slice,
    "tensor.take": _fast,
}
