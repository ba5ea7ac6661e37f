"""Stands for `tensorrt`: the calls that our executor makes, with TensorRT's meaning where it shows.

An engine is the ONNX network itself; what TensorRT refuses is refused here, what it leaves to the
caller is checked. Signatures are those of 10.16, which tests/backends/trt/test_fake.py compares.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import json
from collections.abc import Sequence
from enum import Enum, IntEnum
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from arkinfer_trt.kernels.gemv import ATTRIBUTE, OP
from tests.backends.trt.fake import plugin
from tests.backends.trt.fake.layers import (
    IAttention,
    IAttentionOutputLayer,
    ILayer,
    LayerType,
    is_refused,
    layers_of,
)
from tests.backends.trt.fake.machine import Machine
from tests.backends.trt.fake.network import Network, Tensor, with_functions
from tests.backends.trt.fake.tensorrt_runtime import (
    ExecutionContextAllocationStrategy,
    ICudaEngine,
    IExecutionContext,
    ILogger,
    Runtime,
    TensorIOMode,
    pure_virtual,
)

OPS = frozenset(
    "Add Attention Cast DequantizeLinear Gather LessOrEqual MatMul Mul RMSNormalization Reshape "
    "RotaryEmbedding Sigmoid Slice TensorScatter Transpose Unsqueeze Shape Concat Expand Squeeze "
    "Constant Identity".split()
)
"""What the parser takes without a plug-in, of what there is."""


class NetworkDefinitionCreationFlag(IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class MemoryPoolType(Enum):
    WORKSPACE = 0


class IProgressMonitor:
    begun = False

    def __init__(self) -> None:
        self.begun = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise pure_virtual("IProgressMonitor::phase_start")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise pure_virtual("IProgressMonitor::step_complete")

    def phase_finish(self, phase_name: str) -> None:
        raise pure_virtual("IProgressMonitor::phase_finish")


class IHostMemory(bytearray):
    @property
    def nbytes(self) -> int:
        return len(self)


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.content)


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(
        self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]
    ) -> None:
        if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError("min <= opt <= max")
        self.shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model: onnx.ModelProto | None = None
        self.given: dict[str, tuple[int, int]] = {}
        self.layers: list[ILayer] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]


class IBuilderConfig:
    progress_monitor: Any = None

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._cache: ITimingCache | None = None
        self.profiles: list[IOptimizationProfile] = []
        self.workspace = 0

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool == MemoryPoolType.WORKSPACE
        self.workspace = pool_size

    def create_timing_cache(self, serialized_timing_cache: Any) -> ITimingCache | None:
        content = bytes(serialized_timing_cache)
        return ITimingCache(content or self._head()) if b"?" not in content else None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not cache.content.startswith(self._head()):
            return False
        self._cache = cache
        return True

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def _head(self) -> bytes:
        return f"timings of {self._machine.tensorrt} on {self._machine.name}\n".encode()

    def timed(self, ops: frozenset[str]) -> None:
        if self._cache is not None:
            self._cache.content += " ".join(sorted(ops)).encode() + b"\n"


class ParserError:
    def __init__(self, desc: str, node: onnx.NodeProto | None = None) -> None:
        self._desc, self._node = desc, node or onnx.NodeProto()

    def desc(self) -> str:
        return self._desc

    def node_name(self) -> str:
        return self._node.name

    def node_operator(self) -> str:
        return self._node.op_type


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        assert logger.begun, "the logger's own __init__ did not call that of ILogger"
        self._network = network
        self._model: onnx.ModelProto | None = None
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def load_model_proto(self, model: Any, path: str | None = None) -> bool:
        assert self._model is None, "one model can be loaded at a time"
        try:
            self._model = onnx.load_from_string(bytes(model))
        except Exception as error:
            return self._error(f"Failed to parse the model: {error}")
        assert not self._model.functions, "a function hides the plug-in of its name"
        return True

    def load_initializer(self, name: str, data: int, size: int) -> bool:
        assert self._model is not None, "load_model_proto comes first"
        found = [t for t in self._model.graph.initializer if t.name == name]
        if not found:
            return self._error(f"{name} is no initializer")
        (tensor,) = found
        numbers = int(np.prod(tensor.dims, dtype=np.int64))
        bits = {TensorProto.INT4: 4, TensorProto.FLOAT16: 16, TensorProto.FLOAT: 32}
        if size * 8 != numbers * bits[tensor.data_type]:
            return self._error(f"{name} has {numbers} numbers, not {size} bytes")
        self._network.given[name] = (data, size)
        return True

    def parse_model_proto(self) -> bool:
        assert self._model is not None, "load_model_proto comes first"
        model = self._model
        outside = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
        missing = [t.name for t in outside if t.name not in self._network.given]
        if missing:
            return self._error(f"Failed to open the file of {missing[0]}")
        for node in model.graph.node:
            problem = _problem(model, node)
            if problem:
                return self._error(problem, node)
        try:
            onnx.shape_inference.infer_shapes(with_functions(model), True, True)
        except Exception as error:
            return self._error(f"Types do not fit: {error}")
        self._network.model = model
        self._network.layers = layers_of(model)
        return True

    def _error(self, desc: str, node: onnx.NodeProto | None = None) -> bool:
        self._errors.append(ParserError(desc, node))
        return False


def _problem(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """Why the parser does not take a node; "": it does."""
    constants = {tensor.name for tensor in model.graph.initializer}
    if node.op_type == "DequantizeLinear" and not set(node.input) <= constants:
        return "The scale input must be a build-time constant"
    if node.op_type == "TensorScatter":
        inputs = {value.name for value in model.graph.input} - constants
        outputs = {value.name for value in model.graph.output}
        if node.input[0] not in inputs or node.output[0] not in outputs:
            return "A cache must be an input of the network, and the result an output"
    if node.op_type in OPS:
        return ""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    namespace = attributes.get("plugin_namespace", b"").decode()
    if not plugin.is_known(namespace, node.op_type):
        return f"Plugin not found, are the plugin name, version, and namespace correct? {namespace}"
    return ""


class Builder:
    machine: Machine

    def __init__(self, logger: ILogger) -> None:
        assert logger.begun, "the logger's own __init__ did not call that of ILogger"
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        assert flags & 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self.machine)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        assert network.model is not None, "the parser did not take it"
        model = _constants_in(network)
        made = Network(model)
        problem = self._problem(made, config)
        if any(is_refused(layer) for layer in network.layers):
            problem = "Error Code 10: Could not find any implementation for node Attention"
        if problem:
            self._logger.log(ILogger.Severity.ERROR, problem)
            return None
        if not self._phases(config.progress_monitor):
            self._logger.log(ILogger.Severity.ERROR, "Engine building was cancelled")
            return None
        self.machine.builds.append(made.ops)
        config.timed(made.ops)
        head = {
            "tensorrt": self.machine.tensorrt,
            "device": [self.machine.name, self.machine.sm, self.machine.plans],
            "profiles": [profile.shapes for profile in config.profiles],
        }
        return IHostMemory(json.dumps(head).encode() + b"\n" + model.SerializeToString())

    def _problem(self, made: Network, config: IBuilderConfig) -> str:
        for op in sorted(made.ops & self.machine.broken):
            return f"Error Code 10: Could not find any implementation for node {op}"
        for tensor in made.inputs.values():
            if tensor.dtype == TensorProto.INT4:
                return f"{tensor.name}: INT4 is no type of an input"
            if -1 in tensor.shape:
                for profile in config.profiles:
                    if not _covered(tensor, profile.shapes.get(tensor.name)):
                        return f"{tensor.name}: a profile does not say its shapes"
        if not config.profiles and any(-1 in t.shape for t in made.inputs.values()):
            return "Network has dynamic or shape inputs, but no optimization profile"
        for node in made.model.graph.node:
            if node.op_type == OP:
                _ask_plugin(made, node)
        return ""

    @staticmethod
    def _phases(monitor: Any) -> bool:
        """Two phases, one within the other; some tell of fewer steps than they said."""
        if monitor is None:
            return True
        assert monitor.begun, "the monitor's own __init__ did not call that of IProgressMonitor"
        monitor.phase_start("Building", None, 2)
        monitor.phase_start("Timing", "Building", 4)
        going = all(monitor.step_complete("Timing", step) for step in range(3))
        monitor.phase_finish("Timing")
        going = going and all(monitor.step_complete("Building", step) for step in range(2))
        monitor.phase_finish("Building")
        return going


def _covered(tensor: Tensor, shapes: list[tuple[int, ...]] | None) -> bool:
    return shapes is not None and all(
        real in (-1, n) for shape in shapes for real, n in zip(tensor.shape, shape, strict=True)
    )


def _ask_plugin(made: Network, node: onnx.NodeProto) -> None:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    shapes = [made.inputs[name].shape for name in node.input[1:]]
    x = (1, -1, attributes[ATTRIBUTE][2])
    descs = [plugin.TensorDesc(shape, None) for shape in (x, *shapes)]
    namespace = attributes["plugin_namespace"].decode()
    plugin.check(namespace, node.op_type, attributes[ATTRIBUTE], descs)


def _constants_in(network: INetworkDefinition) -> onnx.ModelProto:
    """The model with the bytes that were handed over, read where they still have to be."""
    model = onnx.ModelProto()
    assert network.model is not None
    model.CopyFrom(network.model)
    for tensor in model.graph.initializer:
        if tensor.name in network.given:
            address, size = network.given[tensor.name]
            tensor.raw_data = ctypes.string_at(address, size)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
            numpy_helper.to_array(tensor)
    return model


PARTS: tuple[type, ...] = (
    TensorIOMode, NetworkDefinitionCreationFlag, MemoryPoolType,
    ExecutionContextAllocationStrategy, ILogger, IProgressMonitor, IHostMemory, ITimingCache,
    IOptimizationProfile, INetworkDefinition, IBuilderConfig, ParserError, OnnxParser,
    IExecutionContext, ICudaEngine, LayerType, ILayer, IAttention, IAttentionOutputLayer,
)  # fmt: skip


def module(machine: Machine) -> ModuleType:
    """The module, on a machine."""
    made: Any = ModuleType("tensorrt")
    made.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    made.__version__ = machine.tensorrt
    for part in PARTS:
        setattr(made, part.__name__, part)
    for part in (Builder, Runtime):
        setattr(made, part.__name__, type(part.__name__, (part,), {"machine": machine}))
    return made
