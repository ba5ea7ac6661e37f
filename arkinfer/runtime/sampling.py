"""Chooses the next token from logits. Knows no model, no tokenizer and no stop rule.

The filters come in the order of Hugging Face's generate(): repetition penalty, temperature,
top-k, top-p, min-p. Source: `transformers/generation/logits_process.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.errors import InternalError, UsageError
from arkinfer.runtime.contract import FloatArray, IntArray

DoubleArray: TypeAlias = npt.NDArray[np.float64]
Weights: TypeAlias = FloatArray | DoubleArray

_BLOCK = 256
_SMALL = 4096  # candidates; float64 costs nothing up to here, and 1 ms on a whole vocabulary


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens; the defaults are greedy.

    Attributes:
        temperature: what logits are divided by; 0: always the most likely token.
        top_k: keep the k most likely tokens (and ties); 0: all.
        top_p: keep the fewest tokens that together have this probability; 1: all.
        min_p: keep tokens at least this likely relative to the most likely one; 0: all.
        repetition_penalty: logits of tokens already in prompt or answer are divided by it when
            positive, multiplied when negative (CTRL, arXiv:1909.05858); 1: none.
        seed: of the random numbers; the same seed gives the same choices.

    Raises:
        UsageError: a value outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_0 = "it must be a number of at least 0"
        _check("temperature", self.temperature, self.temperature >= 0, at_least_0)
        _check_whole("top_k", self.top_k)
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "it must be above 0 and at most 1")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "it must be between 0 and 1")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, penalty > 0, "it must be above 0; 1 means none")
        _check_whole("seed", self.seed)

    @staticmethod
    def from_generation(generation: Mapping[str, Any], *, seed: int = 0) -> SamplingParams:
        """The defaults that a generation_config.json, or an artifact's manifest, asks for.

        `do_sample: false` is greedy whatever else is there; an absent filter is off.
        """
        sample = generation.get("do_sample")
        temperature = generation.get("temperature")
        if sample is False:
            temperature = 0.0
        elif temperature is None:
            temperature = 1.0 if sample else 0.0

        def value(key: str, default: float) -> Any:
            given = generation.get(key)
            return default if given is None else given

        return SamplingParams(
            temperature=temperature,
            top_k=max(value("top_k", 0), 0),  # some files say -1 for off
            top_p=value("top_p", 1.0),
            min_p=value("min_p", 0.0),
            repetition_penalty=value("repetition_penalty", 1.0),
            seed=seed,
        )


class Sampler:
    """Chooses the tokens of one sequence, with random numbers of its own.

    Args:
        params: how to choose.
        prompt: the tokens before; they count for the repetition penalty.
    """

    def __init__(self, params: SamplingParams, prompt: Iterable[int] = ()) -> None:
        self._params = params
        self._random = np.random.Generator(np.random.PCG64(params.seed))
        self._prompt = np.unique(np.fromiter(prompt, np.int64))
        self._buffer: FloatArray | None = None  # a new one for each token costs page faults
        self._seen: npt.NDArray[np.bool_] | None = None

    def sample(self, logits: FloatArray) -> int:
        """The next token for logits float32 [vocab].

        Raises:
            InternalError: a logit is NaN or +infinity (-infinity forbids a token).
        """
        best = int(logits.argmax())  # of NaNs, if there are any: then it is the first one
        if not math.isfinite(logits[best]):
            raise InternalError(
                "The model's output is not a number",
                "The backend or the quantized weights overflowed",
                'Check the file with "arkinfer verify"',
            )
        params = self._params
        if params.repetition_penalty == 1:
            return best if params.temperature == 0 else self._draw(logits)
        if self._seen is None:
            self._seen = np.zeros(len(logits), np.bool_)
            self._seen[self._prompt] = True
        scores = penalize(logits, np.flatnonzero(self._seen), params.repetition_penalty)
        token = int(scores.argmax()) if params.temperature == 0 else self._draw(scores)
        self._seen[token] = True
        return token

    def _draw(self, scores: FloatArray) -> int:
        if self._buffer is None:
            self._buffer = np.empty(len(scores), np.float32)
        ids, weights = _candidates(scores, self._params, self._buffer)
        place = pick(weights, self._random.random())
        return place if ids is None else int(ids[place])


def penalize(logits: FloatArray, seen: IntArray, penalty: float) -> FloatArray:
    """A copy of the logits with the tokens in `seen` made less likely."""
    scores = logits.copy()
    some = scores[seen]
    scores[seen] = np.where(some < 0, some * np.float32(penalty), some / np.float32(penalty))
    return scores


def distribution(scores: FloatArray, params: SamplingParams) -> tuple[IntArray, DoubleArray]:
    """The tokens that temperature, top-k, top-p and min-p leave, and their probabilities.

    Args:
        scores: float32 [vocab], after the repetition penalty.
        params: temperature above 0 and the filters.

    Returns:
        ids int64 [n] and probabilities float64 [n] that sum to 1. Of equally likely tokens at
        the edge of top-p, the lower ids stay.
    """
    ids, weights = _candidates(scores, params)
    probabilities = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    return np.arange(len(scores)) if ids is None else ids, probabilities


def pick(weights: Weights, place: float) -> int:
    """The index at a place, 0 <= place < 1, of the weights laid end to end; never one of weight 0.

    Summed block by block, which for a whole vocabulary is ten times faster than one by one.
    """
    edges = np.arange(0, len(weights), _BLOCK)
    ends = np.cumsum(np.add.reduceat(weights, edges, dtype=np.float64))
    target = place * ends[-1]
    block = min(int(np.searchsorted(ends, target, side="right")), len(ends) - 1)
    inside = weights[edges[block] : edges[block] + _BLOCK]
    if block:
        target -= ends[block - 1]
    index = int(np.searchsorted(np.cumsum(inside, dtype=np.float64), target, side="right"))
    if index == len(inside):  # past the end, by rounding
        index = int(np.flatnonzero(inside)[-1])
    return int(edges[block]) + index


def _candidates(
    scores: FloatArray, params: SamplingParams, buffer: FloatArray | None = None
) -> tuple[IntArray | None, Weights]:
    """The tokens that the filters leave (None: all) and their weights, which sum to anything.

    Args:
        scores: float32 [vocab].
        params: the filters.
        buffer: float32 [vocab], for the weights.
    """
    ids, some = None, scores
    if 0 < params.top_k < len(scores):
        ids = np.flatnonzero(scores >= np.partition(scores, -params.top_k)[-params.top_k])
        some = scores[ids]
    weights = _weights(some, float(scores.max()), params.temperature, buffer)
    if params.top_p < 1:
        places = _top_p(weights, params.top_p)
        ids, weights = places if ids is None else ids[places], weights[places]
    if params.min_p > 0:
        places = np.flatnonzero(weights >= params.min_p * weights.max())
        ids, weights = places if ids is None else ids[places], weights[places]
    return ids, weights


def _weights(
    scores: FloatArray, best: float, temperature: float, buffer: FloatArray | None
) -> Weights:
    """exp((score - best) / temperature), of which the largest is 1."""
    temperature = max(temperature, 1e-30)  # a smaller one would be 0 as a float32
    with np.errstate(over="ignore", under="ignore"):
        if len(scores) <= _SMALL:
            return np.exp((scores.astype(np.float64) - best) / temperature)
        out = None if buffer is None else buffer[: len(scores)]
        weights = np.subtract(scores, np.float32(best), out=out)
        weights /= np.float32(temperature)
        return np.exp(weights, out=weights)


def _top_p(weights: Weights, top_p: float) -> IntArray:
    """Places of the most likely tokens up to the one with which their sum reaches `top_p`."""
    mass = weights.sum(dtype=np.float64)
    # All tokens under this weight together have less than 1 - top_p, so none of them stays:
    # most need no sorting. The margin is for rounding.
    strong = np.flatnonzero(weights > (1 - top_p) * mass / len(weights) * 0.999)
    kept = weights[strong].astype(np.float64)
    order = np.argsort(-kept, kind="stable")
    count = int(np.searchsorted(np.cumsum(kept[order]), top_p * mass)) + 1
    return strong[order[:count]]


def _check(name: str, value: float, in_range: bool, rule: str) -> None:
    if not (in_range and math.isfinite(value)):
        raise UsageError(f"{name} cannot be {value}", "", rule.capitalize())


def _check_whole(name: str, value: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)  # pyright: ignore[reportUnnecessaryIsInstance] (callers may be untyped)
    if not whole or value < 0:
        raise UsageError(f"{name} cannot be {value}", "", "It must be a whole number from 0 up")
