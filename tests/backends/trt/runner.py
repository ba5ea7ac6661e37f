"""Runs a TensorRT network on ONNX Runtime's CPU: for tests alone, and no substitute for a board.

It does what a program on a board has to do: bind the inputs, feed every cache back, and know the
length. Graph optimizations stay basic: the higher ones fuse int4 weights wrongly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from arkinfer.artifact import Artifact, Section
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


def network(artifact: Artifact, section: Section) -> onnx.ModelProto:
    """The network; its external data lie in the .ark file itself."""
    model = onnx.load_from_string(artifact.read(section.config["network"]))
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            facts = {entry.key: entry.value for entry in tensor.external_data}
            offset, size = artifact.location(facts["location"].removeprefix("weights/"))
            assert size == int(facts["length"])
            del tensor.external_data[:]
            location = {"location": Path(artifact.path).name, "offset": offset, "length": size}
            for key, value in location.items():
                tensor.external_data.add(key=key, value=str(value))
    return model


class TensorRTOnCpu:
    name = "tensorrt"

    def open(self, artifact: Artifact, section: Section, options: LoadOptions) -> Network:
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.intra_op_num_threads = options.threads or 1
        settings.log_severity_level = 4
        key = "session.model_external_initializers_file_folder_path"
        settings.add_session_config_entry(key, str(Path(artifact.path).parent))
        session = onnxruntime.InferenceSession(
            network(artifact, section).SerializeToString(),
            settings,
            providers=["CPUExecutionProvider"],
        )
        return Network(session, section.config)


class Network:
    features: frozenset[str] = frozenset()

    def __init__(self, session: onnxruntime.InferenceSession, config: dict[str, Any]) -> None:
        self.session: onnxruntime.InferenceSession | None = session
        self.config = config
        self.vocab_size: int = config["vocab_size"]
        self.max_context: int = config["context"]
        self.chunk: int = config["chunk"]

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
        self.caches: dict[str, Any] = {
            c["name"]: np.zeros(c["shape"], owner.config["dtype"]) for c in owner.config["caches"]
        }

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        if self.owner.session is None:
            raise closed()
        tokens = check_tokens(self.owner, self, tokens, taps)
        count = len(tokens)
        wanted = np.arange(count) if rows == "all" else np.array([count - 1])
        feeds = {
            "tokens": tokens[None],
            "rows": wanted,
            "positions": np.arange(self.length, self.length + count)[None],
            "length": np.array([self.length]),
            **{f"past.{name}": cache for name, cache in self.caches.items()},
        }
        names = ["logits", *(f"present.{name}" for name in self.caches)]
        logits, *caches = self.owner.session.run(names, feeds)
        self.caches = dict(zip(self.caches, caches, strict=True))
        self.length += count
        return StepOutput(logits[0] if rows != "none" else logits[0, :0])

    def truncate(self, length: int) -> None:
        check_length(self, length)
        self.length = length
