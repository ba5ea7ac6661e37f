"""What the kernels cover, as a table: op -> rule. Knows no TVM."""

from __future__ import annotations

from collections.abc import Callable

from arkinfer import ir
from arkinfer.backend.contract import Support
from arkinfer.ir.ops.attention import SCALES
from arkinfer.targets import Target
from arkinfer_tvm.cache_forms import CACHES
from arkinfer_tvm.cpu import ISAS

DENSE = ("f32", "bf16", "f16")
"""Dtypes of dense weights, all computed in float32."""

AS_THEY_ARE = "activations stay as they are, and codes become float32 one input at a time"


def supports(node: ir.Node, target: Target) -> Support:
    """Whether a kernel covers the node; see `arkinfer.backend.contract.Compiler.supports`."""
    if target.arch not in ISAS:
        return Support.no(f"it has no kernels for {target.arch}, only for {', '.join(ISAS)}")
    if node.op not in RULES:
        return Support.no(f"it has no kernel for {node.op}")
    return RULES[node.op](node)


def _linear(node: ir.Node) -> Support:
    x, weight = node.operands
    if not (isinstance(x, ir.Value) and isinstance(weight, ir.Weight)):
        return Support.no("its matrix must be a weight, and its input a value")
    if len(x.tensor.shape) != 2:
        return Support.no(f"its input must have 2 dims, not {len(x.tensor.shape)}")
    if isinstance(weight.type, ir.QuantizedType):
        as_they_are = node.attributes["activations"] == "f32"
        return Support.slow(AS_THEY_ARE) if as_they_are else Support.fast()
    return _dense(weight)


def _embedding(node: ir.Node) -> Support:
    table = node.operands[1]
    if not isinstance(table, ir.Weight):
        return Support.no("its table must be a weight")
    return Support.fast() if isinstance(table.type, ir.QuantizedType) else _dense(table)


def _dense(weight: ir.Weight) -> Support:
    dtype = getattr(weight.type, "dtype", "")
    if dtype not in DENSE:
        return Support.no(f"its kernels read {', '.join(DENSE)} weights, not {dtype}")
    return Support.fast()


def _norm(node: ir.Node) -> Support:
    x, weight = node.operands
    if not isinstance(weight, ir.Weight):
        return Support.no("its gain must be a weight")
    rank = len(x.type.shape)
    return _dense(weight) if rank == 2 else Support.no(f"its input must have 2 dims, not {rank}")


def _rope(node: ir.Node) -> Support:
    frequency = node.operands[2]
    if not isinstance(frequency, ir.Weight) or getattr(frequency.type, "dtype", "") != "f32":
        return Support.no("its frequencies must be an f32 weight")
    return Support.fast()


def _cache(node: ir.Node) -> Support:
    other = {o.type.dtype for o in node.operands if isinstance(o.type, ir.CacheType)} - set(CACHES)
    if other:
        return Support.no(f"its caches hold {' or '.join(CACHES)}, not {other.pop()}")
    for scale in node.operands[SCALES[node.op] :]:
        known = isinstance(scale, ir.Weight) or isinstance(scale.type, ir.CacheType)
        if not known or getattr(scale.type, "dtype", "") != "f32":
            return Support.no("the scales of its caches must be f32 weights, or caches themselves")
    return Support.fast()


def _slice(node: ir.Node) -> Support:
    rank = len(node.operands[0].type.shape)
    axis = node.attributes["axis"]
    ok = isinstance(axis, int) and axis % rank == 1
    return Support.fast() if ok else Support.no(f"it slices along axis 1, not {axis}")


def _reshape(node: ir.Node) -> Support:
    before, after = node.operands[0].type.shape, node.results[0].type.shape
    ok = before[:1] == after[:1]
    return Support.fast() if ok else Support.no("it can reshape within rows only, axis 0 stays")


def _anything(node: ir.Node) -> Support:
    values = all(isinstance(o, ir.Value) for o in node.operands)
    return Support.fast() if values else Support.no("its operands must be values, not weights")


RULES: dict[str, Callable[[ir.Node], Support]] = {
    "nn.embedding": _embedding,
    "nn.linear": _linear,
    "nn.rms_norm": _norm,
    "nn.rope": _rope,
    "nn.silu_mul": _anything,
    "nn.add": _anything,
    "quant.embedding": _embedding,
    "quant.linear": _linear,
    "cache.append": _cache,
    "attn.dense": _cache,
    "tensor.arange": _anything,
    "tensor.reshape": _reshape,
    "tensor.slice": _slice,
    "tensor.take": _anything,
}
"""The ops that have a kernel (or need none), and what they demand of a node."""
