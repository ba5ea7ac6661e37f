"""Runs the section of a TensorRT artifact in torch, with the kernels of the artifact where a CUDA
device is: the network node by node, weights as a board has them, caches in place, and decoding as a
CUDA graph. For checks alone: it shows what a network computes, not how fast TensorRT is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from arkinfer.artifact import Artifact, Section
from arkinfer.errors import UsageError
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
from arkinfer_trt.kernels.gemv import AnyTile, DotTile, Gemv, kernel_name, tactics
from arkinfer_trt.kernels.layout import repacked
from arkinfer_trt.kernels.stored import read_kernels
from arkinfer_trt.section import (
    HIDDEN,
    KEYS,
    LENGTH,
    LOGITS,
    POSITIONS,
    ROWS,
    NetworkWeight,
    Stored,
    TensorRTSection,
)
from arkinfer_trt.section import Network as Way
from benchmarks.gpu import Device, reference
from benchmarks.torch_ops import Multiply, TorchNetwork

FEW = 16
"""Rows of x from which on tensor cores multiply. On a board the builder times it."""


class TorchExecutor:
    """What `arkinfer.load(…, executor=…)` takes.

    Args:
        way: which network; None: the first.
        device: "cuda" or "cpu".
    """

    name = "tensorrt"

    def __init__(self, way: Way | None = None, device: str = "cuda") -> None:
        self.way, self.device = way, device

    def open(self, artifact: Artifact, section: Section, options: LoadOptions) -> TorchExecutable:
        facts = TensorRTSection.from_json(section.config)
        way = self.way or next(iter(facts.networks))
        if way not in facts.networks:
            raise UsageError(f'There is no network "{way}"', f"It has {', '.join(facts.networks)}")
        kernels = read_kernels(artifact.read(facts.kernels)) if facts.kernels else {}
        multiply = (
            Kernels(Device(facts.sm, kernels.values())) if self.device == "cuda" else unpacked()
        )
        model = onnx.load_from_string(artifact.read(facts.networks[way]))
        network = TorchNetwork(model, self.device, multiply)
        weights = {
            name: tensor.to(self.device)
            for weight in facts.weights
            if way in weight.networks
            for name, tensor in _in_form(artifact, weight, facts.dtype).items()
        }
        table = _numbers(artifact, facts.embedding)
        if isinstance(table, QuantizedTensor):
            table = table.dequantize()
        return TorchExecutable(facts, network, weights, table, self.device)


class Kernels:
    """Multiplies by the kernels of the artifact."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._ready: set[str] = set()

    def __call__(self, gemv: Gemv, x: Tensor, words: Tensor, scale: Tensor) -> Tensor:
        tile = _tile(gemv, len(x))
        if kernel_name(gemv, tile) not in self._ready:
            self._device.prepare([(gemv, tile)])
            self._ready.add(kernel_name(gemv, tile))
        y = torch.empty((len(x), gemv.width), dtype=x.dtype, device=x.device)
        self._device.launch(gemv, tile, x, words, scale, y)
        return y


def _tile(gemv: Gemv, tokens: int) -> AnyTile:
    """The first that is for so many rows."""
    known = tactics(gemv).values()
    return next(tile for tile in known if isinstance(tile, DotTile) == (tokens >= FEW))


def unpacked() -> Multiply:
    """Multiplies in float64, by matrices that are unpacked once."""
    known: dict[int, tuple[Tensor, Tensor]] = {}  # the words, too: nothing else is put there

    def multiply(gemv: Gemv, x: Tensor, words: Tensor, scale: Tensor) -> Tensor:
        if words.data_ptr() not in known:
            one = torch.eye(gemv.inputs, dtype=x.dtype)
            known[words.data_ptr()] = words, reference(gemv, one, words, scale)
        return (x.double() @ known[words.data_ptr()][1]).to(x.dtype)

    return multiply


class TorchExecutable:
    """Weights on the device; `state` makes sequences."""

    features: frozenset[str] = frozenset()

    def __init__(
        self,
        facts: TensorRTSection,
        network: TorchNetwork,
        weights: dict[str, Tensor],
        table: Any,
        device: str,
    ) -> None:
        self.network: TorchNetwork | None = network
        self.facts, self.weights, self.table, self.device = facts, weights, table, device
        self.vocab_size, self.max_context = facts.vocab_size, facts.context
        self.chunk = facts.chunk

    def new_state(self, context: int) -> TorchState:
        if self.network is None:
            raise closed()
        check_context(self, context)
        return TorchState(self, context)

    def close(self) -> None:
        self.network = None
        self.weights = {}


class TorchState:
    """One sequence."""

    def __init__(self, owner: TorchExecutable, capacity: int) -> None:
        self.owner, self.capacity, self.length = owner, capacity, 0
        self._dtype = {"float16": torch.float16, "float32": torch.float32}[owner.facts.dtype]
        self._caches = {
            f"past.{cache.name}": torch.zeros(cache.shape, dtype=self._dtype, device=owner.device)
            for cache in owner.facts.caches
        }
        self._decode: dict[int, tuple[torch.cuda.CUDAGraph, dict[str, Tensor], Tensor]] = {}

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        owner = self.owner
        if owner.network is None:
            raise closed()
        tokens = check_tokens(owner, self, tokens, taps)
        count = len(tokens)
        window = owner.facts.window(self.length + count)
        wide = owner.table[tokens].astype(np.float32) * np.float32(owner.facts.embedding_factor)
        feeds = {
            HIDDEN: torch.from_numpy(wide[None]).to(self._dtype),
            POSITIONS: torch.arange(self.length, self.length + count)[None],
            LENGTH: torch.tensor([self.length]),
            KEYS: torch.arange(window)[None, None, None],
            ROWS: torch.arange(count) if rows == "all" else torch.tensor([count - 1]),
        }
        if count == 1 and owner.device == "cuda":
            logits = self._replayed(window, feeds)
        else:
            logits = self._run({name: each.to(owner.device) for name, each in feeds.items()})
        self.length += count
        found = logits[0].cpu().numpy()
        return StepOutput(found if rows != "none" else found[:0])

    def _run(self, feeds: dict[str, Tensor]) -> Tensor:
        assert self.owner.network is not None
        with torch.inference_mode():
            return self.owner.network.run({**self.owner.weights, **self._caches, **feeds})[LOGITS]

    def _replayed(self, window: int, feeds: dict[str, Tensor]) -> Tensor:
        """Of one token: the first run that looks at so many rows of the caches prepares and is
        captured, the others replay."""
        if window not in self._decode:
            held = {name: each.to(self.owner.device) for name, each in feeds.items()}
            self._run(held)  # kernels are loaded; what it writes is written again
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = self._run(held)
            self._decode[window] = graph, held, logits
        graph, held, logits = self._decode[window]
        for name, each in feeds.items():
            held[name].copy_(each)
        graph.replay()
        return logits

    def truncate(self, length: int) -> None:
        check_length(self, length)
        self.length = length


def _numbers(artifact: Artifact, stored: Stored) -> Any:
    """A tensor of the artifact."""
    parts = {part: artifact.tensor(name) for part, name in stored.parts.items()}
    if not stored.scheme:
        return parts[""]
    rows, columns = stored.shape
    return QuantizedTensor.from_parts(parse_scheme(stored.scheme), (rows, columns), parts)


def _in_form(artifact: Artifact, weight: NetworkWeight, dtype: str) -> dict[str, Tensor]:
    """A weight as a network has it, by the names of its inputs; int4 codes one a byte."""
    found = _numbers(artifact, weight.stored)
    if weight.form == "dense":
        arrays = [found.astype(dtype)]
    elif weight.form == "gemv":
        parts = repacked(found, dtype)
        arrays = [parts["words"], parts["scale"]]
    else:
        codes = found.unpacked().reshape(found.shape).astype(np.int8) - 8
        scale = np.maximum(found.scale.astype(dtype), np.finfo(dtype).smallest_normal)
        arrays = [codes.T, scale.T]
    made = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    return dict(zip(weight.inputs, made, strict=True))
