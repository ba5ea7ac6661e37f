"""The GEMV plug-in in an ONNX network: its node, and a function that says in standard ops what it
computes, for tools that check or run networks without TensorRT. Knows no file.

TensorRT's parser looks a name up among functions before it looks among plug-ins, so that a network
for a board must not carry the function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from arkinfer_trt.kernels.gemv import (
    ATTRIBUTE,
    NAMESPACE,
    NODE,
    OP,
    OUTPUT,
    TENSORS,
    Gemv,
)

DOMAIN = NAMESPACE
"""Of the op in ONNX; TensorRT goes by the op's name alone."""


def gemv_node(gemv: Gemv, inputs: list[str], output: str, name: str) -> NodeProto:
    """The node that multiplies so.

    Args:
        gemv: the product.
        inputs: names of x, words and scale.
        output: name of y.
        name: the node's own.
    """
    attributes: dict[str, Any] = {ATTRIBUTE: gemv.attribute, **NODE}
    return helper.make_node(OP, inputs, [output], name=name, domain=DOMAIN, **attributes)


def gemv_function(opset: int) -> FunctionProto:
    """What a node computes: codes are unpacked in int64, and multiplied in float32.

    It is slow and takes much memory; tests run it, boards never.
    """
    body = _Body()
    sizes = body.add("Constant")
    reference = AttributeProto(name="value_ints", ref_attr_name=ATTRIBUTE, type=AttributeProto.INTS)
    body.nodes[-1].attribute.append(reference)
    body.nodes.append(helper.make_node("Split", [sizes], _SIZES, axis=0, num_outputs=4))
    one, two, last = body.numbers([1]), body.numbers([2]), body.numbers([-1])
    per_word = body.add("Div", body.numbers([32]), "bits")
    places = body.add("Range", body.numbers(0), body.add("Squeeze", per_word), body.numbers(1))
    factors = body.add("Pow", two, body.add("Mul", places, "bits"))
    unsigned = body.add(
        "Mod", body.add("Cast", "words", to=TensorProto.INT64), body.numbers([1 << 32])
    )
    shifted = body.add("Div", body.add("Unsqueeze", unsigned, last), factors)
    codes = body.add("Mod", shifted, body.add("Pow", two, "bits"))
    rows = body.add("Transpose", codes, perm=[0, 2, 1, 3])
    groups = body.add("Div", "inputs", "group")
    grouped = body.add("Reshape", rows, body.add("Concat", last, groups, "group", axis=0))
    middle = body.add("Pow", two, body.add("Sub", "bits", one))
    values = body.float32(body.add("Sub", grouped, middle))
    by_row = body.add("Transpose", "scale", perm=[0, 2, 1])
    units = body.add("Reshape", by_row, body.add("Concat", last, groups, one, axis=0))
    weights = body.add("Mul", values, body.float32(units))
    padded = body.add("Reshape", weights, body.add("Concat", last, "inputs", axis=0))
    matrix = body.add("Slice", padded, body.numbers([0]), "width", body.numbers([0]))
    turned = body.add("Transpose", matrix, perm=[1, 0])
    product = body.add("MatMul", body.float32("x"), turned)
    body.nodes.append(helper.make_node("CastLike", [product, "x"], [OUTPUT]))
    opsets = [helper.make_opsetid("", opset)]
    names = [ATTRIBUTE, *NODE]
    return helper.make_function(DOMAIN, OP, list(TENSORS), [OUTPUT], body.nodes, opsets, names)


_SIZES = ["bits", "group", "inputs", "width"]
"""The order of `Gemv.attribute`."""


class _Body:
    """Nodes of a function; names are numbers, but for those given."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def numbers(self, values: npt.ArrayLike) -> str:
        """Whole ones."""
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(values, np.int64)))

    def float32(self, name: str) -> str:
        return self.add("Cast", name, to=TensorProto.FLOAT)
