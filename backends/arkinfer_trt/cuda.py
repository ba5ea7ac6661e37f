"""CUDA's runtime as the executor needs it: memory, copies, one stream, graphs, a clock. Every error
becomes a sentence. Knows no TensorRT.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from arkinfer.errors import DeviceError

if TYPE_CHECKING:
    from cuda.bindings import runtime

Array = npt.NDArray[Any]
T = TypeVar("T")

FLUSH = 96 << 20
"""Bytes that push everything else out of a device's cache: 4 MiB on Orin, 72 MiB on an RTX 4090."""


class Cuda:
    """The first CUDA device, and a stream on which all of our work goes, in order.

    Attributes:
        name: the device's, e.g. "Orin".
        sm: its compute capability, 87 for 8.7.

    Raises:
        ImportError: the package cuda-python is missing.
        DeviceError: there is no device, or its driver is too old.
    """

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._api = runtime
        if self._value(runtime.cudaGetDeviceCount(), "look for devices") < 1:
            raise _no_device("CUDA finds none")
        found = self._value(runtime.cudaGetDeviceProperties(0), "ask the device for its name")
        self.name = found.name.split(b"\0")[0].decode()
        self.sm = 10 * self._attribute("Major") + self._attribute("Minor")
        flags = runtime.cudaStreamNonBlocking
        created = runtime.cudaStreamCreateWithFlags(flags)
        self._stream: runtime.cudaStream_t | None = self._value(created, "make a stream")

    def _attribute(self, name: str) -> int:
        which = getattr(self._api.cudaDeviceAttr, f"cudaDevAttrComputeCapability{name}")
        return self._value(self._api.cudaDeviceGetAttribute(which, 0), "ask the device")

    @property
    def stream(self) -> runtime.cudaStream_t:
        assert self._stream is not None, "the stream was given back"
        return self._stream

    @property
    def handle(self) -> int:
        """The stream, for TensorRT."""
        return int(self.stream)

    def free_memory(self) -> tuple[int, int]:
        """Bytes of device memory that are free, and all of them."""
        error, free, total = self._api.cudaMemGetInfo()
        self._check(error, "ask for free memory")
        return free, total

    def allocate(self, nbytes: int, what: str) -> int:
        """The address of device memory for `what`, a multiple of 256.

        Raises:
            DeviceError: there is not that much.
        """
        return self._memory(self._api.cudaMalloc(max(1, nbytes)), nbytes, what)

    def pinned(self, nbytes: int, what: str) -> int:
        """The address of host memory that the device reads and writes by itself."""
        return self._memory(self._api.cudaMallocHost(max(1, nbytes)), nbytes, what)

    def free(self, address: int) -> None:
        self._api.cudaFree(address)  # an error that came earlier is no news here

    def free_pinned(self, address: int) -> None:
        self._api.cudaFreeHost(address)

    def clear(self, address: int, nbytes: int) -> None:
        """Writes zeros."""
        done = self._api.cudaMemsetAsync(address, 0, nbytes, self.stream)
        self._check(done[0], "clear memory")

    def upload(self, address: int, array: Array) -> None:
        """Copies from any host memory to the device, and waits until that is done."""
        source = np.ascontiguousarray(array)
        self.copy_in(address, source.ctypes.data, source.nbytes)
        self.wait()

    def copy_in(self, device: int, host: int, nbytes: int) -> None:
        """From host memory, pinned where nobody waits, to the device, in the stream."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        done = self._api.cudaMemcpyAsync(device, host, nbytes, kind, self.stream)
        self._check(done[0], "copy to the device")

    def copy_out(self, host: int, device: int, nbytes: int) -> None:
        """From the device to pinned memory, in the stream."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        done = self._api.cudaMemcpyAsync(host, device, nbytes, kind, self.stream)
        self._check(done[0], "copy from the device")

    def wait(self) -> None:
        """Until all that is in the stream is done."""
        self._check(self._api.cudaStreamSynchronize(self.stream)[0], "finish its work")

    def drain(self) -> None:
        """Waits as `wait` does, where an error has been told already."""
        self._api.cudaStreamSynchronize(self.stream)
        self._api.cudaGetLastError()

    def capture(self, work: Callable[[], object]) -> Graph:
        """What `work` puts into the stream as a graph; nothing of it runs.

        Raises:
            DeviceError: something in it cannot be part of a graph.
        """
        api = self._api
        mode = api.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        self._check(api.cudaStreamBeginCapture(self.stream, mode)[0], "begin a graph")
        try:
            work()
        except BaseException:
            api.cudaStreamEndCapture(self.stream)  # the stream takes work again
            api.cudaGetLastError()
            raise
        graph = self._value(api.cudaStreamEndCapture(self.stream), "capture a graph")
        try:
            return Graph(self, self._value(api.cudaGraphInstantiate(graph, 0), "make a graph"))
        finally:
            api.cudaGraphDestroy(graph)

    def launch(self, graph: runtime.cudaGraphExec_t) -> None:
        self._check(self._api.cudaGraphLaunch(graph, self.stream)[0], "run the network")

    def forget(self, graph: runtime.cudaGraphExec_t) -> None:
        self._api.cudaGraphExecDestroy(graph)

    def seconds(self, work: Callable[[], object], rounds: int, flushed: int) -> list[float]:
        """What the device took for `work` in each round, with cold caches.

        Args:
            work: puts itself into the stream.
            rounds: how often.
            flushed: the address of `FLUSH` bytes, which are written before each round.
        """
        api = self._api
        events = [self._value(api.cudaEventCreate(), "make a clock") for _ in range(2)]
        start, end = events
        took: list[float] = []
        try:
            for _ in range(rounds):
                self.clear(flushed, FLUSH)
                self._check(api.cudaEventRecord(start, self.stream)[0], "read the clock")
                work()
                self._check(api.cudaEventRecord(end, self.stream)[0], "read the clock")
                self._check(api.cudaEventSynchronize(end)[0], "time a product")
                took.append(
                    self._value(api.cudaEventElapsedTime(start, end), "read the clock") / 1e3
                )
        finally:
            for event in events:
                api.cudaEventDestroy(event)
        return took

    def close(self) -> None:
        """Gives the stream back; may be called again."""
        if self._stream is not None:
            self._api.cudaStreamSynchronize(self._stream)
            self._api.cudaStreamDestroy(self._stream)
            self._stream = None

    def _memory(self, result: tuple[runtime.cudaError_t, int], nbytes: int, what: str) -> int:
        if result[0] != self._api.cudaError_t.cudaErrorMemoryAllocation:
            return self._value(result, f"get memory for {what}")
        self._api.cudaGetLastError()  # else TensorRT would find it there
        free, total = self.free_memory()
        raise DeviceError(
            f"The device has no memory for {what}",
            f"It takes {nbytes:,} bytes; {free:,} of {total:,} are free",
            "Close other programs, or build the model with a smaller context or fewer bits",
        )

    def _value(self, result: tuple[runtime.cudaError_t, T], doing: str) -> T:
        self._check(result[0], doing)
        return result[1]

    def _check(self, error: runtime.cudaError_t, doing: str) -> None:
        known = self._api.cudaError_t
        if error == known.cudaSuccess:
            return
        self._api.cudaGetLastError()
        said = self._api.cudaGetErrorString(error)[1].decode()
        if error == known.cudaErrorInsufficientDriver:
            raise _old_driver(self._api.cudaDriverGetVersion()[1])
        if error == known.cudaErrorNoDevice:
            raise _no_device("CUDA finds none")
        raise DeviceError(
            f"The device could not {doing}",
            f"CUDA says: {said}",
            "Load the artifact again; if it happens again, restart the device, else report it",
        )


def _no_device(why: str) -> DeviceError:
    return DeviceError(
        "There is no NVIDIA GPU that this process can use",
        why,
        "On a Jetson, use JetPack's own Linux; in a container, start it with --runtime nvidia; "
        "elsewhere install the driver",
    )


def _old_driver(version: int) -> DeviceError:
    """Args: version: of CUDA, 12060 for 12.6, that the driver is for; 0: there is none."""
    if not version:
        return _no_device("NVIDIA's driver is missing")
    major, minor = version // 1000, version % 1000 // 10
    return DeviceError(
        f"The driver of this device is for CUDA {major}.{minor}",
        "The installed package cuda-bindings wants a newer one",
        f'Install the package that fits: pip install "cuda-bindings=={major}.*"',
    )


class Graph:
    """Work that was captured: launched again and again with what is at its addresses."""

    def __init__(self, cuda: Cuda, captured: runtime.cudaGraphExec_t) -> None:
        self._cuda = cuda
        self._captured: runtime.cudaGraphExec_t | None = captured

    def launch(self) -> None:
        assert self._captured is not None, "the graph was given back"
        self._cuda.launch(self._captured)

    def close(self) -> None:
        if self._captured is not None:
            self._cuda.forget(self._captured)
            self._captured = None


class Pinned:
    """Host memory at a fixed address, as an array."""

    def __init__(self, address: int, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        self.address, self.nbytes = address, nbytes
        raw = (ctypes.c_uint8 * nbytes).from_address(address)
        self.array: Array = np.frombuffer(memoryview(raw), kind).reshape(shape)


class Memory:
    """Memory that is given back together.

    Args:
        cuda: where it comes from.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._device: list[int] = []
        self._pinned: list[int] = []

    def device(self, nbytes: int, what: str) -> int:
        """The address of device memory; see `Cuda.allocate`."""
        self._device.append(self._cuda.allocate(nbytes, what))
        return self._device[-1]

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike, what: str) -> Pinned:
        """Host memory that the device can reach; see `Cuda.pinned`."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self._pinned.append(self._cuda.pinned(nbytes, what))
        return Pinned(self._pinned[-1], shape, dtype)

    def close(self) -> None:
        """Gives all of it back; may be called again."""
        while self._device:
            self._cuda.free(self._device.pop())
        while self._pinned:
            self._cuda.free_pinned(self._pinned.pop())
