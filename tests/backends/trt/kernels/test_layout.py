"""Repacked matrices against a slow oracle that places every code by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import UnsupportedError
from arkinfer.packing import QuantizedTensor, Scheme, encode
from arkinfer_trt.kernels.gemv import Gemv
from arkinfer_trt.kernels.layout import repacked
from tests.backends.trt.kernels.problems import matrix


def oracle(weights: QuantizedTensor) -> tuple[list[list[list[int]]], list[list[list[float]]]]:
    """Words and scales, by the formulas of the layout, number by number."""
    gemv = Gemv.of(weights.scheme, weights.shape)
    words = [[[0] * 4 for _ in range(gemv.columns)] for _ in range(gemv.quads)]
    scale = [[[0.0] * 4 for _ in range(gemv.groups)] for _ in range(gemv.quads)]
    codes = weights.unpacked().reshape(weights.shape)
    for n in range(gemv.width):
        for k in range(gemv.inputs):
            at = k % gemv.per_word * gemv.bits
            words[n // 4][k // gemv.per_word][n % 4] |= int(codes[n, k]) << at
            scale[n // 4][k // gemv.group][n % 4] = float(weights.scale[n, k // gemv.group])
    return words, scale


@settings(max_examples=60)
@given(
    st.sampled_from([2, 4, 8]),
    st.integers(1, 6),
    st.integers(1, 4),
    st.booleans(),
    st.integers(1, 11),
    st.integers(0, 2**30),
)
def test_every_code_is_at_its_place(
    bits: int, words: int, groups: int, row: bool, width: int, seed: int
) -> None:
    group = words * 32 // bits
    scheme = Scheme(bits, 0 if row else group)
    weights = matrix(scheme, width, group * groups, seed)
    found = repacked(weights)
    parts = Gemv.of(scheme, weights.shape).parts()
    assert {name: (part.dtype.name, part.shape) for name, part in found.items()} == parts
    codes, scale = oracle(weights)
    np.testing.assert_array_equal(found["words"].view(np.uint32), codes)
    np.testing.assert_array_equal(found["scale"], scale)


@settings(max_examples=20)
@given(st.sampled_from([2, 4, 8]), st.integers(1, 30), st.integers(0, 2**30))
def test_parts_of_a_matrix_give_parts_of_the_layout(bits: int, width: int, seed: int) -> None:
    weights = matrix(Scheme(bits, 32), width, 96, seed)
    whole = repacked(weights)
    step = 4 * (1 + seed % 3)
    pieces = [repacked(weights.rows(slice(at, at + step))) for at in range(0, width, step)]
    for name, part in whole.items():
        np.testing.assert_array_equal(np.concatenate([p[name] for p in pieces]), part)


def test_bytes_are_those_of_the_canonical_form() -> None:
    weights = matrix(Scheme(4, 128), 4096, 1024, 0)
    gemv = Gemv.of(weights.scheme, weights.shape)
    assert sum(part.nbytes for part in repacked(weights).values()) == gemv.nbytes == weights.nbytes


def test_scales_are_rounded_to_float16() -> None:
    scale = np.array([[1 / 3], [1e-9]], np.float32)
    weights = encode(Scheme(4, 32), np.zeros((2, 1, 32), np.uint8), scale)
    assert repacked(weights)["scale"][0, 0].tolist() == [float(np.float16(1 / 3)), 0, 0, 0]


def test_scales_beyond_float16_are_refused() -> None:
    scale = np.array([[1.0], [7e4]], np.float32)
    weights = encode(Scheme(4, 32), np.zeros((2, 1, 32), np.uint8), scale)
    with pytest.raises(UnsupportedError) as refusal:
        repacked(weights)
    assert str(refusal.value) == (
        "A matrix of int4-g32 cannot be repacked. It has scales that float16 cannot hold."
    )
