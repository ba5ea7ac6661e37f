"""Artifacts with one ONNX Runtime section, made from modules built by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from arkinfer import ir
from arkinfer.artifact import ArtifactWriter, open_artifact
from arkinfer.compiler.section import SectionWriter
from arkinfer.compiler.weights import WeightStore
from arkinfer.errors import DeviceError
from arkinfer.ir import Builder, TensorType, Value, Weight, dim
from arkinfer.models.config import ModelConfig
from arkinfer.packing import QuantizedTensor, Scheme, encode
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


class ArrayLeaves:
    """Weights that a test made itself, by name."""

    def __init__(self, arrays: Mapping[str, Array | QuantizedTensor]) -> None:
        self._arrays = arrays

    def rows(self, name: str, start: int, stop: int) -> Array:
        found: Any = self._arrays[name]
        return found.rows(slice(start, stop)) if hasattr(found, "rows") else found[start:stop]


class Scratch:
    """A module in the making: a table of 16 rows, some ops, and the wanted rows of the result."""

    VOCAB, CONTEXT, CHUNK = 16, 64, 48

    def __init__(self, table: Array) -> None:
        self.arrays: dict[str, Array | QuantizedTensor] = {"table": table}
        attributes = {"context": self.CONTEXT, "chunk": self.CHUNK, "vocab_size": self.VOCAB}
        self.module = ir.Module(attributes=dict(attributes))
        self.b = Builder(ir.infer_types)
        self.tokens = Value(TensorType("i64", (dim("T"),)), "tokens")
        self.rows = Value(TensorType("i64", (dim("R"),)), "rows")
        self.b.loc = "embed"
        kind = ir.types.dtype_name(table.dtype)
        weight = self.weight("table", TensorType(kind, table.shape))
        self.x = self.b.add("nn.embedding", self.tokens, weight, scale=1.0)
        self.b.loc = "here"

    def weight(self, name: str, kind: Any) -> Weight:
        return self.module.add_weight(Weight(name, kind))

    def dense(self, name: str, array: Array) -> Weight:
        self.arrays[name] = array
        return self.weight(name, TensorType(ir.types.dtype_name(array.dtype), array.shape))

    def quantized(self, name: str, tensor: QuantizedTensor) -> Weight:
        self.arrays[name] = tensor
        return self.weight(name, ir.QuantizedType(tensor.scheme, tensor.shape))

    def multiply(self, weight: Weight, activations: str = "any") -> Value:
        return self.b.add("quant.linear", self.x, weight, activations=activations)

    def finish(
        self, result: Value, caches: list[Value] | None = None, new: list[Value] | None = None
    ) -> ir.Module:
        """`step(tokens, rows, …) -> logits, …` with `result` [T, width] at the wanted rows."""
        logits = self.b.add("tensor.take", result, self.rows)
        caches = caches or []
        function = ir.Function(
            "step",
            [self.tokens, self.rows, *caches],
            self.b.nodes,
            [logits, *(new or [])],
            ["logits", *(cache.name for cache in caches)],
        )
        self.module.functions["step"] = function
        self.module.attributes["vocab_size"] = logits.tensor.shape[-1]
        ir.verify_module(self.module)
        return self.module

    @property
    def leaves(self) -> ArrayLeaves:
        return ArrayLeaves(self.arrays)


def random_matrix(scheme: Scheme, shape: tuple[int, int], seed: int) -> QuantizedTensor:
    """Random codes, scales and zero points."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    size = scheme.group_size(columns)
    groups = columns // size
    codes = rng.integers(0, 1 << scheme.bits, (rows, groups, size), dtype=np.uint8)
    scale = rng.uniform(0.5, 1.5, (rows, groups)).astype(np.float32) / np.float32(1 << scheme.bits)
    zero = None
    if scheme.offset == "zero":
        zero = rng.integers(0, 1 << scheme.bits, (rows, groups), dtype=np.uint8)
    order = None
    if scheme.act_order:
        order = rng.permutation(columns).astype(np.int32)
    return encode(scheme, codes, scale, zero=zero, order=order)


def write(module: ir.Module, store: WeightStore, path: Path) -> Path:
    """A whole artifact with the module's section."""
    compiler = OnnxRuntimeCompiler()
    with ArtifactWriter(path) as artifact:
        section = SectionWriter(compiler.name, artifact, store)
        compiler.compile(module, load_target("cpu"), section)
        section.finish()
        return artifact.commit({**FACTS, "context": module.attributes["context"]})


@pytest.fixture
def scratch() -> Callable[[Array], Scratch]:
    return Scratch


@pytest.fixture
def matrix() -> Callable[..., QuantizedTensor]:
    return random_matrix


@pytest.fixture
def leaves_of() -> Callable[..., ConfigLeaves]:
    return ConfigLeaves


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """build(module, leaves, name) -> the path of an artifact."""

    def make(module: ir.Module, leaves: Any, name: str = "model.ark") -> Path:
        return write(module, WeightStore(module.weights, leaves), tmp_path / name)

    return make


@pytest.fixture
def write_section() -> Callable[[ir.Module, Any, Path], Path]:
    """write_section(module, store, path) -> the path of an artifact."""
    return write


@pytest.fixture
def load() -> Iterator[Callable[..., OnnxRuntimeExecutable]]:
    """load(path, threads) -> an executable, closed after the test."""
    opened: list[Any] = []

    def make(path: Path, threads: int | None = 2) -> OnnxRuntimeExecutable:
        artifact = open_artifact(path)
        opened.append(artifact)
        try:
            executable = OnnxRuntimeExecutor().open(
                artifact, artifact.sections["onnxruntime"], LoadOptions(threads)
            )
        except DeviceError as error:
            if not error.what.startswith("The artifact needs onnxruntime"):
                raise
            pytest.skip(str(error))
        opened.append(executable)
        return executable

    yield make
    for thing in reversed(opened):
        thing.close()


@pytest.fixture
def oracle() -> Callable[..., Array]:
    """oracle(module, leaves, tokens, dtype) -> logits of all tokens by the IR's own ops."""

    def run(module: ir.Module, leaves: Any, tokens: Array, dtype: Any = np.float32) -> Array:
        function = module.functions["step"]
        inputs: dict[str, Array] = {"tokens": tokens, "rows": np.arange(len(tokens))}
        for value in function.inputs:
            if isinstance(value.type, ir.CacheType):
                inputs[value.name] = np.zeros((0, *value.type.shape[1:]), np.float32)
        store = WeightStore(module.weights, leaves)
        return ir.run_function(function, inputs, store, dtype=dtype)["logits"]

    return run
