"""Loads a compiled library and runs programs with it, through its C interface.

Knows numpy and ctypes; no TVM, no IR and no artifact.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import DeviceError, InternalError, ResourceError
from arkinfer.machine.cores import usable_cores
from arkinfer.runtime.contract import Observer
from arkinfer_tvm.program import Program, Seen

ALIGNMENT = 64
_POINTER = 4
"""kTVMFFIOpaquePtr of tvm_ffi/c_api.h."""
_ARGUMENT = np.dtype([("type", "<i4"), ("own", "<u4"), ("value", "<u8")])
_CALL = np.dtype(
    [
        ("kernel", "<u8"), ("first", "<i8"), ("count", "<i8"), ("jobs", "<u8"), ("meet", "<i8"),
        ("stream", "<u8"), ("bytes", "<i8"),
    ]
)  # fmt: skip
"""`Argument` and `Call` of launcher.c."""

Array = npt.NDArray[Any]


def aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Memory for an array, on a boundary of 64 bytes; its content is undefined.

    Raises:
        ResourceError: there is not that much memory.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    try:
        raw = np.empty(size + ALIGNMENT, np.uint8)
    except MemoryError:
        raise ResourceError(
            f"There is no memory for {size:,} bytes",
            "The system refused them",
            "Ask for a smaller context, or end other programs",
        ) from None
    return np.ndarray(shape, kind, raw, -_address(raw) % ALIGNMENT)


def _address(array: Array) -> int:
    return array.__array_interface__["data"][0]  # without the objects that `array.ctypes` makes


def pointer(array: Array) -> int:
    """Where an array starts (0 for an empty one); kernels are given no other kind of memory."""
    if array.size == 0:
        return 0
    address = _address(array)
    if address % ALIGNMENT or not array.flags.c_contiguous:
        raise InternalError("a kernel was given memory that is not aligned and contiguous")
    return address


class Library:
    """A library's functions and its pool of threads.

    The code is written to a new folder that nobody else may enter, loaded, and removed at once:
    no other process can exchange it, and nothing stays behind. Loaded code is never unmapped.

    Args:
        code: the shared library.
        name: a file name for it, as profilers will show it.
        threads: the most to use; the system may give fewer.
        calls: the most that one run has.

    Raises:
        DeviceError: this system cannot load it; says why.
        ResourceError: there is no room for the file or the threads.
    """

    def __init__(self, code: bytes, name: str, threads: int, calls: int) -> None:
        self._functions = _load(code, name)
        self._functions.ark_open.restype = ctypes.c_void_p
        self._functions.ark_open.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_void_p]
        self._functions.ark_threads.argtypes = [ctypes.c_void_p]
        self._functions.ark_close.argtypes = [ctypes.c_void_p]
        self._functions.ark_close.restype = None
        self._functions.ark_message.restype = ctypes.c_char_p
        self._functions.ark_message.argtypes = [ctypes.c_void_p]
        self._run = self._functions.ark_run
        self._run.restype = ctypes.c_int64
        self._run.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p,
            ctypes.c_int64, ctypes.c_void_p,
        ]  # fmt: skip
        cpus = _processors(threads)
        self._pool: int | None = self._functions.ark_open(threads, calls, cpus)
        if self._pool is None:
            raise ResourceError(
                "There is no memory for a pool of threads", fix="Ask for fewer threads"
            )
        self.threads: int = self._functions.ark_threads(self._pool)

    def kernel(self, name: str) -> int:
        """The address of a kernel."""
        found = ctypes.cast(getattr(self._functions, f"__tvm_ffi_{name}"), ctypes.c_void_p)
        return found.value or 0

    def run(
        self, calls: int, count: int, arguments: int, own: int, stride: int, ends: int | None = None
    ) -> int:
        """Runs calls in order, without the interpreter's lock; 0, or 1 + the one that failed.

        Args:
            calls: where they are.
            count: of them, at most as many as were said.
            arguments: where those of all calls are.
            own: where the memory is that threads have for themselves, `stride` bytes each.
            ends: where to write when each call has ended, int64, in nanoseconds after the first
                began.
        """
        if self._pool is None:
            raise InternalError("the library is closed")
        return self._run(self._pool, calls, count, arguments, own, stride, ends)

    def message(self) -> str:
        """Why the last run failed."""
        return self._functions.ark_message(self._pool).decode("utf-8", "replace")

    def close(self) -> None:
        """Ends the threads; may be called again."""
        if self._pool is not None:
            self._functions.ark_close(self._pool)
            self._pool = None


class Memory:
    """What steps need between kernels; programs that take turns share it.

    Attributes:
        scratch: uint8, as much as the program that needs most.
        own: uint8 [threads, bytes], for each thread.
    """

    def __init__(self, programs: Sequence[Program], threads: int) -> None:
        self.scratch = aligned((max(program.scratch for program in programs),), np.uint8)
        self.own = aligned((threads, max(program.own for program in programs)), np.uint8)


class Arguments:
    """What the kernels of a program are given, call after call, for one sequence.

    Attributes:
        address: where they are.
    """

    def __init__(self, template: Array, places: Mapping[int | str, Sequence[int]]) -> None:
        self._array = template.copy()
        self._values = memoryview(self._array["value"])
        self._places = places
        self._given: dict[int | str, weakref.ref[Array]] = {}
        self.address = _address(self._array)

    def give(self, key: int | str, array: Array) -> None:
        """Puts an array where the port, or the cache, of that name is wanted."""
        given = self._given.get(key)
        if given is None or given() is not array:
            address = pointer(array)
            for place in self._places.get(key, ()):
                self._values[place] = address
            self._given[key] = weakref.ref(array)  # logits are the caller's, to keep or drop


class Bound:
    """A program whose scratch memory and weights are in place, to be run with any caches.

    One run at a time: runs share the scratch memory.
    """

    def __init__(
        self, program: Program, library: Library, weights: Mapping[str, Array],
        memory: Memory | None = None,
    ) -> None:  # fmt: skip
        self.program = program
        self._library = library
        self._weights = dict(weights)  # keeps them mapped
        memory = memory or Memory([program], library.threads)
        self._scratch, self._own = memory.scratch, memory.own
        self._dims = aligned((len(program.dims), ALIGNMENT // 8), np.int64)
        self._sizes = self._dims.data
        used = [index for call in program.calls for index in call.operands]
        self._template = np.zeros(len(used), _ARGUMENT)
        self._template["type"] = _POINTER
        self._places: dict[int | str, list[int]] = {}
        addresses = [self._address(operand.kind, operand.key) for operand in program.operands]
        for place, index in enumerate(used):
            self._template["value"][place] = addresses[index]
            operand = program.operands[index]
            if operand.kind == "own":
                self._template["own"][place] = 1
            if operand.kind in ("cache", "port"):
                self._places.setdefault(operand.key, []).append(place)
        self._calls = np.zeros(len(program.calls), _CALL)
        kernels = {call.kernel: library.kernel(call.kernel) for call in program.calls}
        first = 0
        for row, call in zip(self._calls, program.calls, strict=True):
            row["kernel"], row["meet"] = kernels[call.kernel], call.meet
            row["first"], row["count"] = first, len(call.operands)
            row["jobs"] = pointer(self._dims[call.jobs])
            if call.stream is not None:
                stream = self._weights[str(program.operands[call.stream].key)]
                row["stream"], row["bytes"] = pointer(stream), stream.nbytes
            first += len(call.operands)
        self._first_call, self._stack = _address(self._calls), _address(self._own)

    def _address(self, kind: str, key: int | str) -> int:
        """0 for what is known first when a step begins."""
        if kind == "dim":
            return pointer(self._dims[int(key)])
        if kind == "scratch":
            return pointer(self._scratch) + int(key)
        if kind == "own":
            return int(key)
        return pointer(self._weights[str(key)]) if kind == "weight" else 0

    def arguments(self, caches: Sequence[Array]) -> Arguments:
        """The arguments of a state with these caches, for `run`."""
        made = Arguments(self._template, self._places)
        for index, cache in enumerate(caches):
            made.give(index, cache)
        return made

    def run(
        self, arguments: Arguments, symbols: Mapping[str, int], ports: Iterable[tuple[str, Array]]
    ) -> None:
        """One step.

        Args:
            arguments: as `arguments` made them.
            symbols: the values of the program's symbols.
            ports: the step's inputs and outputs, aligned.

        Raises:
            DeviceError: a kernel refused; says which.
        """
        self._begin(arguments, symbols, ports)
        self.run_calls(arguments, 0, len(self._calls))

    def run_timed(
        self, arguments: Arguments, symbols: Mapping[str, int], ports: Iterable[tuple[str, Array]]
    ) -> npt.NDArray[np.int64]:
        """As `run`; gives back the nanoseconds that each call took."""
        self._begin(arguments, symbols, ports)
        ends = np.zeros(len(self._calls), np.int64)
        self._check(self._run(arguments, 0, len(ends), _address(ends)))
        return np.diff(ends, prepend=0)

    def observe(
        self,
        arguments: Arguments,
        symbols: Mapping[str, int],
        ports: Mapping[str, Array],
        caches: Sequence[Array],
        seen: Sequence[Seen],
        observer: Observer,
    ) -> None:
        """One step that stops wherever a value can be seen; see `run`."""
        self._begin(arguments, symbols, ports.items())
        done = 0
        for value in seen:
            if value.call > done:
                self.run_calls(arguments, done, value.call)
                done = value.call
            observer(value.value, self._rows_of(value, ports, caches).copy())
        self.run_calls(arguments, done, len(self._calls))

    def _rows_of(self, value: Seen, ports: Mapping[str, Array], caches: Sequence[Array]) -> Array:
        key, dtype = value.place.key, np.dtype(value.dtype)
        count = int(self._dims[int(value.count.key)][0])
        if value.place.kind == "cache":
            form = self.program.caches[int(key)]
            return form.read(caches[int(key)], np.arange(count)).reshape(count, *value.row)
        if value.place.kind == "scratch":
            flat = self._scratch[int(key) :]
            flat = flat[: flat.size // dtype.itemsize * dtype.itemsize].view(dtype)
        else:
            flat = ports[str(key)].reshape(-1)
        width = int(np.prod(value.row, dtype=np.int64))
        if value.offset + max(count - 1, 0) * value.stride + width > flat.size:
            raise InternalError(f"%{value.value} is said to lie outside of its array")
        rows = np.lib.stride_tricks.as_strided(
            flat[value.offset :],
            (count, width),
            (value.stride * dtype.itemsize, dtype.itemsize),
        )
        return rows.reshape(count, *value.row)

    def _begin(
        self, arguments: Arguments, symbols: Mapping[str, int], ports: Iterable[tuple[str, Array]]
    ) -> None:
        # Between two steps caches hold weights, and all that is touched here comes from memory.
        for number, dim in enumerate(self.program.dims):
            self._sizes[number, 0] = dim.value(symbols)
        for name, array in ports:
            arguments.give(name, array)

    def _run(self, arguments: Arguments, first: int, last: int, ends: int | None = None) -> int:
        return self._library.run(
            self._first_call + first * _CALL.itemsize, last - first, arguments.address,
            self._stack, self._own.shape[1], ends,
        )  # fmt: skip

    def run_calls(self, arguments: Arguments, first: int, last: int) -> None:
        """Calls [first, last) of a step that has begun.

        Raises:
            DeviceError: a kernel refused; says which.
        """
        if last > first:
            self._check(self._run(arguments, first, last), first)

    def _check(self, failed: int, first: int = 0) -> None:
        """`failed`: 0, or one more than the index of the call that failed, counted from `first`."""
        if failed:
            number = first + failed
            kernel = self.program.calls[number - 1].kernel
            raise DeviceError(
                f'The kernel "{kernel}" failed in call {number} of the step',
                self._library.message() or "It gave no reason",
                "Build the artifact again on this machine",
            )


def _processors(threads: int) -> Any:
    """A processor for each thread where all that can be used get one; None: threads may move.

    Threads that may move can meet on one core. Where there are fewer threads than cores, other
    programs may need some of these, and the system knows better.
    """
    cores = usable_cores()
    return (ctypes.c_int * threads)(*cores) if threads == len(cores) > 1 else None


def _load(code: bytes, name: str) -> ctypes.CDLL:
    try:
        folder = tempfile.mkdtemp(prefix="arkinfer-")  # mode 0700
    except OSError as error:
        raise _no_room(error) from None
    try:
        path = Path(folder) / name
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
            with os.fdopen(file, "wb") as stream:
                stream.write(code)
        except OSError as error:
            raise _no_room(error) from None
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            raise _refused(str(error), folder) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _no_room(error: OSError) -> ResourceError:
    return ResourceError(
        f'The kernels cannot be written to the folder "{tempfile.gettempdir()}"',
        os.strerror(error.errno or 0),
        "Free some space there, or set TMPDIR to another folder",
    )


def _refused(reason: str, folder: str) -> DeviceError:
    reason = reason.removeprefix(folder).lstrip(f"{os.sep}")
    if "failed to map segment" in reason:
        return DeviceError(
            "This system does not let the kernels run",
            f'The folder "{tempfile.gettempdir()}" forbids to run programs (noexec): {reason}',
            "Set TMPDIR to a folder that allows it",
        )
    return DeviceError(
        "This system cannot load the artifact's kernels",
        reason,
        "Build the artifact on a system that is as old as this one",
    )
