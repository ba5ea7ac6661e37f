"""A loaded engine: weights on the device once, and memory for each kind of step when it is first
needed. Knows no artifact and no cache of engines.

Steps of all states go through one stream, one at a time, from whatever thread; so contexts of one
kind share what they work in, and the memory of inputs and logits.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence

import numpy as np

from arkinfer.errors import DeviceError, ResourceError
from arkinfer.runtime.contract import FloatArray, IntArray, Rows, check_context, closed
from arkinfer_trt.cuda import Cuda, Memory
from arkinfer_trt.embedding import Embedding
from arkinfer_trt.engine import Engine
from arkinfer_trt.section import Cache, TensorRTSection
from arkinfer_trt.state import BEFORE_GRAPHS, Held, TensorRTState
from arkinfer_trt.steps import Steps

DECODE, PREFILL, VERIFY = "decode", "prefill", "verify"


class TensorRTExecutable:
    """See `arkinfer.runtime.contract.Executable`.

    Args:
        section: what the engine was made of.
        engine: for this device.
        cuda: the device.
        weights: addresses of the engine's inputs that are weights.
        memory: in which these are; given back by `close`.
        embedding: looks tokens up.

    Attributes:
        graphs: whether steps of one token become CUDA graphs.
    """

    features: frozenset[str] = frozenset()

    def __init__(
        self,
        section: TensorRTSection,
        engine: Engine,
        cuda: Cuda,
        weights: Mapping[str, int],
        memory: Memory,
        embedding: Embedding,
    ) -> None:
        self.vocab_size = section.vocab_size
        self.max_context = section.context
        self.chunk = section.chunk
        self.graphs = True
        self._section = section
        self._engine: Engine | None = engine
        self._cuda = cuda
        self._weights = dict(weights)
        self._memory = memory
        self._embedding = embedding
        self._steps: dict[str, Steps] = {}
        self._held: set[Held] = set()
        self._left: list[Held] = []
        self._turn = threading.RLock()

    def warm_up(self) -> str:
        """Takes steps of one token in both ways, so that a user's first one waits for nothing.

        Returns:
            Why steps cannot be CUDA graphs, in a sentence, and will not be; "": they are.

        Raises:
            DeviceError: the engine does not run.
            ResourceError: there is no memory for a sequence.
        """
        slower = self._warmed(self.new_state(self.max_context))
        with self._turn:
            self._open()  # the sequence is gone
        return slower

    def _warmed(self, state: TensorRTState) -> str:
        token = np.zeros(1, np.int64)
        for _ in range(BEFORE_GRAPHS):
            state.step(token)
            state.truncate(0)
        try:
            state.step(token)
        except DeviceError as error:
            self.graphs = False
            state.step(token)
            return f"Each token takes a little longer than it could. {error}".removesuffix(".")
        return ""

    def new_state(self, context: int) -> TensorRTState:
        """An empty sequence with room for `context` tokens.

        The engine has caches of a fixed size: each state takes those of `max_context` tokens.

        Raises:
            UsageError: not 1 … max_context tokens, or the model is closed.
            ResourceError: there is no memory for its caches.
        """
        with self._turn:
            self._open()
            check_context(self, context)
            held = self._caches(self._section.caches)
            state = TensorRTState(self, held, context)
            weakref.finalize(state, self._left.append, held)
            return state

    def _caches(self, caches: Sequence[Cache]) -> Held:
        memory = Memory(self._cuda)
        itemsize = np.dtype(self._section.dtype).itemsize
        addresses: dict[str, int] = {}
        try:
            for cache in caches:
                nbytes = itemsize * int(np.prod(cache.shape, dtype=np.int64))
                address = memory.device(nbytes, f"caches of {self.max_context} tokens")
                self._cuda.clear(address, nbytes)  # what is not masked out must be numbers
                addresses |= {f"past.{cache.name}": address, f"present.{cache.name}": address}
        except DeviceError as error:
            memory.close()
            raise ResourceError(error.what, error.why, error.fix) from error
        except BaseException:
            memory.close()
            raise
        held = Held(memory, addresses)
        self._held.add(held)
        return held

    def run(self, held: Held, tokens: IntArray, rows: Rows, length: int) -> FloatArray:
        """Computes one step of a state that holds `length` tokens: logits [R, vocab_size].

        Raises:
            UsageError: the model is closed.
            DeviceError: the device or TensorRT refuses.
        """
        most = self._section.verified
        with self._turn:
            if rows != "all" or len(tokens) <= most:
                return self._run(held, tokens, rows, length)
            found = np.empty((len(tokens), self.vocab_size), np.float32)
            for i in range(0, len(tokens), most):
                found[i : i + most] = self._run(held, tokens[i : i + most], rows, length + i)
            return found

    def _run(self, held: Held, tokens: IntArray, rows: Rows, length: int) -> FloatArray:
        many = len(tokens) > 1
        kind = (VERIFY if rows == "all" else PREFILL) if many else DECODE
        engine = self._open()
        try:
            steps = self._steps_of(kind, engine)
            steps.feed(tokens, length)
            if many:
                steps.run(held.addresses)
            else:
                held.run_one(steps, self.graphs)
            self._cuda.wait()
        except BaseException:
            self._cuda.drain()  # before anything is written to where the device may read
            raise
        return steps.logits(0 if rows == "none" else len(tokens) if rows == "all" else 1)

    def _steps_of(self, kind: str, engine: Engine) -> Steps:
        if kind not in self._steps:
            sizes = self._section.profiles()
            tokens, rows = sizes[kind]["T"][2], sizes[kind]["R"][2]
            self._steps[kind] = Steps(
                engine,
                self._cuda,
                list(sizes).index(kind),
                (tokens, rows),
                self._section,
                self._weights,
                self._embedding,
            )
        return self._steps[kind]

    def _open(self) -> Engine:
        """The engine, after what states left behind was given back."""
        if self._engine is None:
            raise closed()
        while self._left:
            self._forget(self._left.pop())
        return self._engine

    def _forget(self, held: Held) -> None:
        held.close()
        self._held.discard(held)

    def close(self) -> None:
        """Gives all memory back, after the running step; may be called again."""
        with self._turn:
            if self._engine is None:
                return
            self._cuda.drain()
            for held in list(self._held):
                self._forget(held)
            for steps in self._steps.values():
                steps.close()
            self._steps.clear()
            self._engine = None
            self._memory.close()
            self._cuda.close()
