"""Steps of one kind (an optimization profile of the engine): where inputs and logits lie, and a
context that runs them. Knows no sequence beyond the addresses of its caches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from arkinfer.runtime.contract import FloatArray, IntArray
from arkinfer_trt.cuda import Cuda, Graph, Memory, Pinned
from arkinfer_trt.embedding import Embedding
from arkinfer_trt.engine import Context, Engine
from arkinfer_trt.section import HIDDEN, KEYS, LENGTH, LOGITS, POSITIONS, ROWS, TensorRTSection


class Steps:
    """Memory for inputs and logits of a kind of steps, on both sides.

    Attributes:
        window: rows of the caches that the step which was fed looks at.

    Args:
        engine: what runs.
        cuda: the device.
        profile: the number of the optimization profile.
        most: the most tokens and rows.
        section: for its sizes.
        weights: addresses of weights that are inputs.
        embedding: looks tokens up.

    Raises:
        DeviceError: there is no memory for it.
    """

    def __init__(
        self,
        engine: Engine,
        cuda: Cuda,
        profile: int,
        most: tuple[int, int],
        section: TensorRTSection,
        weights: Mapping[str, int],
        embedding: Embedding,
    ) -> None:
        self._engine, self._cuda, self._profile = engine, cuda, profile
        self._section, self.window = section, 0
        self._embedding, self._weights = embedding, weights
        tokens, rows = most
        self._all = rows > 1
        shapes = {
            HIDDEN: ((tokens, section.hidden_size), section.dtype),
            POSITIONS: ((tokens,), "int64"),
            LENGTH: ((1,), "int64"),
            ROWS: ((rows,), "int64"),
            LOGITS: ((rows, section.vocab_size), "float32"),
        }
        self._memory = Memory(cuda)
        what = f"steps of {tokens} tokens" if tokens > 1 else "a step"
        try:
            self._host: dict[str, Pinned] = {
                name: self._memory.pinned(shape, dtype, what)
                for name, (shape, dtype) in shapes.items()
            }
            self._device = {
                name: self._memory.device(host.nbytes, what) for name, host in self._host.items()
            }
            keys = np.arange(section.context, dtype=np.int64)
            self._device[KEYS] = self._memory.device(keys.nbytes, what)
            cuda.upload(self._device[KEYS], keys)
            self._activations = engine.activations(profile, self._memory, what)
        except BaseException:
            self._memory.close()
            raise
        self._count = 0
        self._context: Context | None = None
        self._bound: Mapping[str, int] | None = None

    def context(self, caches: Mapping[str, int]) -> Context:
        """A new context with everything bound, whose shapes are still to be said."""
        context = self._engine.context(self._profile, self._cuda, self._activations)
        context.bind({**self._device, **self._weights, **caches})
        return context

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs that vary, for the tokens that were fed."""
        count, width = self._count, self._host[HIDDEN].array.shape[1]
        rows = count if self._all else 1
        keys = (1, 1, 1, self.window)
        return {HIDDEN: (1, count, width), POSITIONS: (1, count), ROWS: (rows,), KEYS: keys}

    def feed(self, tokens: IntArray, length: int) -> None:
        """Writes the inputs of a step on the host's side."""
        count = self._count = len(tokens)
        self.window = self._section.window(length + count)
        self._embedding.look_up(tokens, self._host[HIDDEN].array[:count])
        self._host[POSITIONS].array[:count] = np.arange(length, length + count)
        self._host[LENGTH].array[0] = length
        if self._all:
            self._host[ROWS].array[:count] = np.arange(count)
        else:
            self._host[ROWS].array[0] = count - 1

    def run(self, caches: Mapping[str, int]) -> None:
        """Puts the step that was fed into the stream, with these caches."""
        if self._context is None:
            self._context = self.context(caches)
        elif self._bound is not caches:
            self._context.bind(caches)
        self._bound = caches
        self._context.shape(self.shapes())
        self.enqueue(self._context)

    def enqueue(self, context: Context) -> None:
        """Copies, the network, and a copy: all with addresses that stay."""
        cuda, host, device = self._cuda, self._host, self._device
        rows = self._count if self._all else 1
        counts = {HIDDEN: self._count, POSITIONS: self._count, LENGTH: 1, ROWS: rows}
        for name, count in counts.items():
            cuda.copy_in(device[name], host[name].address, count * host[name].array[0].nbytes)
        context.run()
        logits = host[LOGITS]
        cuda.copy_out(logits.address, device[LOGITS], rows * logits.array[0].nbytes)

    def capture(self, context: Context) -> Graph:
        """What `enqueue` does, as a graph."""
        return self._cuda.capture(lambda: self.enqueue(context))

    def logits(self, rows: int) -> FloatArray:
        """The first rows that the last step gave, [rows, vocab_size]; the caller's own."""
        return self._host[LOGITS].array[:rows].copy()

    def close(self) -> None:
        """Gives the memory back."""
        self._context = None
        self._memory.close()
