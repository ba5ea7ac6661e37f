"""Artifacts with one ONNX Runtime section, made from modules built by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from arkinfer import ir
from arkinfer.artifact import ArtifactWriter, open_artifact
from arkinfer.compiler.section import SectionWriter
from arkinfer.compiler.weights import WeightStore
from arkinfer.models.config import ModelConfig
from arkinfer.runtime.contract import LoadOptions
from arkinfer.targets import load_target
from arkinfer.testing import random_rows
from arkinfer_ort.compiler import OnnxRuntimeCompiler
from arkinfer_ort.executor import OnnxRuntimeExecutable, OnnxRuntimeExecutor

FACTS: dict[str, Any] = {
    "model": {"name": "tiny", "architecture": "MiniCPMForCausalLM"},
    "quant": "test",
    "dtype": "fp32",
    "target": {"name": "cpu"},
    "tokens": {"bos": 1, "stop": [2]},
}

Array = npt.NDArray[Any]


class ConfigLeaves:
    """Seeded weights of a config, and the angles of its rotary embedding."""

    def __init__(self, config: ModelConfig, context: int, seed: int = 0) -> None:
        self._config, self._seed = config, seed
        self._angles = config.rope.inv_freq(config.head_dim, context)

    def rows(self, name: str, start: int, stop: int) -> Array:
        if name == "model.rotary.inv_freq":
            return self._angles[start:stop]
        return random_rows(self._config, self._seed, name, start, stop)


def write(module: ir.Module, store: WeightStore, path: Path) -> Path:
    """A whole artifact with the module's section."""
    compiler = OnnxRuntimeCompiler()
    with ArtifactWriter(path) as artifact:
        section = SectionWriter(compiler.name, artifact, store)
        compiler.compile(module, load_target("cpu"), section)
        section.finish()
        return artifact.commit({**FACTS, "context": module.attributes["context"]})


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """build(module, leaves) -> the path of an artifact."""

    def make(module: ir.Module, leaves: Any, name: str = "model.ark") -> Path:
        return write(module, WeightStore(module.weights, leaves), tmp_path / name)

    return make


@pytest.fixture
def load() -> Iterator[Callable[..., OnnxRuntimeExecutable]]:
    """load(path) -> an executable, closed after the test."""
    opened: list[Any] = []

    def make(path: Path, threads: int = 2) -> OnnxRuntimeExecutable:
        artifact = open_artifact(path)
        opened.append(artifact)
        executable = OnnxRuntimeExecutor().open(
            artifact, artifact.sections["onnxruntime"], LoadOptions(threads)
        )
        opened.append(executable)
        return executable

    yield make
    for thing in reversed(opened):
        thing.close()


@pytest.fixture
def leaves_of() -> Callable[..., ConfigLeaves]:
    return ConfigLeaves


@pytest.fixture
def oracle() -> Callable[..., Array]:
    """oracle(module, leaves, tokens, dtype) -> logits of all tokens by the IR's own ops."""

    def run(module: ir.Module, leaves: Any, tokens: Array, dtype: Any = np.float32) -> Array:
        function = module.functions["step"]
        store = WeightStore(module.weights, leaves)
        inputs: dict[str, Array] = {"tokens": tokens, "rows": np.arange(len(tokens))}
        for value in function.inputs:
            if isinstance(value.type, ir.CacheType):
                _, heads, size = value.type.shape
                inputs[value.name] = np.zeros((0, heads, size), np.float32)  # type: ignore[arg-type]
        return ir.run_function(function, inputs, store, dtype=dtype)["logits"]

    return run
