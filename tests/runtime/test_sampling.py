"""Sampling against the formulas in float64, and by counting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from arkinfer.errors import InternalError, UsageError
from arkinfer.runtime.sampling import Sampler, SamplingParams, distribution, penalize, pick


def naive(scores: npt.NDArray[Any], params: SamplingParams) -> dict[int, float]:
    """The definitions, one token at a time, in float64."""
    values = {i: float(score) / params.temperature for i, score in enumerate(scores)}
    if params.top_k:
        least = sorted(values.values(), reverse=True)[: params.top_k][-1]
        values = {i: v for i, v in values.items() if v >= least}
    best = max(values.values())
    weights = {i: math.exp(v - best) for i, v in values.items()}
    if params.top_p < 1:
        kept, mass, total = {}, 0.0, math.fsum(weights.values())
        for i in sorted(weights, key=lambda i: (-weights[i], i)):
            kept[i] = weights[i]
            mass += weights[i]
            if mass >= params.top_p * total:
                break
        weights = kept
    if params.min_p:
        weights = {i: w for i, w in weights.items() if w >= params.min_p * max(weights.values())}
    total = math.fsum(weights.values())
    return {i: w / total for i, w in weights.items()}


scores = arrays(np.float32, st.integers(1, 60), elements=st.floats(-30, 30, width=32))


@given(
    scores=scores,
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.01, 1),
    min_p=st.sampled_from([0, 0.01, 0.3, 1]),
)
def test_the_distribution_is_the_formulas(
    scores: npt.NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float
):
    params = SamplingParams(temperature, top_k, top_p, min_p)
    ids, probabilities = distribution(scores, params)
    expected = naive(scores, params)
    found = dict(zip(ids.tolist(), probabilities.tolist(), strict=True))
    assert math.isclose(sum(found.values()), 1, abs_tol=1e-12)
    # At the very edge of a filter a token may fall on either side, by rounding.
    for token in found.keys() ^ expected.keys():
        alone = naive(scores, SamplingParams(temperature, top_k))
        edge = min(expected[t] for t in expected.keys() & found.keys())
        assert alone[token] <= edge * (1 + 1e-9)
        return
    for token, probability in expected.items():
        assert math.isclose(found[token], probability, rel_tol=1e-9, abs_tol=1e-300)


def test_a_whole_vocabulary_is_as_good_as_float64():
    scores = np.random.default_rng(3).standard_normal(73448).astype(np.float32) * 4
    params = SamplingParams(0.8, top_p=0.9)
    ids, probabilities = distribution(scores, params)
    expected = naive(scores, params)
    assert abs(len(ids) - len(expected)) <= 2
    for token, probability in zip(ids.tolist()[:200], probabilities.tolist(), strict=False):
        assert math.isclose(probability, expected[token], rel_tol=1e-4)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1.0, seed=1),
        SamplingParams(0.5, seed=2),
        SamplingParams(1.0, top_k=3, seed=3),
        SamplingParams(1.0, top_p=0.7, seed=4),
        SamplingParams(2.0, min_p=0.2, seed=5),
    ],
)
def test_frequencies_follow_the_distribution(params: SamplingParams):
    """Pearson's chi-square; the bound is its 99.9 % quantile for up to 7 degrees of freedom."""
    logits = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, 1.2], np.float32)
    sampler = Sampler(params)
    count = 20_000
    drawn = np.bincount([sampler.sample(logits) for _ in range(count)], minlength=8)
    expected = naive(logits, params)
    assert set(np.flatnonzero(drawn).tolist()) <= expected.keys()
    chi = sum((drawn[i] - count * p) ** 2 / (count * p) for i, p in expected.items())
    assert chi < 24.32


@given(
    weights=arrays(np.float64, st.integers(1, 900), elements=st.sampled_from([0.0, 1.0, 0.25])),
    place=st.floats(0, 1, exclude_max=True),
)
def test_a_place_in_the_weights(weights: npt.NDArray[np.float64], place: float):
    if weights.sum() == 0:
        weights[-1] = 1.0
    index = pick(weights, place)  # the sums are exact: quarters
    ends = np.cumsum(weights)
    assert weights[index] > 0
    assert ends[index] - weights[index] <= place * ends[-1] <= ends[index]


def test_rounding_never_picks_what_is_forbidden():
    weights = np.array([0.1] * 600 + [0.0] * 100)
    for place in (np.nextafter(1, 0), 1.0):  # 1.0 is what rounding could make of it
        assert pick(weights, float(place)) == 599


@given(scores=scores)
def test_temperature_zero_takes_the_likeliest(scores: npt.NDArray[np.float32]):
    assert Sampler(SamplingParams()).sample(scores) == int(scores.argmax())


@given(
    scores=arrays(np.float32, st.integers(1, 60), elements=st.integers(-30, 30).map(float)),
    seed=st.integers(0, 5),
)
def test_a_tiny_temperature_is_greedy_too(scores: npt.NDArray[np.float32], seed: int):
    token = Sampler(SamplingParams(1e-40, seed=seed)).sample(scores)
    assert scores[token] == scores.max()


def test_a_seed_repeats_its_choices_and_touches_no_global_state():
    logits = np.zeros(50, np.float32)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(1.0, seed=seed))
        return [sampler.sample(logits) for _ in range(20)]

    np.random.seed(7)  # the global generator, which must not matter
    first = draw(11)
    np.random.seed(8)
    assert draw(11) == first
    assert draw(12) != first


@given(scores=scores, penalty=st.floats(0.1, 3), data=st.data())
def test_the_penalty_is_ctrls(scores: npt.NDArray[np.float32], penalty: float, data: st.DataObject):
    seen = data.draw(st.sets(st.integers(0, len(scores) - 1)))
    before = scores.copy()
    found = penalize(scores, np.array(sorted(seen), np.int64), penalty)
    for i, score in enumerate(before.tolist()):
        expected = (score * penalty if score < 0 else score / penalty) if i in seen else score
        assert math.isclose(found[i], expected, rel_tol=1e-5, abs_tol=1e-30)
    assert np.array_equal(scores, before)


def test_prompt_and_answer_count_for_the_penalty():
    logits = np.array([1.0, 0.9, 0.8, -1.0], np.float32)
    sampler = Sampler(SamplingParams(repetition_penalty=2.0), prompt=[0, 0])
    assert [sampler.sample(logits) for _ in range(3)] == [1, 2, 0]


def test_minus_infinity_forbids_a_token():
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    sampler = Sampler(SamplingParams(1.0, repetition_penalty=1.5), prompt=[0])
    assert {sampler.sample(logits) for _ in range(100)} == {1, 3}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_logits_are_named(bad: float, temperature: float):
    logits = np.array([0.0, bad, 1.0], np.float32)
    with pytest.raises(InternalError, match=r"^The model's output is not a number\. The backend"):
        Sampler(SamplingParams(temperature)).sample(logits)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("temperature", -1.0, "temperature cannot be -1.0. It must be a number of at least 0."),
        ("temperature", math.nan, "temperature cannot be nan. It must be a number of at least 0."),
        ("temperature", math.inf, "temperature cannot be inf. It must be a number of at least 0."),
        ("top_k", -1, "top_k cannot be -1. It must be a whole number from 0 up."),
        ("top_k", 1.5, "top_k cannot be 1.5. It must be a whole number from 0 up."),
        ("top_p", 0.0, "top_p cannot be 0.0. It must be above 0 and at most 1."),
        ("top_p", 1.1, "top_p cannot be 1.1. It must be above 0 and at most 1."),
        ("min_p", 2.0, "min_p cannot be 2.0. It must be between 0 and 1."),
        ("repetition_penalty", 0.0,
         "repetition_penalty cannot be 0.0. It must be above 0; 1 means none."),
        ("seed", True, "seed cannot be True. It must be a whole number from 0 up."),
    ],
)  # fmt: skip
def test_values_out_of_range(name: str, value: Any, text: str):
    with pytest.raises(UsageError) as caught:
        SamplingParams(**{name: value})
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, SamplingParams()),
        ({"do_sample": True}, SamplingParams(temperature=1.0)),
        ({"do_sample": True, "temperature": 0.8, "top_p": 0.8}, SamplingParams(0.8, top_p=0.8)),
        ({"do_sample": False, "temperature": 0.8}, SamplingParams()),
        ({"temperature": 0.6, "top_k": None, "min_p": 0.1}, SamplingParams(0.6, min_p=0.1)),
    ],
)
def test_defaults_of_a_generation_config(generation: dict[str, Any], expected: SamplingParams):
    assert SamplingParams.from_generation(generation) == expected
