"""Builds modules and artifacts for the tests of the TVM backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from arkinfer import ir
from arkinfer.artifact import ArtifactWriter, Section, open_artifact
from arkinfer.backend import Work
from arkinfer.models.config import ModelConfig, Rope
from arkinfer.packing import QuantizedTensor, Scheme, encode, parse_scheme
from arkinfer.passes.quantize_cache import QuantizeCache
from arkinfer.runtime.contract import LoadOptions
from arkinfer.targets import Target, load_target
from arkinfer.testing.dense import dense_module
from arkinfer_tvm.compiler import TvmCompiler
from arkinfer_tvm.executor import TvmExecutable, TvmExecutor

Array = np.ndarray[Any, Any]


def quantize(matrix: Array, scheme: Scheme, scale_dtype: Any = np.float32) -> QuantizedTensor:
    """Plain round-to-nearest of any scheme; tests need no quality, only known numbers."""
    rows, columns = matrix.shape
    order = None
    if scheme.act_order:
        order = np.random.default_rng(columns).permutation(columns).astype(np.int32)
        matrix = matrix[:, order]
    group = scheme.group_size(columns)
    x = matrix.astype(np.float32).reshape(rows, columns // group, group)
    top = (1 << scheme.bits) - 1
    zero = low = None
    if scheme.offset == "none":
        scale = np.abs(x).max(-1) / (top / 2) + 1e-6
    else:
        scale = (x.max(-1) - x.min(-1)) / top + 1e-6
    scale = scale.astype(scale_dtype)
    wide = scale.astype(np.float32)[..., None]
    if scheme.offset == "min":
        low = x.min(-1).astype(scale_dtype)
        codes = (x - low.astype(np.float32)[..., None]) / wide
    elif scheme.offset == "zero":
        zero = np.clip(np.rint(-x.min(-1) / wide[..., 0]), 0, top).astype(np.uint8)
        codes = x / wide + zero[..., None]
    else:
        codes = x / wide + scheme.midpoint
    final = np.clip(np.rint(codes), 0, top).astype(np.uint8)
    return encode(scheme, final, scale, zero=zero, min=low, order=order)


class Store:
    """Seeded weights of any module, derived ones as their rules say; a `RowStore`."""

    def __init__(self, module: ir.Module, seed: int = 0) -> None:
        self.module, self.seed = module, seed
        self._loaded: dict[str, Any] = {}

    def load(self, weight: ir.Weight) -> Any:
        if weight.name not in self._loaded:
            self._loaded[weight.name] = self._make(weight)
        return self._loaded[weight.name]

    def rows(self, weight: ir.Weight, start: int, stop: int) -> Any:
        whole = self.load(weight)
        if isinstance(whole, QuantizedTensor):
            return whole.rows(slice(start, stop))
        return whole[start:stop]

    def _make(self, weight: ir.Weight) -> Any:
        if weight.source is None:
            return self._draw(weight)
        inputs = [self.load(self.module.weights[name]) for name in weight.source.inputs]
        facts = dict(weight.source.attributes)
        if weight.source.rule == "concat":
            return np.concatenate(inputs)
        if weight.source.rule == "scale":
            return inputs[0].astype(np.float32) * np.float32(facts["by"])
        assert weight.source.rule == "rtn"
        return quantize(inputs[0], parse_scheme(str(facts["scheme"])))

    def _draw(self, weight: ir.Weight) -> Array:
        assert isinstance(weight.type, ir.TensorType)
        if weight.name.endswith("inv_freq"):
            half = int(str(weight.type.shape[0]))
            return (10000.0 ** (-np.arange(half) / half)).astype(np.float32)
        if weight.name.startswith("cache_scales."):  # k and v are about standard normal
            shape = tuple(int(str(d)) for d in weight.type.shape)
            return np.linspace(0.02, 0.04, int(np.prod(shape)), dtype=np.float32).reshape(shape)
        drawn = ir.RandomWeights(self.seed).load(replace(weight, source=None))
        assert isinstance(drawn, np.ndarray)
        wide = drawn.astype(np.float32)
        if wide.ndim == 1:
            wide = 1 + wide / 10
        else:
            wide /= np.sqrt(wide.shape[1])
        return wide.astype(ir.DTYPES[weight.type.dtype])


@dataclass
class Collector:
    """A `SectionWriter` that streams into an artifact."""

    writer: ArtifactWriter
    store: Store
    tensors: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    requires: dict[str, str] = field(default_factory=dict)

    def weight(self, weight: ir.Weight) -> dict[str, str]:
        loaded = self.store.load(weight)
        parts = loaded.parts() if isinstance(loaded, QuantizedTensor) else {"": loaded}
        return {
            part: self.tensor(
                f"{weight.name}.{part}" if part else weight.name,
                ml_dtypes.bfloat16.__name__
                if array.dtype == ml_dtypes.bfloat16
                else str(array.dtype),
                array.shape,
                [array],
            )
            for part, array in parts.items()
        }

    def tensor(self, name: str, dtype: str, shape: tuple[int, ...], chunks: Iterable[Array]) -> str:
        if not self.writer.has_tensor(name):
            self.writer.add_tensor(name, dtype, shape, chunks)
        self.tensors.append(name)
        return name

    def file(self, name: str, data: bytes) -> str:
        entry = f"backends/tvm/{name}"
        self.writer.add_bytes(entry, data)
        return entry

    def made(self, works: Sequence[Work]) -> list[bytes]:
        return [work.make() for work in works]

    def configure(
        self,
        config: Mapping[str, Any],
        requires: Mapping[str, str],
        variants: Sequence[str] = (),
    ) -> None:
        self.config, self.requires, self.variants = dict(config), dict(requires), tuple(variants)


Maker = Callable[..., Path]


def _make_artifact(path: Path, module: ir.Module, store: Store, target: Target) -> Path:
    with ArtifactWriter(path) as writer:
        out = Collector(writer, store)
        TvmCompiler().compile(module, target, out)
        names = tuple(dict.fromkeys(out.tensors))
        writer.add_section(Section("tvm", out.config, out.requires, names, variants=out.variants))
        return writer.commit(
            {
                "model": {"name": "tiny", "architecture": "MiniCPMForCausalLM"},
                "context": module.attributes["context"],
                "quant": "none",
                "dtype": "fp32",
                "target": {"name": target.name},
                "tokens": {"bos": 1, "stop": [2]},
            }
        )


@dataclass
class Model:
    """A module, its weights, and the artifact that was compiled from it."""

    module: ir.Module
    store: Store
    path: Path
    allowed: float = 2e-5
    """The largest error of a logit, as a part of the largest logit."""

    def expected(self, tokens: Array) -> Array:
        """The interpreter's logits of all tokens."""
        step = self.module.functions["step"]
        inputs: dict[str, Array] = {"tokens": tokens, "rows": np.arange(len(tokens))}
        for value in step.inputs:
            if isinstance(value.type, ir.CacheType):
                heads, size = (int(str(d)) for d in value.type.shape[1:])
                inputs[value.name] = np.zeros((0, heads, size), ir.DTYPES[value.type.dtype])
        return ir.run_function(step, inputs, self.store)["logits"]

    def tokens(self, count: int, seed: int = 0) -> Array:
        vocabulary = int(str(self.module.attributes["vocab_size"]))
        return np.random.default_rng(seed).integers(0, vocabulary, count)


def config(**changes: Any) -> ModelConfig:
    """A small MiniCPM; vocabulary and context are no multiples of anything."""
    base = ModelConfig(
        architecture="MiniCPMForCausalLM",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=96,
        vocab_size=131,
        max_position_embeddings=96,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope=Rope(),
        embedding_scale=12.0,
        residual_scale=0.7,
        logit_divisor=4.0,
        torch_dtype="float32",
    )
    return replace(base, **changes)


MODELS: dict[str, tuple[ModelConfig, dict[str, Any]]] = {
    "tied f32": (config(), {}),
    "untied bf16, longrope factor, two kv heads": (
        config(
            num_key_value_heads=2,
            tie_word_embeddings=False,
            rope=Rope(10000.0, "longrope", (1.0,) * 8, (2.0,) * 8, 48),
        ),
        {"dtype": "bf16"},
    ),
    "int4-g32, head int8-row": (
        config(),
        {"linear": Scheme(4, 32), "embedding": Scheme(8, 0)},
    ),
    "int4-g16-asym, plain llama": (
        config(embedding_scale=1.0, residual_scale=1.0, logit_divisor=1.0),
        {"linear": Scheme(4, 16, "zero"), "embedding": Scheme(4, 16, "zero"), "dtype": "bf16"},
    ),
}
"""Config and options of `dense_module`, by name."""


@pytest.fixture(scope="session")
def make_artifact() -> Maker:
    """make_artifact(path, module, store, target): compiles a module into an .ark file."""
    return _make_artifact


@pytest.fixture(scope="session")
def make_store() -> Callable[..., Store]:
    """make_store(module, seed=): seeded weights."""
    return Store


@pytest.fixture(scope="session")
def quantized() -> Callable[..., QuantizedTensor]:
    """quantized(matrix, scheme, scale_dtype=): round to nearest."""
    return quantize


@pytest.fixture(scope="session", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Every model of `MODELS`, compiled once."""
    return _model(request.param, tmp_path_factory)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One quantized model, for tests that are not about numbers."""
    return _model("int4-g32, head int8-row", tmp_path_factory)


@pytest.fixture(scope="session", params=["token", "channel"])
def int8_caches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose keys and values are kept in int8, with either kind of scales."""
    module = dense_module(config(num_key_value_heads=2), context=40, chunk=24)
    QuantizeCache(request.param).run(module)
    ir.verify_module(module)
    store = Store(module)
    path = tmp_path_factory.mktemp("tvm") / "int8.ark"
    return Model(module, store, _make_artifact(path, module, store, load_target("cpu")))


_made: dict[str, Model] = {}


def _model(name: str, factory: pytest.TempPathFactory) -> Model:
    if name not in _made:
        shape, options = MODELS[name]
        module = dense_module(shape, context=80, chunk=24, **options)
        store = Store(module)
        path = factory.mktemp("tvm") / "model.ark"
        made = _make_artifact(path, module, store, load_target("cpu"))
        # Activations are rounded to int8; measured: up to 0.009.
        allowed = 0.03 if "linear" in options else 2e-5
        _made[name] = Model(module, store, made, allowed)
    return _made[name]


Opener = Callable[..., TvmExecutable]


@pytest.fixture
def opened() -> Iterator[Opener]:
    """opened(path, threads=, **config): an executable; closed after the test."""
    things: list[Any] = []

    def open_it(path: Path, threads: int | None = 2, **changes: Any) -> TvmExecutable:
        artifact = open_artifact(path)
        things.append(artifact)
        section = artifact.sections["tvm"]
        changed = replace(section, config={**section.config, **changes})
        executable = TvmExecutor().open(artifact, changed, LoadOptions(threads))
        things.append(executable)
        return executable

    yield open_it
    for thing in reversed(things):
        thing.close()
