"""One sequence on an ONNX Runtime session: caches that the kernels update in place.

Everything is bound by address once; a step of one token writes four numbers and runs. Knows no
artifact.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import DeviceError, ResourceError
from arkinfer.runtime.contract import (
    FloatArray,
    IntArray,
    Rows,
    StepOutput,
    check_length,
    check_tokens,
)
from arkinfer_ort.buffers import TwoBuffers

if TYPE_CHECKING:
    import onnxruntime

    from arkinfer_ort.executable import OnnxRuntimeExecutable


@dataclass(frozen=True)
class Cache:
    """Keys or values of one layer: the graph's `past.<name>` and `present.<name>`."""

    name: str
    heads: int
    size: int
    dtype: np.dtype[Any]

    def nbytes(self, capacity: int) -> int:
        return self.dtype.itemsize * self.heads * capacity * self.size


NUMBERS = struct.Struct("=qii")
"""Of a step of one token: the token, the position of the last one, and how many there are."""


class OnnxRuntimeState:
    """See `arkinfer.runtime.contract.State`.

    `caches` are those of another state of the same capacity, whose tokens it then has, too.
    Rows of a cache at or after `length` mean nothing, so a step that fails has changed nothing,
    and to truncate is to forget a number.
    """

    def __init__(
        self,
        executable: OnnxRuntimeExecutable,
        capacity: int,
        caches: dict[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        self.capacity = capacity
        self.length = 0
        self._executable = executable
        self._caches = _allocate(executable.caches, capacity) if caches is None else caches
        numbers = np.zeros(2, np.int64)
        self._numbers = numbers.data
        self._token = numbers[:1].reshape(1, 1)
        self._last, total = np.split(numbers[1:].view(np.int32), 2)
        self._total = total.reshape(())
        self._first = np.zeros(1, np.int64)
        self._logits = TwoBuffers((1, 1, executable.vocab_size))
        self._one: dict[int, onnxruntime.IOBinding] = {}

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        executable = self._executable
        session = executable.session
        if rows != "none" and not taps and self._is_one_good_token(tokens):
            logits = self._run_one(session, tokens.item())
            self.length += 1
            return StepOutput(logits)
        ids = check_tokens(executable, self, tokens, taps)
        logits, _ = self._run_many(session, ids, rows)
        self.length += len(ids)
        return StepOutput(logits)

    def _is_one_good_token(self, tokens: IntArray) -> bool:
        """What `check_tokens` finds out, for the case that comes with every word.

        After a step the processor's caches hold weights, and each line of Python is read from
        memory again: the whole check took 0.5 % of a token of a 0.5B model.
        """
        return (
            tokens.__class__ is np.ndarray
            and tokens.dtype == np.int64
            and tokens.shape == (1,)
            and 0 <= tokens.item() < self._executable.vocab_size
            and self.length < self.capacity
        )

    def _run_one(self, session: onnxruntime.InferenceSession, token: int) -> FloatArray:
        if not self._one:
            self._bind_one(session)
        NUMBERS.pack_into(self._numbers, 0, token, self.length, self.length + 1)
        turn, logits, fresh = self._logits.next()
        if fresh:
            _bind(self._one[turn].bind_output, "logits", logits)
        self._run(session, self._one[turn])
        return logits[0]

    def _bind_one(self, session: onnxruntime.InferenceSession) -> None:
        for _ in range(2):
            turn, logits, _ = self._logits.next()
            self._one[turn] = self._binding(session, self._token, self._first, logits)

    def _run_many(
        self,
        session: onnxruntime.InferenceSession,
        ids: IntArray,
        rows: Rows,
        more: Sequence[str] = (),
    ) -> tuple[FloatArray, list[npt.NDArray[Any]]]:
        """The logits, and copies of the outputs `more`."""
        count, total = len(ids), self.length + len(ids)
        self._last[0], self._total[()] = total - 1, total
        wanted = np.arange({"last": count - 1, "all": 0, "none": count}[rows], count)
        logits = np.empty((1, len(wanted), self._executable.vocab_size), np.float32)
        binding = self._binding(session, ids[None], wanted, logits)
        for name in more:
            binding.bind_output(name)
        self._run(session, binding)
        found = binding.get_outputs()[-len(more) :] if more else []
        return logits[0], [value.numpy() for value in found]

    def truncate(self, length: int) -> None:
        check_length(self, length)
        self.length = length

    def _binding(
        self,
        session: onnxruntime.InferenceSession,
        tokens: IntArray,
        rows: IntArray,
        logits: FloatArray,
    ) -> onnxruntime.IOBinding:
        binding = session.io_binding()
        inputs: dict[str, npt.NDArray[Any]] = {
            "tokens": tokens, "rows": rows, "last": self._last, "total": self._total
        }  # fmt: skip
        for name, array in inputs.items():
            _bind(binding.bind_input, name, array)
        _bind(binding.bind_output, "logits", logits)
        for name, array in self._caches.items():
            _bind(binding.bind_input, f"past.{name}", array)
            _bind(binding.bind_output, f"present.{name}", array)
        return binding

    def _run(self, session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding) -> None:
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # its exceptions have no base but this
            raise DeviceError(
                "ONNX Runtime failed in a step",
                str(error).strip(),
                "If memory is short, load with a smaller context; else report it",
            ) from error


def _bind(bind: Any, name: str, array: npt.NDArray[Any]) -> None:
    """By address: the array must outlive the binding."""
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _allocate(caches: tuple[Cache, ...], capacity: int) -> dict[str, npt.NDArray[Any]]:
    try:
        return {
            cache.name: _pages(cache.nbytes(capacity))
            .view(cache.dtype)
            .reshape(1, cache.heads, capacity, cache.size)
            for cache in caches
        }
    except (MemoryError, OSError) as error:
        needed = sum(cache.nbytes(capacity) for cache in caches)
        raise ResourceError(
            f"There is no memory for a context of {capacity} tokens",
            f"Its caches need {needed:,} bytes",
            "Load with a smaller context",
        ) from error


def _pages(size: int) -> npt.NDArray[np.uint8]:
    """Zero bytes that take memory page by page, as tokens come.

    numpy's own would ask for pages of 2 MiB, of which a short sequence fills a small part: the
    first token of a model with 24 layers took 98 MiB, and long sequences were no faster for it.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(size, np.uint8)
    region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            region.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(region, np.uint8)  # which keeps the region
