"""GPTQ against the textbook: one input at a time, explicit inverses, float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.packing import QuantizedTensor, Scheme, parse_scheme
from arkinfer.quant import feedback, gptq, round_to_nearest
from arkinfer.quant.factor import factor
from arkinfer.quant.scales import SHRINKS, best_grid, eleven_bits

SCHEMES = st.builds(
    Scheme,
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([0, 8, 24, 48, 192]),
    offset=st.sampled_from(["none", "zero"]),
)


def moments(inputs: int, seed: int, samples: int = 400) -> np.ndarray:
    """X^T X of correlated inputs of very different sizes, float64."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((inputs, inputs)) * 0.3 + np.eye(inputs)
    x = rng.standard_normal((samples, inputs)) @ mix * np.exp(rng.standard_normal(inputs))
    return x.T @ x


def matrix(rows: int, inputs: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, (rows, inputs)).astype(np.float32)


def loss(w: np.ndarray, q: QuantizedTensor, hessian: np.ndarray) -> float:
    """||(W - Q) X||^2."""
    d = w.astype(np.float64) - q.dequantize()
    return float(np.einsum("nk,kl,nl->", d, hessian, d))


def slow(
    w: np.ndarray, hessian: np.ndarray, scheme: Scheme, act_order: bool, static: bool
) -> np.ndarray:
    """The dequantized matrix by the paper's formulas: after each input the rest of the weights
    moves to its optimum, and the inverse of the Hessian loses that input."""
    inputs = w.shape[1]
    size = scheme.group or inputs
    h = hessian.astype(np.float64).copy()
    h[np.diag_indices(inputs)] += 0.01 * h.diagonal().mean()
    turn = np.argsort(-hessian.diagonal(), kind="stable") if act_order else np.arange(inputs)
    static = static or size == inputs
    home = (turn if static else np.arange(inputs)) // size
    shrinks = SHRINKS if scheme.bits < 8 else SHRINKS[:1]
    own = best_grid(w.reshape(len(w), -1, size), scheme, shrinks)
    scale, zero = eleven_bits(own.scale).astype(np.float64), own.zero
    current, out = w.astype(np.float64)[:, turn], np.empty(w.shape)
    inverse = np.linalg.inv(h[np.ix_(turn, turn)])
    for i in range(inputs):
        g = home[i]
        if not static and i % size == 0:
            fresh = best_grid(current[:, i : i + size].astype(np.float32)[:, None], scheme, shrinks)
            scale[:, g] = eleven_bits(fresh.scale)[:, 0]
            if fresh.zero is not None and zero is not None:
                zero[:, g] = fresh.zero[:, 0]
        middle = np.full(len(w), scheme.midpoint) if zero is None else zero[:, g].astype(np.float64)
        inverted = np.float32(1) / scale[:, g].astype(np.float32)
        code = np.clip(np.rint(current[:, i] * inverted) + middle, 0, 2**scheme.bits - 1)
        value = (code - middle) * scale[:, g]
        error = (current[:, i] - value) / inverse[i, i]
        current -= error[:, None] * inverse[i]
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
        out[:, turn[i]] = value
    return out


@settings(max_examples=60)
@given(SCHEMES, st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_it_is_what_the_paper_computes(
    scheme: Scheme, act_order: bool, static: bool, seed: int
) -> None:
    w, h = matrix(7, 192, seed), moments(192, seed)
    found = gptq(w, feedback(h.copy(), act_order=act_order), scheme, static_groups=static)
    expected = slow(w, h, scheme, act_order, static)
    equal = np.isclose(found.dequantize(), expected, rtol=1e-5, atol=1e-7)
    assert equal.all(axis=1).sum() >= 6  # a number between two codes may tip over, in one row
    in_order = static or scheme.group in (0, 192)
    assert found.scheme == replace(scheme, act_order=act_order and not in_order)


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-g32-asym", "int3-row", "int2-g64-asym"])
def test_the_outputs_are_nearer_than_by_rounding(scheme: str) -> None:
    w, h = matrix(33, 192, 1), moments(192, 1)
    spec = parse_scheme(scheme)
    plain = loss(w, round_to_nearest(w, spec), h)
    for act_order in (False, True):
        for static in (False, True):
            given_back = feedback(h.astype(np.float32), act_order=act_order)
            found = gptq(w, given_back, spec, static_groups=static)
            assert loss(w, found, h) < (0.9 if spec.bits == 2 else 0.75) * plain


@pytest.mark.parametrize("inputs", [8, 264, 776])
def test_the_factor(inputs: int) -> None:
    """M D M^T = H + damping, over one panel and several; M unit upper triangular."""
    h = moments(inputs, 3, samples=2 * inputs)
    given = h.copy()
    damping = factor(given, 0.01)
    m = np.triu(given, 1) + np.eye(inputs)
    damped = h + damping * h.diagonal().mean() * np.eye(inputs)
    undone = np.linalg.inv(m)
    d = undone @ damped @ undone.T
    assert damping == 0.01
    np.testing.assert_allclose(d - np.diag(d.diagonal()), 0, atol=1e-9 * d.diagonal().max())


def test_singular_moments_are_damped_until_they_have_a_factor() -> None:
    """Fewer samples than inputs, in float32, and no damping to begin with."""
    h = moments(300, 5, samples=3).astype(np.float32)
    h[:, 7] = h[7] = 0  # an input that was always 0
    given = feedback(h.copy(), damping=1e-12)
    assert 1e-12 < given.damping < 1e-2
    w = matrix(4, 300, 5)
    found = gptq(w, given, Scheme(4, 100))
    assert np.isfinite(found.dequantize()).all()
    assert loss(w, found, h.astype(np.float64)) < loss(w, round_to_nearest(w, Scheme(4, 100)), h)


def test_inputs_without_any_moment_are_rounded_to_the_nearest() -> None:
    w = matrix(9, 64, 6)
    found = gptq(w, feedback(np.zeros((64, 64), np.float32)), Scheme(4, 32))
    nearest = round_to_nearest(w, Scheme(4, 32))
    np.testing.assert_array_equal(found.scale, eleven_bits(nearest.scale))
    half_ulp = np.abs(nearest.dequantize()) * np.float32(2.0**-11)
    assert (np.abs(found.dequantize() - w) <= np.abs(nearest.dequantize() - w) + half_ulp).all()


def test_a_row_of_zeros_stays_one() -> None:
    w = matrix(5, 64, 7)
    w[2] = 0
    for offset in ("none", "zero"):
        found = gptq(w, feedback(moments(64, 7)), Scheme(4, 32, offset))
        assert not found.dequantize()[2].any()


@pytest.mark.parametrize("act_order", [False, True])
def test_threads_do_not_show(act_order: bool) -> None:
    """More rows and columns than one tile has."""
    w, h = matrix(2100, 520, 8), moments(520, 8).astype(np.float32)
    made = []
    with threadpool_limits(limits=1, user_api="blas"):
        for threads in (1, 2, 3):
            given = feedback(h.copy(), act_order=act_order, threads=threads)
            made.append(gptq(w, given, Scheme(4, 104), threads=threads))
    for other in made[1:]:
        for name, part in made[0].parts().items():
            np.testing.assert_array_equal(part, other.parts()[name])


def test_what_is_refused() -> None:
    w, h = matrix(4, 64, 9), moments(64, 9)
    with pytest.raises(UnsupportedError, match="int4-g48 does not fit a matrix with 64 inputs"):
        gptq(w, feedback(h.copy()), Scheme(4, 48))
    w[1, 1] = np.nan
    with pytest.raises(CheckpointError, match="weight holds numbers that are not finite"):
        gptq(w, feedback(h.copy()), Scheme(4, 32))
