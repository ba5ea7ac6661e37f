"""Blocks as ggml's own Python routines write them, and codes that are kept."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from arkinfer.errors import UnsupportedError
from arkinfer.export.gguf.encode import Q4_0, Q8_0, TQ2_0, Encoder
from arkinfer.packing import QuantizedTensor, Scheme, encode, parse_scheme
from arkinfer.packing.ternary import find_ternary, ternary_rows
from arkinfer.quant import round_to_nearest

ALL = pytest.mark.parametrize("encoder", [Q4_0, Q8_0, TQ2_0], ids=["q4_0", "q8_0", "tq2_0"])


def matrix(rows: int = 12, columns: int = 512, seed: int = 0) -> np.ndarray:
    """Numbers of many sizes, with rows of zeros, of one number, and of halves."""
    draw = np.random.default_rng(seed)
    found = draw.normal(size=(rows, columns)) * 10.0 ** draw.uniform(-4, 3, (rows, 1))
    found[0], found[1], found[2] = 0, 0.5, np.arange(columns) % 255 - 127 + 0.5
    found[3, ::2] = -0.0
    return found.astype(np.float32)


def ternary(rows: int = 12, columns: int = 512, seed: int = 0) -> np.ndarray:
    """Rows of {-s, 0, s}, the scale as bfloat16 has it."""
    draw = np.random.default_rng(seed)
    scale = (
        draw.uniform(0.01, 0.1, (rows, 1)).astype(np.float32).view(np.uint32) >> 16 << 16
    ).view(np.float32)
    scale[0] = 0
    return draw.integers(-1, 2, (rows, columns)).astype(np.float32) * scale


@ALL
@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_rounded_as_ggml_does_it(encoder: Encoder, seed: int) -> None:
    rows = ternary(seed=seed) if encoder is TQ2_0 else matrix(seed=seed)
    expected = quants.quantize(rows, GGMLQuantizationType(encoder.number))
    np.testing.assert_array_equal(encoder.nearest(rows), expected)


def symmetric(scheme: str, seed: int = 1) -> QuantizedTensor:
    """A quantized matrix whose scales are numbers of fp16."""
    rows = round_to_nearest(matrix(seed=seed)[4:], parse_scheme(scheme))
    parts = rows.parts() | {"scale": rows.scale.astype(np.float16).astype(np.float32)}
    return QuantizedTensor.from_parts(rows.scheme, rows.shape, parts)


@pytest.mark.parametrize(
    ("encoder", "scheme"),
    [
        (Q4_0, "int4-g32"), (Q4_0, "int4-g128"), (Q4_0, "int4-row"), (Q4_0, "int3-g64"),
        (Q8_0, "int8-g32"), (Q8_0, "int8-row"), (Q8_0, "int4-g128"), (Q8_0, "int6-g32"),
    ],
)  # fmt: skip
def test_codes_are_kept(encoder: Encoder, scheme: str) -> None:
    rows = symmetric(scheme)
    assert encoder.takes(rows.scheme)
    blocks, rounded = encoder.keep(rows)
    assert rounded == 0
    found = quants.dequantize(blocks, GGMLQuantizationType(encoder.number))
    np.testing.assert_array_equal(found, rows.dequantize())
    np.testing.assert_array_equal(encoder.type.decode(blocks).dequantize(), rows.dequantize())


@pytest.mark.parametrize("encoder", [Q4_0, Q8_0, TQ2_0])
def test_ternary_matrices_lose_nothing(encoder: Encoder) -> None:
    rows = ternary()
    scheme = find_ternary([rows])
    assert isinstance(scheme, Scheme)
    assert scheme.name == "int2-row"
    blocks, rounded = encoder.keep(ternary_rows(rows, scheme))
    assert rounded == 0
    found = quants.dequantize(blocks, GGMLQuantizationType(encoder.number))
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize(
    ("encoder", "scheme"),
    [
        (Q4_0, Scheme(8, 32)), (Q4_0, Scheme(4, 16)), (Q4_0, Scheme(4, 32, "zero")),
        (Q4_0, Scheme(4, 32, "min")), (Q4_0, Scheme(4, 32, act_order=True)),
        (TQ2_0, Scheme(2, 128)),
        (TQ2_0, Scheme(4, 256)), (Q8_0, Scheme(8, 32, "zero")),
    ],
)  # fmt: skip
def test_codes_that_a_type_cannot_hold(encoder: Encoder, scheme: Scheme) -> None:
    assert not encoder.takes(scheme)


def test_scales_that_fp16_does_not_have_are_counted() -> None:
    rows = symmetric("int4-g128")
    scale = rows.scale.copy()
    scale[0, 0] *= np.float32(1 + 2**-14)
    scale[2, 1:3] *= np.float32(1 + 2**-14)
    changed = QuantizedTensor.from_parts(rows.scheme, rows.shape, rows.parts() | {"scale": scale})
    blocks, rounded = Q4_0.keep(changed)
    assert rounded == 3
    np.testing.assert_array_equal(blocks, Q4_0.keep(rows)[0])


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="A scale is beyond what GGUF's fp16 can hold"):
        Q8_0.nearest(np.full((1, 32), 1e8, np.float32))
    with pytest.raises(UnsupportedError, match="not ternary in blocks of 256 inputs"):
        TQ2_0.nearest(matrix()[4:])
    four = encode(Scheme(2, 256), np.zeros((1, 1, 256), np.uint8), np.ones((1, 1), np.float32))
    with pytest.raises(UnsupportedError, match="four different numbers"):
        TQ2_0.keep(four)
