"""Stands for `cuda.bindings.runtime`: the calls that our executor makes, with CUDA's meaning."""

from __future__ import annotations

from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.backends.trt.fake.machine import Machine, OutOfMemory, Stream, Work


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class cudaDeviceAttr(IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaStream_t:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __int__(self) -> int:
        return self.stream.number


TEXTS = {
    cudaError_t.cudaErrorInvalidValue: b"invalid argument",
    cudaError_t.cudaErrorMemoryAllocation: b"out of memory",
    cudaError_t.cudaErrorStreamCaptureInvalidated: b"operation failed due to a previous error "
    b"during capture",
}
OK = cudaError_t.cudaSuccess
INVALID = cudaError_t.cudaErrorInvalidValue


class Calls:
    """CUDA's functions on one machine; each gives a tuple, its error first."""

    cudaStreamNonBlocking = 1
    cudaError_t, cudaMemcpyKind = cudaError_t, cudaMemcpyKind
    cudaStreamCaptureMode, cudaDeviceAttr = cudaStreamCaptureMode, cudaDeviceAttr
    cudaStream_t = cudaStream_t

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def cudaGetErrorString(self, error: cudaError_t) -> Any:
        return OK, TEXTS.get(error, b"unknown error")

    def cudaGetLastError(self) -> Any:
        return (OK,)

    def cudaDriverGetVersion(self) -> Any:
        return OK, self._machine.driver

    def cudaGetDeviceCount(self) -> Any:
        if self._machine.driver < 13000:
            return cudaError_t.cudaErrorInsufficientDriver, None
        if not self._machine.devices:
            return cudaError_t.cudaErrorNoDevice, None
        return OK, self._machine.devices

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return OK, SimpleNamespace(name=self._machine.name.encode().ljust(256, b"\0"))

    def cudaDeviceGetAttribute(self, attr: cudaDeviceAttr, device: int) -> Any:
        major = attr == cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
        return OK, self._machine.sm // 10 if major else self._machine.sm % 10

    def cudaMemGetInfo(self) -> Any:
        return OK, self._machine.memory - self._machine.used, self._machine.memory

    def cudaMalloc(self, size: int) -> Any:
        try:
            return OK, self._machine.allocate(size)
        except OutOfMemory:
            return cudaError_t.cudaErrorMemoryAllocation, None

    def cudaFree(self, devPtr: int) -> Any:
        return (OK if self._machine.free(devPtr) else INVALID,)

    def cudaMallocHost(self, size: int) -> Any:
        return OK, self._machine.allocate_pinned(size)

    def cudaFreeHost(self, ptr: int) -> Any:
        return (OK if self._machine.pinned.pop(ptr, None) is not None else INVALID,)

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: cudaStream_t) -> Any:
        self._machine.find(devPtr, count)
        stream.stream.put(lambda: self._machine.fill(devPtr, value, count))
        return (OK,)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: cudaStream_t
    ) -> Any:
        machine = self._machine
        if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
            source = machine.host(src, count)
            if not machine.is_pinned(src, count):
                source = source.copy()  # into a buffer that CUDA has for that
            machine.find(dst, count)
            stream.stream.put(lambda: machine.write(dst, source))
            return (OK,)
        assert machine.is_pinned(dst, count), f"{count} bytes at {dst:#x} are not pinned"
        target = machine.host(dst, count)
        machine.find(src, count)

        def copy() -> None:
            target[:] = machine.read(src, count)

        stream.stream.put(copy)
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        assert flags == self.cudaStreamNonBlocking
        stream = Stream(0x5000 + 16 * len(self._machine.streams))
        self._machine.streams[stream.number] = stream
        return OK, cudaStream_t(stream)

    def cudaStreamDestroy(self, stream: cudaStream_t) -> Any:
        return (OK,)

    def cudaStreamSynchronize(self, stream: cudaStream_t) -> Any:
        if stream.stream.captured is not None:
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        self._machine.wait(stream.stream)
        return (OK,)

    def cudaStreamBeginCapture(self, stream: cudaStream_t, mode: cudaStreamCaptureMode) -> Any:
        assert stream.stream.captured is None
        stream.stream.captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: cudaStream_t) -> Any:
        captured, stream.stream.captured = stream.stream.captured, None
        assert captured is not None
        return OK, captured

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> Any:
        return OK, list(graph)

    def cudaGraphDestroy(self, graph: list[Work]) -> Any:
        graph.clear()
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec: list[Work]) -> Any:
        graphExec.clear()
        return (OK,)

    def cudaGraphLaunch(self, graphExec: list[Work], stream: cudaStream_t) -> Any:
        assert graphExec, "the graph is empty, or was destroyed"
        self._machine.launches += 1
        stream.stream.waiting.extend(graphExec)
        return (OK,)

    def cudaEventCreate(self) -> Any:
        return OK, SimpleNamespace(at=None, stream=None)

    def cudaEventDestroy(self, event: Any) -> Any:
        return (OK,)

    def cudaEventRecord(self, event: Any, stream: cudaStream_t) -> Any:
        event.stream = stream

        def record() -> None:
            event.at = self._machine.now

        stream.stream.put(record, 0)
        return (OK,)

    def cudaEventSynchronize(self, event: Any) -> Any:
        return self.cudaStreamSynchronize(event.stream)

    def cudaEventElapsedTime(self, start: Any, end: Any) -> Any:
        assert start.at is not None
        assert end.at is not None
        return OK, (end.at - start.at) / 1e6


def module(machine: Machine) -> ModuleType:
    """The module, on a machine."""
    made, calls = ModuleType("cuda.bindings.runtime"), Calls(machine)
    for name in dir(calls):
        if name.startswith("cuda"):
            setattr(made, name, getattr(calls, name))
    return made
