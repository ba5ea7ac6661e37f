"""Every block type against ggml's own Python routines, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from arkinfer.errors import CheckpointError
from arkinfer.frontend.gguf.blocks import TYPES, BlockType, type_name
from tests.frontend.gguf.blocks import PACKED, random_rows

SCHEMES = {
    "Q4_0": "int4-g32", "Q4_1": "int4-g32-min", "Q5_0": "int5-g32", "Q5_1": "int5-g32-min",
    "Q8_0": "int8-g32", "Q4_K": "int4-g32-min", "Q5_K": "int5-g32-min", "Q6_K": "int6-g16",
    "TQ1_0": "int2-g256", "TQ2_0": "int2-g256",
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKED, ids=type_name)
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (5, 3), (64, 8)])
def test_the_numbers_are_those_of_ggml(kind: int, rows: int, blocks: int) -> None:
    block = PACKED[kind]
    data = random_rows(block, rows, blocks * block.elements, seed=rows)
    expected = quants.dequantize(data, GGMLQuantizationType(kind))
    found = block.decode(data)
    assert found.scheme.name == SCHEMES[block.name]
    assert found.shape == expected.shape == (rows, blocks * block.elements)
    np.testing.assert_array_equal(
        found.dequantize().view(np.uint32), expected.astype(np.float32).view(np.uint32)
    )


@pytest.mark.parametrize(("name", "error"), [("Q4_0", 0.5), ("Q8_0", 0.02), ("Q5_1", 0.2)])
def test_what_ggml_quantized_is_read(name: str, error: float) -> None:
    matrix = np.random.default_rng(1).normal(size=(8, 512)).astype(np.float32)
    kind = GGMLQuantizationType[name]
    found = TYPES[kind].decode(quants.quantize(matrix, kind))
    assert np.abs(found.dequantize() - matrix).max() < error


@pytest.mark.parametrize("kind", PACKED, ids=type_name)
def test_a_scale_that_is_not_finite_is_refused(kind: int) -> None:
    block: BlockType = PACKED[kind]
    data = random_rows(block, 2, block.elements, seed=2)
    good = block.decode(data)
    assert np.isfinite(good.scale).all()
    data[1, :] = 0xFF  # every fp16 number in it is NaN
    if block.name == "TQ2_0":
        data[1, :64] = 0
    with pytest.raises(CheckpointError, match=f"A {block.name} block holds a scale that is not"):
        block.decode(data)


def test_a_fourth_trit_is_refused() -> None:
    data = random_rows(TYPES[35], 1, 256, seed=3)
    data[0, 17] = 0b11_00_00_00
    with pytest.raises(CheckpointError, match="none of -1, 0 and 1"):
        TYPES[35].decode(data)
