"""The half of the fake `tensorrt` that runs engines: contexts, addresses, shapes, aliases."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import numpy as np
import onnx

from tests.backends.trt.fake.machine import Machine
from tests.backends.trt.fake.network import Network


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


class ExecutionContextAllocationStrategy(Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


def pure_virtual(name: str) -> RuntimeError:
    """What the bindings raise for a method that only a subclass has."""
    return RuntimeError(f'Tried to call pure virtual function "nvinfer1::{name}"')


class ILogger:
    class Severity(Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    begun = False

    def __init__(self) -> None:
        self.begun = True

    def log(self, severity: Severity, msg: str) -> None:
        raise pure_virtual("ILogger::log")


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, managed: bool) -> None:
        self._engine, self._machine = engine, engine.machine
        self._profile: int | None = None
        self._memory: tuple[int, int] | None = None
        self._managed = managed
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._machine.stream(stream_handle)
        self._profile = profile_index
        self._shapes.clear()
        return 0 <= profile_index < len(self._engine.profiles)

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._managed
        assert memory % 256 == 0
        self._machine.find(memory, size)
        self._memory = memory, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        real = self._engine.network.inputs[name].shape
        assert self._profile is not None
        least, _, most = self._engine.profiles[self._profile].get(name, (real, real, real))
        fits = len(shape) == len(real) and all(
            a <= n <= b for a, n, b in zip(least, shape, most, strict=True)
        )
        if fits:
            self._shapes[name] = tuple(shape)
        else:
            self._engine.say(f"{name} of {shape} is not within {least} and {most}")
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        known = {**self._engine.network.inputs, **self._engine.network.outputs}
        if name not in known:
            self._engine.say(f"There is no tensor {name}")
            return False
        assert memory % 256 == 0
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = self._machine.stream(stream_handle)
        network = self._engine.network
        problem = self._missing()
        if stream.captured is not None and self._machine.uncapturable:
            problem = "operation not permitted when stream is capturing"
        for output, source in network.aliases.items():
            if self._addresses.get(output) != self._addresses.get(source):
                problem = f"{output} must be at the address of {source}"
        if problem:
            self._engine.say(problem)
            return False
        addresses, shapes = dict(self._addresses), self._all_shapes()
        for name, tensor in network.inputs.items():
            self._machine.find(addresses[name], tensor.nbytes(shapes[name]))
        takes = self._machine.takes(network.ops)
        stream.put(lambda: self._engine.compute(addresses, shapes), takes)
        return True

    def _missing(self) -> str:
        network = self._engine.network
        size = self._engine.get_device_memory_size_for_profile_v2(self._profile or 0)
        if self._managed and (self._memory is None or self._memory[1] < size):
            return "The device memory is missing or too small"
        for name in (*network.inputs, *network.outputs):
            if name not in self._addresses:
                return f"Address is not set for {name}"
        for name, tensor in network.inputs.items():
            if -1 in tensor.shape and name not in self._shapes:
                return f"Not all shapes are specified: {name}"
        return ""

    def _all_shapes(self) -> dict[str, tuple[int, ...]]:
        inputs = self._engine.network.inputs
        return {name: self._shapes.get(name, tensor.shape) for name, tensor in inputs.items()}


class ICudaEngine:
    def __init__(self, machine: Machine, logger: ILogger, head: Any, model: bytes) -> None:
        self.machine, self._logger = machine, logger
        self.network = Network(onnx.load_from_string(model))
        self.profiles: list[dict[str, list[tuple[int, ...]]]] = head["profiles"]
        self._names = [*self.network.inputs, *self.network.outputs]

    def say(self, problem: str) -> None:
        self._logger.log(ILogger.Severity.ERROR, problem)

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.network.inputs else TensorIOMode.OUTPUT

    def get_aliased_input_tensor(self, name: str) -> str | None:
        return self.network.aliases.get(name)

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        shapes = self.profiles[profile_index].values()
        return 256 * max((int(np.prod(most)) for _, _, most in shapes), default=1)

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
    ) -> IExecutionContext | None:
        managed = strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self, managed)

    def compute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        """Runs the network now."""
        machine, network = self.machine, self.network
        machine.runs += 1
        feeds: dict[str, Any] = {}
        for name, tensor in network.inputs.items():
            raw = machine.read(addresses[name], tensor.nbytes(shapes[name]))
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.dtype)
            feeds[name] = raw.view(dtype).reshape(shapes[name])
        versions = tuple(
            (addresses[n], machine.find(addresses[n], 1).version) for n in network.folded
        )
        for name, array in network.run(feeds, versions).items():
            machine.write(addresses[name], np.ascontiguousarray(array).reshape(-1).view(np.uint8))


class Runtime:
    machine: Machine

    def __init__(self, logger: ILogger) -> None:
        assert logger.begun, "the logger's own __init__ did not call that of ILogger"
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        head, _, model = bytes(serialized_engine).partition(b"\n")
        try:
            facts = json.loads(head)
            made_for = facts["tensorrt"], tuple(facts["device"])
        except (ValueError, LookupError):
            self._logger.log(ILogger.Severity.ERROR, "Serialization assertion magicTag failed")
            return None
        if made_for != (
            self.machine.tensorrt,
            (self.machine.name, self.machine.sm, self.machine.plans),
        ):
            problem = "The engine plan file is not compatible with this version of TensorRT"
            self._logger.log(ILogger.Severity.ERROR, problem)
            return None
        return ICudaEngine(self.machine, self._logger, facts, model)
