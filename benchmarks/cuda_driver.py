"""Launches kernels through CUDA's driver, with the arguments that TensorRT passes: inputs, scalars,
outputs. Knows no framework; whoever calls made a context and owns the memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from arkinfer.errors import DeviceError
from arkinfer_trt.kernels.gemv import Kernel

Launch = Callable[[tuple[int, int], Sequence[int], Sequence[int], int, int], None]
"""Grid, addresses of inputs, scalars, address of the output, stream."""


class Driver:
    """CUDA's driver library.

    Raises:
        DeviceError: it is not there.
    """

    def __init__(self, library: str = "libcuda.so.1") -> None:
        try:
            self._cuda = ctypes.CDLL(library)
        except OSError as error:
            raise DeviceError(
                "Kernels cannot be launched",
                f"CUDA's driver does not load: {error}",
                "Run this on a machine with an NVIDIA GPU and its driver.",
            ) from error

    def load(self, kernel: Kernel) -> Launch:
        """The kernel, translated for this machine's GPU.

        Raises:
            DeviceError: the driver refuses it.
        """
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        text, name = kernel.ptx.encode() + b"\0", kernel.name.encode()
        self._do("cuModuleLoadData", ctypes.byref(module), text)
        self._do("cuModuleGetFunction", ctypes.byref(function), module, name)

        def launch(
            grid: tuple[int, int],
            inputs: Sequence[int],
            scalars: Sequence[int],
            output: int,
            stream: int,
        ) -> None:
            values = [
                *map(ctypes.c_uint64, inputs),
                *map(ctypes.c_int32, scalars),
                ctypes.c_uint64(output),
            ]
            addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
            sizes = [*grid, 1, kernel.threads, 1, 1, kernel.shared]
            numbers = [ctypes.c_uint(size) for size in sizes]
            where = ctypes.c_void_p(stream)
            self._do("cuLaunchKernel", function, *numbers, where, addresses, None)

        return launch

    def _do(self, name: str, *arguments: object) -> None:
        result: int = getattr(self._cuda, name)(*arguments)
        if result:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(result, ctypes.byref(text))
            said = text.value.decode() if text.value else "an error that it does not know"
            raise DeviceError(f"{name} of CUDA's driver failed", f"It says: {said}")
