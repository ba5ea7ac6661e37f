"""A network as the rules see it: which values there are, and who makes and reads them.
Knows no rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import (
    AttributeProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from arkinfer.errors import InternalError, UnsupportedError
from arkinfer_trt.kernels.gemv import ATTRIBUTE, Gemv
from arkinfer_trt.lint.rules import DTYPES


@dataclass(frozen=True)
class Value:
    """Of a tensor: its dtype, "" where nobody knows, and its sizes, None where they vary; no
    shape where nobody knows the rank."""

    dtype: str
    shape: tuple[int | None, ...] | None

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    def fits(self, wanted: Value) -> bool:
        """Whether it is that, where sizes of `wanted` that vary may be anything."""
        if self.shape is None or wanted.shape is None or self.rank != wanted.rank:
            return False
        pairs = zip(self.shape, wanted.shape, strict=True)
        return self.dtype == wanted.dtype and all(w is None or n == w for n, w in pairs)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype or 'of unknown type'}, of unknown shape"
        return f"{self.dtype} [{', '.join('?' if n is None else str(n) for n in self.shape)}]"


UNKNOWN = Value("", None)


class Network:
    """A model and what ONNX infers of it.

    Args:
        model: is left as it is.
        constants: inputs that will be constants when TensorRT parses it.

    Raises:
        InternalError: it is no valid ONNX.
    """

    def __init__(self, model: ModelProto, constants: Iterable[str]) -> None:
        graph = model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.functions = [function.name for function in model.functions]
        self.opsets = {each.domain: each.version for each in model.opset_import}
        self.initializers = {each.name: each for each in graph.initializer}
        self.constants = {*self.initializers, *constants}
        self.constants |= {
            n for node in self.nodes if node.op_type == "Constant" for n in node.output
        }
        self.inputs = [v.name for v in graph.input if v.name not in self.constants]
        self.outputs = [v.name for v in graph.output]
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.values = _values(model)

    def value(self, name: str) -> Value:
        return self.values.get(name, UNKNOWN)

    def numbers(self, name: str) -> npt.NDArray[Any] | None:
        """Those of a constant that stand in the model itself."""
        tensor = self.initializers.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return np.asarray(numpy_helper.to_array(tensor))


def attributes(node: NodeProto) -> dict[str, Any]:
    """By name; text is str."""
    found: dict[str, Any] = {}
    for each in node.attribute:
        value: Any = helper.get_attribute_value(each)
        found[each.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found


def product(node: NodeProto) -> Gemv:
    """What a node of the GEMV plug-in multiplies by.

    Raises:
        UnsupportedError: its attribute says no product that the kernel does.
    """
    given = [a for a in node.attribute if a.name == ATTRIBUTE and a.type == AttributeProto.INTS]
    sizes = list(given[0].ints) if given else []
    if len(sizes) != 4:
        raise UnsupportedError(f"The attribute {ATTRIBUTE} has to be a list of four integers")
    return Gemv(*sizes)


def _values(model: ModelProto) -> dict[str, Value]:
    """What the model says of plug-ins' outputs, which ONNX cannot infer, is believed."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise InternalError("A network was made that is not ONNX", str(error)) from error
    found = {t.name: Value(_dtype(t.data_type), tuple(t.dims)) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        found[value.name] = _value(value)
    return found


def _value(value: ValueInfoProto) -> Value:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return Value(_dtype(kind.elem_type), None)
    sizes = (d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return Value(_dtype(kind.elem_type), tuple(sizes))


def _dtype(number: int) -> str:
    """As the rules call it; what no rule allows, by the name that ONNX has for it."""
    if number in DTYPES or not number:
        return DTYPES.get(number, "")
    return _ELEMENTS.get(number, f"type {number}")


_ELEMENTS: dict[int, str] = {n: name.lower() for name, n in TensorProto.DataType.items()}
