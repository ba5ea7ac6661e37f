"""What the conformance suite runs: small models, every registered backend, and the oracle.

The oracle is the IR's own interpreter in float64 on the module as it was before any backend's
legalization. Nothing here knows how a backend works.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.artifact import ArtifactWriter, open_artifact
from arkinfer.backend import Compiler, Work, compiler
from arkinfer.compiler.kv_scales import cache_scales
from arkinfer.compiler.prepare import Lowered, legalize
from arkinfer.compiler.section import SectionWriter
from arkinfer.compiler.weights import WeightStore
from arkinfer.errors import DeviceError
from arkinfer.ir.types import evaluate
from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.packing import QuantizedTensor, Scheme, encode, parse_scheme
from arkinfer.passes.quantize_cache import CHANNEL, PREFIX, TOKEN, QuantizeCache
from arkinfer.passes.store_cache import StoreCache
from arkinfer.runtime import registry
from arkinfer.runtime.contract import Executable, Executor, LoadOptions
from arkinfer.targets import Target, load_target
from arkinfer.testing import preset, random_rows
from arkinfer.testing.dense import dense_module
from arkinfer_trt.kernels.gemv import Kernel
from arkinfer_trt.kernels.stored import kernel_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Array = npt.NDArray[Any]

SCALED = (TOKEN, CHANNEL)
"""Kinds of int8 caches, by what has a scale."""


ROOT = Path(__file__).parents[2]
ON_CPU = {"tensorrt": "tests.backends.trt.fake:TensorRTOnFake"}
"""Executors for tests alone, of backends whose artifacts need a device that is not here."""

TARGETS = {"tensorrt": "jetson-orin"}
"""What a backend is conformant for; "cpu" unless said here."""


def executors() -> dict[str, str]:
    """Every executor that pyproject.toml or an installed package registers, and those for tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    own: dict[str, str] = project["entry-points"][registry.GROUP]
    installed = {name: entry.value for name, entry in registry.executors().items()}
    return {**own, **installed, **ON_CPU}


@dataclass(frozen=True)
class Model:
    """A shape, how it is quantized, and what it was made to show.

    Attributes:
        name: "op variation", or what the whole model is.
        changes: keys of config.json that differ from `BASE`.
        linear, embedding: schemes by name; None: not quantized.
        activations: in products with quantized matrices, as the IR calls it.
        cache: its dtype as the IR calls it; or what int8 has scales for: "token", or "channel",
            calibrated on some tokens.
        dtype: of the checkpoint.
        context, chunk: of the artifact, in tokens.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    linear: str | None = None
    embedding: str | None = None
    activations: str = "any"
    cache: str = "f32"
    dtype: str = "float32"
    context: int = 48
    chunk: int = 16

    @cached_property
    def config(self) -> ModelConfig:
        return parse_config(preset("tiny", **{**BASE, **self.changes}, torch_dtype=self.dtype))

    @cached_property
    def module(self) -> ir.Module:
        module = self._dense()
        if self.cache in SCALED:
            QuantizeCache(self.cache).run(module)
        else:
            StoreCache(self.cache).run(module)
        return module

    def _dense(self) -> ir.Module:
        return dense_module(
            self.config,
            context=self.context,
            chunk=self.chunk,
            linear=parse_scheme(self.linear) if self.linear else None,
            embedding=parse_scheme(self.embedding) if self.embedding else None,
            activations=self.activations,
            dtype={"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[self.dtype],
        )

    @cached_property
    def leaves(self) -> Leaves:
        leaves = Leaves(self.config, self.context)
        if self.cache == "channel":
            module = self._dense()
            scales = cache_scales(
                module, LabStore(module.weights, leaves), self.tokens(64, 99).tolist()
            )
            leaves.others |= {f"{PREFIX}{name}": scale for name, scale in scales.items()}
        return leaves

    @property
    def store(self) -> LabStore:
        return LabStore(self.module.weights, self.leaves)

    def tokens(self, count: int, seed: int = 0) -> Array:
        return np.random.default_rng(seed).integers(0, self.config.vocab_size, count)


BASE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 157,
    "max_position_embeddings": 64,
    "rope_scaling": None,
}


class Leaves:
    """Seeded weights by Hugging Face names, and others: the angles of the rotary embedding."""

    def __init__(self, config: ModelConfig, context: int) -> None:
        self.config = config
        angles = config.rope.inv_freq(config.head_dim, context)
        self.others: dict[str, Array] = {"model.rotary.inv_freq": angles}

    def rows(self, name: str, start: int, stop: int) -> Array:
        if name in self.others:
            return self.others[name][start:stop]
        return random_rows(self.config, 3, name, start, stop)


class LabStore(WeightStore):
    """Also writes the schemes that only importers write: float minima, permuted inputs."""

    def rows(self, weight: ir.Weight, start: int, stop: int) -> Array | QuantizedTensor:
        kind = weight.type
        if not isinstance(kind, ir.QuantizedType):
            return super().rows(weight, start, stop)
        if kind.scheme.offset != "min" and not kind.scheme.act_order:
            return super().rows(weight, start, stop)
        assert weight.source is not None
        (name,) = weight.source.inputs
        dense = super().load(self._weights[name])
        assert isinstance(dense, np.ndarray)
        return imported(dense.astype(np.float32), kind.scheme).rows(slice(start, stop))


def imported(matrix: Array, scheme: Scheme) -> QuantizedTensor:
    """A matrix as GGUF or GPTQ would leave it."""
    rows, columns = matrix.shape
    order = None
    if scheme.act_order:
        order = np.random.default_rng(columns).permutation(columns).astype(np.int32)
        matrix = matrix[:, order]
    groups = matrix.reshape(rows, -1, scheme.group_size(columns))
    if scheme.offset == "min":
        low, high = groups.min(-1), groups.max(-1)
        scale, least = (high - low) / (2**scheme.bits - 1), low
    else:
        scale, least = np.abs(groups).max(-1) / (scheme.midpoint - 1), None
    base = -scale * scheme.midpoint if least is None else least
    codes = np.rint((groups - base[..., None]) / scale[..., None])
    codes = np.clip(codes, 0, 2**scheme.bits - 1).astype(np.uint8)
    return encode(scheme, codes, scale.astype(np.float32), min=least, order=order)


class NoKernels(SectionWriter):
    """TensorRT's: compiles no kernel for a GPU, which takes a second, and which no test that runs
    models launches; tests of kernels compile theirs."""

    def made(self, works: Sequence[Work]) -> list[bytes]:
        return [kernel_json(Kernel(work.name, f".entry {work.name}()", 128, 0)) for work in works]


class Lab:
    """Builds and opens each artifact once. `close` when done.

    Args:
        folder: where artifacts go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths: dict[tuple[str, str], Path] = {}
        self._open: dict[tuple[str, str], Executable] = {}
        self._closing: list[Any] = []
        self._answers: dict[tuple[str, bytes], Array] = {}

    def compiler(self, backend: str) -> Compiler:
        return compiler(backend)

    def target(self, backend: str) -> Target:
        return load_target(TARGETS.get(backend, "cpu"))

    def executor(self, backend: str) -> Executor:
        return EntryPoint(backend, executors()[backend], registry.GROUP).load()()

    def missing(self, backend: str) -> str | None:
        """Which library a backend lacks here, on either half; None: it has all."""
        try:
            self.compiler(backend)
            self.executor(backend)
        except DeviceError as error:
            return str(error)
        except ImportError as error:
            if (error.name or "").startswith(("arkinfer", "tests")):
                raise
            return f"{backend} needs the package {error.name}"
        return None

    def lowered(self, backend: str, model: Model) -> Lowered:
        """The model as the backend wants it.

        Raises:
            UnsupportedError: the backend refuses a node; what a user would read.
        """
        return legalize(model.module, self.compiler(backend), self.target(backend), None)

    def write(self, backend: str, model: Model, path: Path) -> Path:
        """An artifact with one section."""
        lowered, target = self.lowered(backend, model), self.target(backend)
        with ArtifactWriter(path) as artifact:
            store = LabStore(lowered.module.weights, model.leaves)
            writer = NoKernels if backend == "tensorrt" else SectionWriter
            section = writer(backend, artifact, store)
            lowered.compiler.compile(lowered.module, target, section)
            section.finish()
            return artifact.commit(self.facts(model, target.name))

    def facts(self, model: Model, target: str) -> dict[str, Any]:
        """The least that a manifest says."""
        return {
            "model": {"name": "lab", "architecture": model.config.architecture},
            "context": model.context,
            "quant": model.linear or "none",
            "dtype": "fp32",
            "target": {"name": target},
            "tokens": {"bos": 1, "stop": [2]},
        }

    def path(self, backend: str, model: Model) -> Path:
        key = (backend, model.name)
        if key not in self._paths:
            name = f"{backend}-{len(self._paths)}.ark"
            self._paths[key] = self.write(backend, model, self.folder / name)
        return self._paths[key]

    def open(self, backend: str, model: Model, options: LoadOptions | None = None) -> Executable:
        """A fresh executable, closed with the lab if not before."""
        artifact = open_artifact(self.path(backend, model))
        self._closing.append(artifact)
        section = artifact.sections[backend]
        executable = self.executor(backend).open(artifact, section, options or LoadOptions(2))
        self._closing.append(executable)
        return executable

    def executable(self, backend: str, model: Model) -> Executable:
        """The one that all tests share."""
        key = (backend, model.name)
        if key not in self._open:
            self._open[key] = self.open(backend, model)
        return self._open[key]

    def answer(self, model: Model, tokens: Array) -> Array:
        """The oracle's logits of all tokens, float64 [len(tokens), vocab]."""
        key = (model.name, tokens.tobytes())
        if key not in self._answers:
            step = model.module.functions["step"]
            inputs = {"tokens": tokens, "rows": np.arange(len(tokens)), **empty_caches(step)}
            outputs = ir.run_function(step, inputs, model.store, dtype=np.float64)
            self._answers[key] = outputs["logits"]
        return self._answers[key]

    def close(self) -> None:
        for thing in reversed(self._closing):
            thing.close()


def empty_caches(step: ir.Function) -> dict[str, Array]:
    """Of a sequence without tokens, by name."""
    kinds = {v.name: v.type for v in step.inputs if isinstance(v.type, ir.CacheType)}
    return {
        name: np.zeros([evaluate(d, {"S": 0}) for d in kind.shape], ir.DTYPES[kind.dtype])
        for name, kind in kinds.items()
    }


def error(got: Array, expected: Array) -> float:
    """The largest difference, in standard deviations of the expected logits."""
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    return float(np.abs(got - expected).max() / expected.std())
