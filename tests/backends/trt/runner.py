"""Runs the networks on ONNX Runtime's CPU: for tests alone, and no substitute for a board.

It does what a program on a board has to do: look tokens up, put weights in form, make constants,
bind the inputs, feed every cache back, and know the length. Graph optimizations stay basic: the
higher ones fuse int4 weights wrongly.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from arkinfer.artifact import Artifact, Section
from arkinfer.packing import QuantizedTensor, parse_scheme
from arkinfer.runtime.contract import (
    IntArray,
    LoadOptions,
    Rows,
    StepOutput,
    check_context,
    check_length,
    check_tokens,
    closed,
)
from arkinfer_trt.graph import OPSET
from arkinfer_trt.kernels.layout import repacked
from arkinfer_trt.kernels.node import gemv_function
from arkinfer_trt.section import Network as Way
from arkinfer_trt.section import NetworkWeight, Stored, TensorRTSection

Array = Any


def numbers(artifact: Artifact, stored: Stored) -> Array | QuantizedTensor:
    """A tensor of the artifact."""
    parts = {part: artifact.tensor(name) for part, name in stored.parts.items()}
    if not stored.scheme:
        return parts[""]
    rows, columns = stored.shape
    return QuantizedTensor.from_parts(parse_scheme(stored.scheme), (rows, columns), parts)


def in_form(artifact: Artifact, weight: NetworkWeight, dtype: str) -> dict[str, Array]:
    """A weight as a network has it, by the names of its inputs."""
    found = numbers(artifact, weight.stored)
    if weight.form == "dense":
        assert isinstance(found, np.ndarray)
        return {weight.inputs[0]: found.astype(dtype)}
    assert isinstance(found, QuantizedTensor)
    if weight.form == "gemv":
        parts = repacked(found, dtype)
        return dict(zip(weight.inputs, (parts["words"], parts["scale"]), strict=True))
    codes = (found.unpacked().reshape(found.shape).astype(np.int8) - 8).T
    least = np.finfo(dtype).smallest_normal
    scale = np.maximum(found.scale.astype(dtype), least).T
    return dict(zip(weight.inputs, (codes.astype(ml_dtypes.int4), scale), strict=True))


def runnable(
    artifact: Artifact, section: Section, way: Way, file: str = ""
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A network, or another file of the section, that standard tools execute, and the weights that
    it has to be fed."""
    facts = TensorRTSection.from_json(section.config)
    model = onnx.load_from_string(artifact.read(file or facts.networks[way]))
    model.functions.append(gemv_function(OPSET))
    if not any(entry.domain == "arkinfer" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("arkinfer", 1))
    wanted = {value.name for value in model.graph.input}
    feeds: dict[str, Array] = {}
    for weight in facts.weights:
        if way in weight.networks and wanted >= set(weight.inputs):
            arrays = in_form(artifact, weight, facts.dtype)
            if weight.constant:
                made = (numpy_helper.from_array(array, name) for name, array in arrays.items())
                model.graph.initializer.extend(made)
            else:
                feeds |= arrays
    return model, feeds


def start(model: onnx.ModelProto, threads: int = 1) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


class TensorRTOnCpu:
    name = "tensorrt"

    def __init__(self, way: Way | None = None) -> None:
        self.way = way

    def open(self, artifact: Artifact, section: Section, options: LoadOptions) -> Network:
        facts = TensorRTSection.from_json(section.config)
        way = self.way or next(iter(facts.networks))
        model, feeds = runnable(artifact, section, way)
        table = numbers(artifact, facts.embedding)
        if isinstance(table, QuantizedTensor):
            table = table.dequantize()
        return Network(facts, start(model, options.threads or 1), feeds, table)


class Network:
    features: frozenset[str] = frozenset()

    def __init__(
        self,
        facts: TensorRTSection,
        session: onnxruntime.InferenceSession,
        feeds: dict[str, Array],
        table: Array,
    ) -> None:
        self.session: onnxruntime.InferenceSession | None = session
        self.facts, self.feeds, self.table = facts, feeds, table
        self.vocab_size, self.max_context = facts.vocab_size, facts.context
        self.chunk = facts.chunk

    def new_state(self, context: int) -> NetworkState:
        if self.session is None:
            raise closed()
        check_context(self, context)
        return NetworkState(self, context)

    def close(self) -> None:
        self.session = None


class NetworkState:
    def __init__(self, owner: Network, capacity: int) -> None:
        self.owner, self.capacity, self.length = owner, capacity, 0
        dtype = owner.facts.dtype
        self.caches: dict[str, Array] = {
            cache.name: np.zeros(cache.shape, dtype) for cache in owner.facts.caches
        }

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        owner = self.owner
        if owner.session is None:
            raise closed()
        tokens = check_tokens(owner, self, tokens, taps)
        count = len(tokens)
        hidden = owner.table[tokens].astype(np.float32) * np.float32(owner.facts.embedding_factor)
        feeds = {
            **owner.feeds,
            "hidden": hidden[None].astype(owner.facts.dtype),
            "rows": np.arange(count) if rows == "all" else np.array([count - 1]),
            "positions": np.arange(self.length, self.length + count)[None],
            "length": np.array([self.length]),
            **{f"past.{name}": cache for name, cache in self.caches.items()},
        }
        names = ["logits", *(f"present.{name}" for name in self.caches)]
        logits, *caches = owner.session.run(names, feeds)
        self.caches = dict(zip(self.caches, caches, strict=True))
        self.length += count
        return StepOutput(logits[0] if rows != "none" else logits[0, :0])

    def truncate(self, length: int) -> None:
        check_length(self, length)
        self.length = length
