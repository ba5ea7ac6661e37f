"""Quantized groups: no alarm for what the method makes, one for what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from arkinfer.align.weights import bad_group, further_away, worse_than_plain
from arkinfer.packing import QuantizedTensor, parse_scheme
from arkinfer.quant import round_to_nearest

SCHEMES = ("int4-g32", "int4-g128", "int4-row", "int4-g32-asym", "int8-g128", "int8-row-asym")


def matrices() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    normal = rng.standard_normal((64, 256)).astype(np.float32)
    outliers = normal.copy()
    outliers[::7, ::31] *= 40
    ties = (rng.integers(-14, 15, (64, 256)) / 2).astype(np.float32)
    return {
        "normal": normal, "outliers": outliers, "tiny": normal * 1e-30, "ties": ties,
        "zero": normal * 0, "one sign": np.abs(normal) + 3,
    }  # fmt: skip


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("kind", list(matrices()))
def test_what_the_method_makes_is_never_worse_than_plain_rounding(name: str, clip: bool, kind: str):
    matrix = matrices()[kind]
    made = round_to_nearest(matrix, parse_scheme(name), clip=clip)
    assert not worse_than_plain(made, matrix).any()
    assert not further_away(made, made, matrix).any()


@pytest.mark.parametrize("name", SCHEMES)
def test_a_wrong_scale_is_found(name: str):
    matrix = matrices()["normal"]
    made = round_to_nearest(matrix, parse_scheme(name))
    parts = {part: array.copy() for part, array in made.parts().items()}
    parts["scale"][7, -1] *= 1.3
    wrong = QuantizedTensor.from_parts(made.scheme, made.shape, parts)
    place = [[7, made.scale.shape[1] - 1]]
    assert np.argwhere(worse_than_plain(wrong, matrix)).tolist() == place
    assert np.argwhere(further_away(wrong, made, matrix)).tolist() == place
    parts["scale"][7, -1] = np.nan
    assert np.argwhere(worse_than_plain(wrong, matrix)).tolist() == place


@pytest.mark.parametrize("name", SCHEMES)
def test_one_flipped_bit_of_a_code_is_found(name: str):
    """Whichever bit: the lowest one moves a number by one step, away from the nearest."""
    matrix = matrices()["normal"]
    made = round_to_nearest(matrix, parse_scheme(name))
    for bit in range(8):
        parts = {part: array.copy() for part, array in made.parts().items()}
        parts["codes"][11, 0, 3] ^= 1 << bit
        wrong = QuantizedTensor.from_parts(made.scheme, made.shape, parts)
        assert np.argwhere(further_away(wrong, made, matrix)).tolist() == [[11, 0]]


def test_how_a_group_is_named():
    wrong = np.zeros((4, 8), np.bool_)
    wrong[2, 3] = wrong[3, 0] = True
    numbers = np.arange(4 * 64, dtype=np.float32).reshape(4, 64)
    found = bad_group("w", wrong, 100, numbers, -numbers)
    assert str(found) == "@w, row 102, group 3 (columns 24 to 31); 2 groups of it are wrong"
    assert found is not None
    assert found.expected.tolist() == numbers[2, 24:32].tolist()
    assert bad_group("w", wrong & False, 0, numbers, numbers) is None
