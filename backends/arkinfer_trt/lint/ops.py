"""Rules of TensorRT that concern one kind of node each, and that the table cannot say: each gives
its name and what is wrong. Knows no torch path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

from onnx import NodeProto

from arkinfer.errors import UnsupportedError
from arkinfer_trt.kernels.gemv import ATTRIBUTE, NAMESPACE, NODE, OP, OUTPUT, TENSORS
from arkinfer_trt.lint.network import Network, Value, attributes, product
from arkinfer_trt.lint.rules import RULES

Found: TypeAlias = Iterator[tuple[str, str]]

MOST_K = 3840
"""TopK finds fewer than that."""

KERNEL = dict(zip((*TENSORS, OUTPUT), ("f16", "i32", "f16", "f16"), strict=True))
"""Types of the GEMV plug-in's tensors."""


def attention(network: Network, node: NodeProto) -> Found:
    q, k, v = (network.value(name) for name in node.input[:3])
    heads = [_size(each, 1) for each in (q, k, v)]
    if None not in heads and (heads[1] != heads[2] or (heads[0] or 0) % (heads[1] or 1)):
        text = "{} heads of queries cannot share {} of keys and {} of values"
        yield "attention-heads", text.format(*heads)
    mask = network.value(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if mask is None:
        return
    if mask.dtype not in ("bool", q.dtype):
        yield "attention-mask", f"attn_mask is {mask.dtype}; it is bool, or {q.dtype} like Q"
    given, keys = _size(mask, 3), _size(k, 2)
    if given != keys:
        sizes = ["as many as a step says" if n is None else str(n) for n in (given, keys)]
        yield "attention-mask", "attn_mask is for {} keys, and K has {}".format(*sizes)


def cache(network: Network, node: NodeProto) -> Found:
    past, present = node.input[0], node.output[0]
    before, after = network.value(past), network.value(present)
    if past not in network.inputs:
        yield "cache-input", f"the cache {past} has to be an input of the network"
    if present not in network.outputs:
        yield "cache-output", f"the cache {present} has to be an output of the network"
    if before.shape is None or None in before.shape:
        yield "cache-static", f"the cache {past} is {before}; each of its sizes has to be a number"
    elif after != before:
        yield "cache-output", f"{present} is {after}, and {past} is {before}; they share memory"
    others = [other.op_type for other in network.readers[past] if other.output[0] != present]
    if others:
        text = f"it overwrites {past} in place, which {', '.join(others)} reads"
        yield "cache-readers", f"{text}; {present} is what others may read"


def top_k(network: Network, node: NodeProto) -> Found:
    numbers = network.numbers(node.input[1])
    if numbers is not None and numbers.size and not 0 < (k := int(numbers.flat[0])) < MOST_K:
        yield "top-k", f"K is {k}; TensorRT finds fewer than {MOST_K}"


def cast(network: Network, node: NodeProto) -> Found:
    (row,) = RULES["Cast"].types
    made = network.value(node.output[0]).dtype
    if made not in row.allowed:
        yield "types", f"it casts to {made}; TensorRT casts to {', '.join(row.allowed)}"


def int4(network: Network, node: NodeProto) -> Found:
    codes, scale = (network.value(name) for name in node.input[:2])
    numbers = network.numbers(node.input[1])
    if numbers is not None and not (numbers > 0).all():
        yield "int4-scale", "some of its scales are not positive; a group of zeros has any other"
    if codes.shape is None or scale.shape is None or codes.rank != scale.rank:
        text = f"its codes are {codes} and its scales {scale}"
        yield "int4-blocks", f"{text}; they have to have as many axes"
        return
    sizes = [(n, s) for n, s in zip(codes.shape, scale.shape, strict=True) if n and s]
    if len(sizes) < len(codes.shape):
        text = f"its codes are {codes} and its scales {scale}"
        yield "int4-blocks", f"{text}; each size has to be a positive number"
        return
    count = math.prod(n for n, _ in sizes)
    if count % 2:
        yield "int4-even", f"it has {count} codes; two share a byte, so there has to be another"
    blocked = [axis for axis, (n, s) in enumerate(sizes) if n != s]
    if len(blocked) != 1 or blocked[0] < len(sizes) - 2:
        text = f"its codes are {codes} and its scales {scale}"
        yield "int4-blocks", f"{text}; they differ along one axis, the last or that before"
        return
    n, s = sizes[blocked[0]]
    given = attributes(node)
    size, axis = given.get("block_size", 0), given.get("axis", 1)
    if size * s != n or axis % len(sizes) != blocked[0]:
        text = f"blocks of {size} along axis {axis}"
        yield "int4-blocks", f"{text} do not fit {n} codes with {s} scales along axis {blocked[0]}"


def plugin(network: Network, node: NodeProto) -> Found:
    """A node outside of ONNX's own domain."""
    if node.op_type in RULES or node.op_type.startswith("TRT_"):
        text = f"TensorRT's parser has an op {node.op_type} of its own"
        yield "plugin-name", f"{text}, and goes by the name alone; the plug-in needs another"
        return
    if (node.domain, node.op_type) != (NAMESPACE, OP):
        text = f"there is no plug-in {node.domain}::{node.op_type}"
        yield "plugin-name", f"{text}; there is {NAMESPACE}::{OP}"
        return
    given = attributes(node)
    for name, wanted in NODE.items():
        if (value := given.pop(name, None)) != wanted:
            yield "plugin-attributes", f"{name} is {value}, by which it is found; it is {wanted!r}"
    if others := sorted(set(given) - {ATTRIBUTE}):
        yield "plugin-attributes", f"the plug-in has no attribute {', '.join(others)}"
    if (len(node.input), len(node.output)) != (len(TENSORS), 1):
        yield "plugin-shapes", f"it reads {', '.join(TENSORS)}, and gives {OUTPUT}"
        return
    try:
        yield from _product(network, node)
    except UnsupportedError as error:
        yield "plugin-attributes", str(error).rstrip(".")


def _product(network: Network, node: NodeProto) -> Found:
    gemv = product(node)
    shapes: dict[str, tuple[int | None, ...]] = {"x": (1, None, gemv.inputs)}
    shapes |= {name: shape for name, (_, shape) in gemv.parts().items()}
    shapes |= {OUTPUT: (1, None, gemv.width)}
    for name, tensor in zip(shapes, (*node.input, *node.output), strict=True):
        value, wanted = network.value(tensor), Value(KERNEL[name], shapes[name])
        if value.dtype != wanted.dtype:
            yield "plugin-types", f"{name} is {value}; the kernel has {wanted}"
        elif not value.fits(wanted):
            yield "plugin-shapes", f"{name} is {value}; the kernel has {wanted}"


def _size(value: Value, axis: int) -> int | None:
    return value.shape[axis] if value.shape is not None and len(value.shape) > axis else None


OPS: dict[str, Callable[[Network, NodeProto], Found]] = {
    "Attention": attention,
    "Cast": cast,
    "DequantizeLinear": int4,
    "TensorScatter": cache,
    "TopK": top_k,
}
