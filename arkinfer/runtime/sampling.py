"""Chooses the next token from logits. Knows no model, no tokenizer and no stop rule.

The filters come in the order of Hugging Face's generate(): repetition penalty, temperature,
top-k, top-p, min-p. Source: `transformers/generation/logits_process.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import InternalError, UsageError
from arkinfer.runtime.contract import FloatArray, IntArray

DoubleArray = npt.NDArray[np.float64]

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
        ids, weights = distribution(scores, self._params)
        cumulative = np.cumsum(weights)
        place = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(ids[min(int(place), len(ids) - 1)])


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
    ids = _top_k(scores, params.top_k)
    weights = _weights(scores[ids], float(scores.max()), params.temperature)
    if params.top_p < 1:
        ids, weights = _top_p(ids, weights, params.top_p)
    if params.min_p > 0:
        strong = weights >= params.min_p * weights.max()
        ids, weights = ids[strong], weights[strong]
    return ids, weights / weights.sum()


def _top_k(scores: FloatArray, k: int) -> IntArray:
    if not 0 < k < len(scores):
        return np.arange(len(scores))
    return np.flatnonzero(scores >= np.partition(scores, -k)[-k])


def _weights(scores: FloatArray, best: float, temperature: float) -> DoubleArray:
    """exp((score - best) / temperature), of which the largest is 1."""
    exponent = scores.astype(np.float64) if len(scores) <= _SMALL else scores - np.float32(best)
    if len(scores) <= _SMALL:
        exponent -= best
    with np.errstate(over="ignore", under="ignore"):
        exponent /= max(temperature, 1e-30)  # a smaller one would be 0 as a float32
        return np.exp(exponent).astype(np.float64, copy=False)


def _top_p(ids: IntArray, weights: DoubleArray, top_p: float) -> tuple[IntArray, DoubleArray]:
    """Keeps the most likely tokens up to the one with which their sum reaches `top_p`."""
    mass = weights.sum()
    # All tokens under this weight together have less than 1 - top_p, so none of them stays:
    # most need no sorting. The margin is for rounding.
    strong = weights > (1 - top_p) * mass / len(weights) * 0.999
    ids, weights = ids[strong], weights[strong]
    order = np.argsort(-weights, kind="stable")
    count = int(np.searchsorted(np.cumsum(weights[order]), top_p * mass)) + 1
    return ids[order[:count]], weights[order[:count]]


def _check(name: str, value: float, in_range: bool, rule: str) -> None:
    if not (in_range and math.isfinite(value)):
        raise UsageError(f"{name} cannot be {value}", "", rule.capitalize())


def _check_whole(name: str, value: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not whole or value < 0:
        raise UsageError(f"{name} cannot be {value}", "", "It must be a whole number from 0 up")
