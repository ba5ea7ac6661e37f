"""Networks as ONNX Runtime's CPU runs them, with their weights in them and plug-ins by functions.

For proofs in float32, in which our kernels do not compute, so that no device would take them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from arkinfer.artifact import Artifact
from arkinfer_trt.embedding import Embedding
from arkinfer_trt.numbers import whole
from arkinfer_trt.section import Network, TensorRTSection
from tests.backends.trt.fake.network import with_functions

Array = npt.NDArray[Any]


def session(artifact: Artifact, file: str) -> onnxruntime.InferenceSession:
    """Of a network of the section, or a probe."""
    facts = TensorRTSection.from_json(artifact.sections["tensorrt"].config)
    model = with_functions(onnx.load_from_string(artifact.read(file)))
    inputs = {value.name: value.type.tensor_type for value in model.graph.input}
    for weight in facts.weights:
        if inputs.keys() >= set(weight.inputs):
            for name, numbers in whole(artifact, weight, facts.dtype).items():
                kind = inputs[name]
                model.graph.initializer.add(
                    name=name, data_type=kind.elem_type, raw_data=numbers.tobytes(),
                    dims=[d.dim_value for d in kind.shape.dim],
                )  # fmt: skip
    settings = onnxruntime.SessionOptions()
    # Higher optimizations fuse int4 weights wrongly.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


class Sequence:
    """Steps of one sequence, with logits of all rows."""

    def __init__(self, artifact: Artifact, network: Network) -> None:
        self.facts = TensorRTSection.from_json(artifact.sections["tensorrt"].config)
        self.session = session(artifact, self.facts.networks[network])
        self.embedding = Embedding(artifact, self.facts)
        self.caches = {c.name: np.zeros(c.shape, self.facts.dtype) for c in self.facts.caches}
        self.length = 0

    def step(self, tokens: Array) -> Array:
        count = len(tokens)
        hidden = np.empty((count, self.facts.hidden_size), self.facts.dtype)
        self.embedding.look_up(tokens, hidden)
        feeds: dict[str, Any] = {
            "hidden": hidden[None],
            "positions": np.arange(self.length, self.length + count)[None],
            "length": np.array([self.length]),
            "keys": np.arange(self.facts.window(self.length + count))[None, None, None],
            "rows": np.arange(count),
            **{f"past.{name}": cache for name, cache in self.caches.items()},
        }
        names = ["logits", *(f"present.{name}" for name in self.caches)]
        logits, *caches = self.session.run(names, feeds)
        self.caches = dict(zip(self.caches, caches, strict=True))
        self.length += count
        return logits[0]
