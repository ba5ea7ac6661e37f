"""One sequence on an engine: caches on the device, updated in place, and its step of one token as a
CUDA graph. Knows no artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from arkinfer.runtime.contract import IntArray, Rows, StepOutput, check_length, check_tokens
from arkinfer_trt.cuda import Graph, Memory
from arkinfer_trt.engine import Context
from arkinfer_trt.steps import Steps

if TYPE_CHECKING:
    from arkinfer_trt.executable import TensorRTExecutable


BEFORE_GRAPHS = 2
"""Steps of a context that run before one is captured; as many as trtexec takes."""


class Held:
    """What a state has on the device: given back when the state is gone, or the model closed.

    Its steps of one token have a context of their own, for a graph keeps the addresses and shapes
    that it was captured with. The first of them that look at so many rows of the caches run
    without a graph: TensorRT finishes what a context has on the device while it runs, and a graph
    that was captured before would not know of it.

    Attributes:
        addresses: of `past.X` and `present.X`, which are the same, of each cache.
    """

    def __init__(self, memory: Memory, addresses: Mapping[str, int]) -> None:
        self.addresses = addresses
        self._memory = memory
        self._context: Context | None = None
        self._graph: Graph | None = None
        self._window = self._plain = 0

    def run_one(self, steps: Steps, graphs: bool) -> None:
        """Puts the step of one token that was fed into the stream.

        Raises:
            DeviceError: the device or TensorRT refuses; also where a graph cannot be made.
        """
        context = self._context or steps.context(self.addresses)
        if self._window != steps.window:
            self._begin(context, steps)
        self._context = context
        if not graphs or self._plain < BEFORE_GRAPHS:
            steps.enqueue(context)
            self._plain += 1
            return
        if self._graph is None:
            self._graph = steps.capture(context)
        self._graph.launch()

    def _begin(self, context: Context, steps: Steps) -> None:
        """Before the first step that looks at so many rows of the caches."""
        self._drop_graph()
        self._window = self._plain = 0  # until the context is known to have taken its shapes
        context.shape(steps.shapes())
        self._window = steps.window

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = None

    def close(self) -> None:
        self._drop_graph()
        self._context = None
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
