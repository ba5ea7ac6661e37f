"""An engine that was built, ready to run: its inputs, and contexts with memory of their own.

Knows no weights and no sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from arkinfer.errors import DeviceError
from arkinfer_trt.cuda import Cuda, Memory
from arkinfer_trt.messages import logger

if TYPE_CHECKING:
    import tensorrt as trt


class Unreadable(DeviceError):
    """Bytes that TensorRT makes no engine of: damaged, or of another version or device."""


class Engine:
    """What TensorRT makes of the bytes that `build.build` gave.

    Attributes:
        inputs: names of its inputs.

    Raises:
        Unreadable: these are no such bytes.
    """

    def __init__(self, plan: memoryview) -> None:
        import tensorrt as trt

        self.errors: deque[str] = deque(maxlen=8)
        self._logger = logger(self.errors)  # has to be there as long as the runtime
        try:
            self._runtime = trt.Runtime(self._logger)
        except (RuntimeError, TypeError) as error:  # it cannot be made
            self.errors.append(str(error))
            raise self.failed("begin to run") from error
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise Unreadable(
                "TensorRT cannot read the engine", "; ".join(self.errors) or "It does not say why"
            )
        self._engine: trt.ICudaEngine = engine
        self._managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = frozenset(
            name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        )

    def check_alias(self, output: str, source: str) -> None:
        """Raises DeviceError unless an output is written into its input, as a cache has to be."""
        find = getattr(self._engine, "get_aliased_input_tensor", None)  # TensorRT 10.16
        if find is not None and find(output) != source:
            raise DeviceError(
                f'The engine does not update "{source}" in place',
                f'TensorRT keeps "{output}" elsewhere',
                "Please report it, with what arkinfer doctor --report says",
            )

    def context(self, profile: int, cuda: Cuda, activations: Activations) -> Context:
        """A new context for an optimization profile.

        Args:
            profile: its number.
            cuda: where it runs.
            activations: the memory that it works in, which contexts that never run at the same
                time may share.

        Raises:
            DeviceError: TensorRT cannot make one.
        """
        context = self._engine.create_execution_context(self._managed)
        if context is None or not context.set_optimization_profile_async(profile, cuda.handle):
            raise self.failed("begin to run")
        context.set_device_memory(activations.address, activations.nbytes)
        return Context(self, context, cuda)

    def activations(self, profile: int, memory: Memory, what: str) -> Activations:
        """Memory for contexts of a profile."""
        nbytes = self._engine.get_device_memory_size_for_profile_v2(profile)
        return Activations(memory.device(nbytes, what), nbytes)

    def failed(self, doing: str) -> DeviceError:
        """What to raise when TensorRT said no."""
        said = "; ".join(self.errors) or "It does not say why"
        self.errors.clear()
        return DeviceError(
            f"TensorRT could not {doing}", said, "Load the artifact again; else report it"
        )


class Activations:
    """Memory that a context works in."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes


class Context:
    """A context of an engine: addresses of all tensors, shapes of those that vary."""

    def __init__(self, engine: Engine, context: trt.IExecutionContext, cuda: Cuda) -> None:
        self._engine, self._context, self._cuda = engine, context, cuda

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Says where tensors are, once or again."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._engine.failed(f'bind "{name}"')

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Says how large inputs are."""
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._engine.failed(f'take "{name}" of the shape {shape}')

    def run(self) -> None:
        """Puts the network into the stream.

        Raises:
            DeviceError: TensorRT refuses.
        """
        if not self._context.execute_async_v3(self._cuda.handle):
            raise self._engine.failed("run the network")
