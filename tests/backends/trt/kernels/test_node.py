"""The node of the GEMV plug-in: ONNX checks it, and its function computes what the kernel does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from arkinfer.packing import parse_scheme
from arkinfer_trt.graph import IR_VERSION, OPSET
from arkinfer_trt.kernels.gemv import Gemv
from arkinfer_trt.kernels.layout import repacked
from arkinfer_trt.kernels.node import DOMAIN, gemv_function, gemv_node
from tests.backends.trt.kernels.problems import error, inputs, matrix, product


def network(gemv: Gemv, parts: dict[str, Any]) -> onnx.ModelProto:
    """x [1, T, inputs] times one matrix."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, "T", gemv.inputs])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, "T", gemv.width])
    weights = [numpy_helper.from_array(part, name) for name, part in parts.items()]
    node = gemv_node(gemv, ["x", "words", "scale"], "y", "layer/ArkGemv")
    return helper.make_model(
        helper.make_graph([node], "step", [x], [y], weights),
        functions=[gemv_function(OPSET)],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=IR_VERSION,
    )


@pytest.mark.parametrize(
    ("scheme", "shape"),
    [
        *[("int4-g32", (5, 96)), ("int4-row", (8, 64)), ("int4-g128", (1, 256))],
        *[("int2-g64", (7, 128)), ("int2-row", (4, 48)), ("int8-g64", (6, 192))],
    ],
)
def test_the_function_computes_the_product(scheme: str, shape: tuple[int, int]) -> None:
    weights = matrix(parse_scheme(scheme), *shape, seed=3)
    model = network(Gemv.of(weights.scheme, shape), repacked(weights))
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = inputs(3, shape[1], 4)
    (y,) = session.run(None, {"x": x[None]})
    assert y.dtype == np.float16
    assert error(y[0], product(x, weights)) <= 1e-3


def test_the_node_says_what_the_parser_of_tensorrt_needs() -> None:
    node = gemv_node(Gemv(2, 64, 64, 5), ["a", "b", "c"], "d", "n")
    assert (node.op_type, node.domain, list(node.input)) == ("ArkGemv", "arkinfer", ["a", "b", "c"])
    assert {a.name: helper.get_attribute_value(a) for a in node.attribute} == {
        "matrix": [2, 64, 64, 5],
        "plugin_namespace": b"arkinfer",
        "plugin_version": b"1",
        "aot": 1,
    }
