"""Activations as kernels round them, in numpy: what products in integers are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from arkinfer import ir
from arkinfer_tvm.layout import Stream
from arkinfer_tvm.stored import Stored

Array = np.ndarray[Any, Any]


STEPS = {"i8": 127, "any": 127, "i16": 127 * 128 + 63}
"""Of the largest of the activations that share a scale, by what a product takes them in."""


def rounded(
    x: Array, stream: Stream, order: Array | None = None, steps: int = STEPS["i8"]
) -> tuple[Array, Array]:
    """x [T, K] as codes and scales, each [T, K], in the order of its columns."""
    columns = np.arange(stream.columns) if order is None else order
    codes, scales = np.zeros(x.shape, np.float32), np.zeros(x.shape, np.float32)
    for group in columns.reshape(stream.groups, stream.group):
        for start in range(0, stream.group, stream.share):
            share = group[start : start + stream.share]
            some = x[:, share].astype(np.float32)
            scale = np.abs(some).max(axis=1, keepdims=True) / np.float32(steps)
            scale = np.maximum(scale, np.float32(2.0**-120))
            inverse = np.float32(1) / scale
            codes[:, share], scales[:, share] = np.rint(some * inverse), scale
    return codes, scales


def round_inputs(
    function: ir.Function, inputs: Mapping[str, Array], store: Any
) -> dict[str, Array]:
    """The inputs of a function whose products are of "x", or of columns 6 to 24 of it, with those
    rounded that are multiplied in integers."""
    given = dict(inputs)
    for node in function.nodes:
        if node.op == "quant.linear" and node.attributes["activations"] != "f32":
            whole = node.values[0] in function.inputs
            part = slice(None) if whole else slice(6, 24)
            weight = node.weights[0]
            stream = Stored(store, "x86_64", function).stream(weight)
            assert isinstance(stream, Stream)
            steps = STEPS[str(node.attributes["activations"])]
            order = store.load(weight).order
            codes, scales = rounded(inputs["x"][:, part], stream, order, steps)
            given["x"] = inputs["x"].copy()
            given["x"][:, part] = codes * scales
    return given
