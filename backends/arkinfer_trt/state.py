"""One sequence on an engine: caches on the device, updated in place, and its step of one token as a
CUDA graph. Knows no artifact.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from arkinfer.errors import DeviceError
from arkinfer.runtime.contract import IntArray, Rows, StepOutput, check_length, check_tokens
from arkinfer_trt.cuda import Graph, Memory
from arkinfer_trt.engine import Context
from arkinfer_trt.steps import Steps

if TYPE_CHECKING:
    from arkinfer_trt.executable import TensorRTExecutable


class Held:
    """What a state has on the device: given back when the state is gone, or the model closed.

    Its steps of one token have a context of their own, for a graph keeps the addresses that it
    was captured with. The first of them runs without a graph, as TensorRT asks for before it is
    captured.

    Attributes:
        addresses: of `past.X` and `present.X`, which are the same, of each cache.
    """

    def __init__(self, memory: Memory, addresses: Mapping[str, int]) -> None:
        self.addresses = addresses
        self._memory = memory
        self._context: Context | None = None
        self._graph: Graph | None = None
        self._plain = False

    def run_one(self, steps: Steps, graphs: bool) -> None:
        """Puts the step of one token that was fed into the stream."""
        if self._graph is not None:
            self._graph.launch()
        elif self._context is None:
            context = steps.context(self.addresses)
            context.shape(steps.shapes())
            steps.enqueue(context)
            self._context = context
        elif not graphs or self._plain or not self._capture(steps, self._context):
            steps.enqueue(self._context)

    def _capture(self, steps: Steps, context: Context) -> bool:
        """Whether a graph could be made, and was launched."""
        try:
            self._graph = steps.capture(context)
        except DeviceError as error:
            self._plain = True
            warnings.warn(
                f"Each token takes a little longer than it could: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        self._graph.launch()
        return True

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = self._context = None
        self._memory.close()


class TensorRTState:
    """See `arkinfer.runtime.contract.State`.

    Rows of a cache at or after `length` mean nothing, so a step that fails has changed nothing,
    and to truncate is to forget a number.
    """

    def __init__(self, executable: TensorRTExecutable, held: Held, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._executable = executable
        self._held = held

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        ids = check_tokens(self._executable, self, tokens, taps)
        logits = self._executable.run(self._held, ids, rows, self.length)
        self.length += len(ids)
        return StepOutput(logits)

    def truncate(self, length: int) -> None:
        check_length(self, length)
        self.length = length
