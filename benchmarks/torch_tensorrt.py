"""Stands for `tensorrt` where a CUDA device is and TensorRT is not: our executor runs on it as it
is, with CUDA's real runtime, streams, memory and graphs. Knows no artifact.

Networks are parsed and profiles checked by the tests' fake of TensorRT. An engine computes in
torch, node by node, at the addresses that the executor bound; a node of the plug-in launches what
the plug-in's own functions say: PTX, grid and scalars.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from arkinfer.artifact import Artifact, Section
from arkinfer.runtime.contract import LoadOptions
from arkinfer_trt.executable import TensorRTExecutable
from arkinfer_trt.executor import TensorRTExecutor
from arkinfer_trt.kernels.gemv import NAMESPACE, OP, TILES, DotTile, Gemv, Kernel
from benchmarks.cuda_driver import Driver, Launch
from benchmarks.torch_executor import FEW
from benchmarks.torch_ops import DTYPES, TorchNetwork
from tests.backends.trt.fake import plugin, tensorrt
from tests.backends.trt.fake.machine import Machine
from tests.backends.trt.fake.tensorrt_runtime import ICudaEngine

TYPES = {torch.float16: "<f2", torch.float32: "<f4", torch.int32: "<i4", torch.int64: "<i8"}
"""As `__cuda_array_interface__` calls them."""


class TensorRTOnTorch:
    """What `arkinfer.load(…, executor=…)` takes: our executor, with what is here in the place of
    TensorRT.

    Args:
        network: which; None: the one whose products are faster here.
    """

    name = "tensorrt"

    def __init__(self, network: str | None = None) -> None:
        self._network = network

    def open(
        self, artifact: Artifact, section: Section, options: LoadOptions
    ) -> TensorRTExecutable:
        given = LoadOptions(network=self._network, cache=options.cache)
        with installed():
            return TensorRTExecutor().open(artifact, section, given)


@contextmanager
def installed() -> Iterator[None]:
    """Python finds a `tensorrt` that works on this machine's device."""
    major, minor = torch.cuda.get_device_capability()
    name = torch.cuda.get_device_name()
    machine = _Machine(name=name, sm=10 * major + minor)
    modules = {"tensorrt": tensorrt.module(machine), "tensorrt.plugin": plugin.module()}
    runtime: Any = modules["tensorrt"]
    plain = runtime.Runtime

    class Runtime(plain):
        def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
            engine = super().deserialize_cuda_engine(serialized_engine)
            if engine is not None:
                engine.compute = TorchEngine(engine, _at, "cuda", PluginLaunches()).compute
            return engine

    runtime.Runtime = Runtime
    with mock.patch.dict(sys.modules, modules):
        yield


class TorchEngine:
    """Computes what an engine of the fake would.

    Args:
        engine: the fake's.
        at: the tensor of a shape and a type at an address.
        device: where that is.
        multiply: what a node of the plug-in does.
    """

    def __init__(
        self,
        engine: ICudaEngine,
        at: Callable[[int, tuple[int, ...], torch.dtype], Tensor],
        device: str,
        multiply: Callable[[Gemv, Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        self._inputs, self._at = engine.network.inputs, at
        self._network = TorchNetwork(engine.network.model, device, multiply)
        self._aliases = engine.network.aliases
        self._pool = torch.cuda.MemPool() if device == "cuda" else None

    def compute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        """Runs the network in torch's current stream."""
        if self._pool is None:
            self._run(addresses, shapes)
        else:  # memory that a captured graph works in is nobody else's
            with torch.cuda.use_mem_pool(self._pool):
                self._run(addresses, shapes)

    def _run(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        with torch.inference_mode():
            feeds = {
                name: self._at(addresses[name], shapes[name], DTYPES[tensor.dtype])
                for name, tensor in self._inputs.items()
            }
            for name, found in self._network.run(feeds).items():
                if name not in self._aliases:
                    self._at(addresses[name], tuple(found.shape), found.dtype).copy_(found)


class PluginLaunches:
    """Multiplies as TensorRT would: by what the plug-in answers, with the tile that we expect."""

    def __init__(self) -> None:
        self._driver = Driver()
        self._loaded: dict[str, Launch] = {}

    def __call__(self, gemv: Gemv, x: Tensor, words: Tensor, scale: Tensor) -> Tensor:
        functions = plugin.REGISTERED[f"{NAMESPACE}::{OP}"]
        y = torch.empty((len(x), gemv.width), dtype=x.dtype, device=x.device)
        given = [plugin.TensorDesc(tuple(t.shape), t.dtype) for t in (x, words, scale)]
        asked = [*given, np.array(gemv.attribute, np.int32)]
        outputs = (functions["register"](*asked),)
        (choices,) = functions["autotune"](*asked, outputs)
        many = len(x) >= FEW
        tactic = next(t for t in choices.tactics if isinstance(TILES[t - 1], DotTile) == many)
        name, ptx, call, scalars = functions["aot_impl"](*asked, outputs, tactic)
        if name not in self._loaded:
            self._loaded[name] = self._driver.load(Kernel(name, ptx, call.block_x, call.shared_mem))
        inputs = [tensor.data_ptr() for tensor in (x, words, scale)]
        numbers = [int(scalar.value) for scalar in scalars]
        stream = torch.cuda.current_stream().cuda_stream
        self._loaded[name]((call.grid_x, call.grid_y), inputs, numbers, y.data_ptr(), stream)
        return y


@dataclass
class _Machine(Machine):
    """The fake's machine, where memory and streams are the device's and nothing waits."""

    def stream(self, number: int) -> Any:
        return _Stream(number)

    def find(self, address: int, nbytes: int) -> Any:
        return None


class _Stream:
    captured = None
    """What is captured is CUDA's own business."""

    def __init__(self, number: int) -> None:
        self._stream = torch.cuda.ExternalStream(number)

    def put(self, run: Callable[[], None], takes: int = 0) -> None:
        with torch.cuda.stream(self._stream):
            run()


class _Memory:
    def __init__(self, address: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": TYPES[dtype],
            "data": (address, False),
            "version": 3,
        }


def _at(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(_Memory(address, shape, dtype), device="cuda")
