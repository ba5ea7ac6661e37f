"""A small real model for tests of the runtime: logits depend on every token before, in numpy.

Its cache holds one row per token, so that a wrong truncate, a lost chunk or a stale row changes
the logits. It knows no backend of ours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from arkinfer.artifact import Artifact, Section
from arkinfer.errors import DeviceError, UsageError
from arkinfer.runtime.contract import FloatArray, IntArray, LoadOptions, Rows, StepOutput

WIDTH = 16


class BigramExecutable:
    """logits[t] = E · (e[x_t] + 0.5 · mean of rows 0…t): a bigram with a memory."""

    features: frozenset[str] = frozenset()

    def __init__(self, vocab_size: int, max_context: int, chunk: int, seed: int = 0) -> None:
        self.vocab_size, self.max_context, self.chunk = vocab_size, max_context, chunk
        random = np.random.default_rng(seed)
        self.rows = random.standard_normal((vocab_size, WIDTH)).astype(np.float32)
        self.head = random.standard_normal((WIDTH, vocab_size)).astype(np.float32)
        self.before_step: Callable[[int], None] = lambda length: None
        self.steps: list[int] = []
        self.states = 0
        self.closed = False

    def new_state(self, context: int) -> BigramState:
        assert 1 <= context <= self.max_context
        self.states += 1
        return BigramState(self, context)

    def close(self) -> None:
        self.closed = True


class SpecialBigram(BigramExecutable):
    """As if it had kernels for several instruction sets."""

    variant = ""


class BigramState:
    def __init__(self, model: BigramExecutable, capacity: int) -> None:
        self._model, self.capacity, self.length = model, capacity, 0
        self._cache = np.full((capacity, WIDTH), np.nan, np.float32)

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        model = self._model
        if not 0 < len(tokens) <= model.chunk or self.length + len(tokens) > self.capacity:
            raise UsageError("wrong number of tokens")
        if tokens.dtype != np.int64 or tokens.min() < 0 or tokens.max() >= model.vocab_size:
            raise UsageError("wrong token")
        model.before_step(self.length)
        model.steps.append(len(tokens))
        end = self.length + len(tokens)
        self._cache[self.length : end] = model.rows[tokens]
        sums = np.cumsum(self._cache[:end], axis=0)[self.length :]
        hidden = model.rows[tokens] + 0.5 * sums / np.arange(self.length + 1, end + 1)[:, None]
        self.length = end
        wanted = {"none": slice(0, 0), "last": slice(-1, None), "all": slice(None)}[rows]
        return StepOutput((hidden[wanted].astype(np.float32) @ model.head).astype(np.float32))

    def truncate(self, length: int) -> None:
        assert 0 <= length <= self.length
        self.length = length
        self._cache[length:] = np.nan


class BigramExecutor:
    """Opens sections of the backend "bigram"; its config: chunk, seed and force."""

    name = "bigram"

    def open(self, artifact: Artifact, section: Section, options: LoadOptions) -> BigramExecutable:
        if "missing-chip" in section.requires:
            raise DeviceError("This device has no such chip", "The section needs it", "Buy one")
        manifest, config = artifact.manifest, section.config
        executable = (SpecialBigram if section.variants else BigramExecutable)(
            manifest["model"]["vocab_size"], manifest["context"], config["chunk"], config["seed"]
        )
        if isinstance(executable, SpecialBigram):
            executable.variant = section.variants[-1]
        return executable


def naive_logits(model: BigramExecutable, ids: list[int]) -> FloatArray:
    """The formula of `BigramExecutable` in float64 without a cache, [len(ids), vocab_size]."""
    rows = model.rows[np.asarray(ids)].astype(np.float64)
    means = np.stack([rows[: t + 1].mean(axis=0) for t in range(len(ids))])
    return ((rows + 0.5 * means) @ model.head.astype(np.float64)).astype(np.float32)
