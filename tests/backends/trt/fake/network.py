"""What a fake engine computes: an ONNX network on ONNX Runtime's CPU, plug-ins by their function.

Graph optimizations stay basic: the higher ones fuse int4 weights wrongly.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from arkinfer_trt.kernels.gemv import NAMESPACE, OP
from arkinfer_trt.kernels.node import gemv_function

Array = npt.NDArray[Any]

ITEMS: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.INT4: np.dtype(ml_dtypes.int4),
}


class Tensor:
    """An input or an output of a network.

    Attributes:
        shape: -1 where it varies.
        dtype: TensorProto's number.
    """

    def __init__(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        dims = kind.shape.dim
        self.name, self.dtype = value.name, kind.elem_type
        self.shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape, dtype=np.int64)) * ITEMS[self.dtype].itemsize


def with_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that tools without the plug-in understand."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (opset,) = (entry.version for entry in copy.opset_import if entry.domain == "")
    if any(node.op_type == OP for node in copy.graph.node):
        copy.functions.append(gemv_function(opset))
        if all(entry.domain != NAMESPACE for entry in copy.opset_import):
            copy.opset_import.append(helper.make_opsetid(NAMESPACE, 1))
    return copy


class Network:
    """A network that runs.

    Inputs of plug-ins that are weights are folded when they are first seen, as unpacking them takes
    longer than all the rest; `versions` tell when they have changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        given = {tensor.name for tensor in model.graph.initializer}
        self.inputs = {v.name: Tensor(v) for v in model.graph.input if v.name not in given}
        self.outputs = {v.name: Tensor(v) for v in model.graph.output}
        self.ops = frozenset(node.op_type for node in model.graph.node)
        self.aliases = {
            node.output[0]: node.input[0]
            for node in model.graph.node
            if node.op_type == "TensorScatter"
        }
        packed = {name for n in model.graph.node if n.op_type == OP for name in n.input[1:]}
        self.folded = sorted(packed & self.inputs.keys())
        self._sessions: dict[Any, onnxruntime.InferenceSession] = {}

    def run(self, feeds: dict[str, Array], versions: Any) -> dict[str, Array]:
        """The outputs by name; `versions` identify the numbers of `folded`."""
        if versions not in self._sessions:
            self._sessions = {versions: self._session({n: feeds[n] for n in self.folded})}
        session = self._sessions[versions]
        names = list(self.outputs)
        fed = {name: array for name, array in feeds.items() if name not in self.folded}
        return dict(zip(names, session.run(names, fed), strict=True))

    def _session(self, folded: dict[str, Array]) -> onnxruntime.InferenceSession:
        model = with_functions(self.model)
        kept = [value for value in model.graph.input if value.name not in folded]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in folded.items())
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 4
        return onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
