"""AWQ against exhaustive search and planted channels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.packing import Scheme, parse_scheme
from arkinfer.quant import Moments, round_for_outputs, round_to_nearest, smoothing
from arkinfer.quant.awq import CLIPS


def moments_of(x: np.ndarray, threads: int = 1) -> Moments:
    with ThreadPoolExecutor(threads) as pool:
        found = Moments(x.shape[1])
        for part in np.array_split(x, 3):
            found.add(np.ascontiguousarray(part), pool)
    return found.finish()


def data(inputs: int, seed: int, hot: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights [24, K] and inputs [500, K], of which the first `hot` are large."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((500, inputs)) @ (
        np.eye(inputs) + 0.2 * rng.standard_normal((inputs, inputs))
    )
    x[:, :hot] *= 50
    w = rng.standard_t(4, (24, inputs))
    return w.astype(np.float32), x.astype(np.float32)


def lost(w: np.ndarray, back: np.ndarray, x: np.ndarray) -> float:
    return float((((w.astype(np.float64) - back) @ x.T.astype(np.float64)) ** 2).sum())


@pytest.mark.parametrize("inputs", [7, 1500])
def test_moments(inputs: int) -> None:
    """Over one tile and over several, whatever the number of threads."""
    _, x = data(inputs, 1)
    with threadpool_limits(limits=1, user_api="blas"):
        found, other = moments_of(x), moments_of(x, threads=2)
    wide = x.astype(np.float64)
    expected = wide.T @ wide
    np.testing.assert_allclose(found.hessian, expected, rtol=0, atol=1e-5 * expected.max())
    np.testing.assert_array_equal(found.hessian, found.hessian.T)
    np.testing.assert_array_equal(found.hessian, other.hessian)
    np.testing.assert_allclose(found.magnitude, np.abs(wide).mean(0), rtol=1e-5)
    assert found.count == 500


@pytest.mark.parametrize("scheme", ["int4-g32", "int3-g16-asym", "int4-row"])
def test_smoothing_saves_hot_inputs(scheme: str) -> None:
    w, x = data(96, 2, hot=3)
    spec = parse_scheme(scheme)
    s = smoothing([w[:10], w[10:]], moments_of(x), [spec, spec])
    assert s[:3].min() > 3 * np.median(s[3:])
    assert (s.dtype, s.shape) == (np.float32, (96,))
    plain = round_to_nearest(w, spec).dequantize()
    smooth = round_to_nearest(w * s, spec).dequantize() / s
    assert lost(w, smooth, x) < 0.5 * lost(w, plain, x)


def test_smoothing_spares_inputs_that_it_never_saw() -> None:
    """They may be large in positions that were left out, where rounding to nothing would hurt."""
    w, x = data(96, 2, hot=3)
    x[:, 40] = 0
    s = smoothing([w], moments_of(x), [Scheme(4, 32)])
    assert s[40] > 0.2 * np.median(s)
    back = round_to_nearest(w * s, Scheme(4, 32)).dequantize() / s
    assert np.abs(back - w)[:, 40].mean() < 0.3 * np.abs(w[:, 40]).mean()


def test_smoothing_leaves_even_inputs_alone() -> None:
    w, _ = data(64, 3)
    x = np.random.default_rng(3).choice([-1.0, 1.0], (500, 64)).astype(np.float32)
    np.testing.assert_array_equal(smoothing([w], moments_of(x), [Scheme(4, 32)]), 1)


@settings(max_examples=20)
@given(st.sampled_from(["int4-g16", "int3-g24", "int2-g12-asym", "int4-g16-asym"]),
       st.integers(0, 2**32))  # fmt: skip
def test_ranges_are_the_best_of_those_tried(scheme: str, seed: int) -> None:
    """Group by group, with the codes of each range and their best scale, in float64."""
    w, x = data(48, seed)
    spec = parse_scheme(scheme)
    found = round_for_outputs(w, moments_of(x), spec).dequantize().astype(np.float64)
    h = x.astype(np.float64).T @ x.astype(np.float64)
    least = 0.01 * h.diagonal().mean()
    for start in range(0, 48, spec.group):
        part = slice(start, start + spec.group)
        metric = h[part, part] + least * np.eye(spec.group)
        for row, back in zip(w[:, part].astype(np.float64), found[:, part], strict=True):
            tried = [_error(row, _codes(row, spec, clip), metric) for clip in CLIPS]
            assert (row - back) @ metric @ (row - back) <= min(tried) * (1 + 1e-3)


def _codes(w: np.ndarray, scheme: Scheme, clip: float) -> np.ndarray:
    if scheme.offset == "none":
        high = scheme.midpoint - 1
        return np.clip(np.rint(w * high / (np.abs(w).max() * clip)), -high - 1, high)
    top = 2**scheme.bits - 1
    low, high = min(w.min(), 0), max(w.max(), 0)
    step = (high - low) * clip / top
    zero = np.clip(np.rint(-low * clip / step), 0, top)
    return np.clip(np.rint(w / step), -zero, top - zero)


def _error(w: np.ndarray, q: np.ndarray, metric: np.ndarray) -> float:
    scale = max(0, w @ metric @ q) / (q @ metric @ q)
    return float((w - scale * q) @ metric @ (w - scale * q))


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-row", "int3-g32-asym"])
def test_outputs_are_nearer_than_by_plain_errors(scheme: str) -> None:
    inputs = 576 if scheme == "int4-row" else 96  # a row too wide for products within groups
    w, x = data(inputs, 4, hot=3)
    spec = parse_scheme(scheme)
    found = round_for_outputs(w, moments_of(x), spec).dequantize()
    assert lost(w, found, x) < lost(w, round_to_nearest(w, spec).dequantize(), x)


def test_inputs_never_seen_keep_their_weights() -> None:
    w, x = data(64, 5)
    x[:, :32] = 0
    found = round_for_outputs(w, moments_of(x), Scheme(4, 32)).dequantize()
    assert np.abs(found - w)[:, :32].mean() < 0.25 * np.abs(w[:, :32]).mean()


def test_rows_of_zeros_and_threads() -> None:
    w, x = data(64, 6)
    w = np.tile(w, (30, 1))
    w[5] = 0
    with threadpool_limits(limits=1, user_api="blas"):
        scheme = Scheme(4, 32, "zero")
        made = [round_for_outputs(w, moments_of(x), scheme, threads) for threads in (1, 2)]
    assert not made[0].dequantize()[5].any()
    for name, part in made[0].parts().items():
        np.testing.assert_array_equal(part, made[1].parts()[name])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_inputs_that_are_not_finite_are_refused(value: float) -> None:
    _, x = data(64, 7)
    x[3, 3] = value  # or too large to be squared
    with pytest.raises(CheckpointError, match="activations of the calibration text are not finite"):
        moments_of(x)


def test_what_is_refused() -> None:
    w, x = data(64, 7)
    seen = moments_of(x)
    with pytest.raises(UnsupportedError, match="int4-g48 does not fit"):
        round_for_outputs(w, seen, Scheme(4, 48))
    with pytest.raises(UnsupportedError, match="int4-g48 does not fit"):
        smoothing([w], seen, [Scheme(4, 48)])
    w[3, 3] = np.inf
    with pytest.raises(CheckpointError, match="not finite"):
        round_for_outputs(w, seen, Scheme(4, 32))
    with pytest.raises(CheckpointError, match="not finite"):
        smoothing([w], seen, [Scheme(4, 32)])
