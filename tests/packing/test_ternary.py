"""Ternary detection against a slow oracle; import is bit-exact per row, group and shard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import CheckpointError, InternalError
from arkinfer.packing import NotTernary, Scheme, find_ternary, ternary_rows

DTYPES = (ml_dtypes.bfloat16, np.float16, np.float32)


def made(
    rows: int, columns: int, groups: int, seed: int, dtype: Any = ml_dtypes.bfloat16
) -> npt.NDArray[Any]:
    """A ternary matrix [rows, columns] with `groups` scales per row, about a third zeros."""
    rng = np.random.default_rng(seed)
    signs = rng.integers(-1, 2, (rows, groups, columns // groups)).astype(np.float32)
    scale = np.exp(rng.normal(-3, 1, (rows, groups, 1))).astype(np.float32)
    return (signs * scale).reshape(rows, columns).astype(dtype)


def oracle(matrix: npt.NDArray[Any]) -> int | None:
    """The largest of the group sizes that suits every group of every row, number by number."""
    columns = matrix.shape[1]
    sizes = {columns}
    for power in range(16):
        if columns % 2**power == 0:
            sizes |= {columns // 2**power, 2**power}
    values = matrix.astype(np.float64).tolist()
    for size in sorted(sizes, reverse=True):
        if size % 4 or (size < 32 and size != columns):
            continue
        groups = [row[at : at + size] for row in values for at in range(0, columns, size)]
        if all(len({abs(x) for x in group if x != 0}) <= 1 for group in groups):
            return size
    return None


def blocks(matrix: npt.NDArray[Any], *cuts: int) -> Iterator[npt.NDArray[Any]]:
    yield from np.split(matrix, sorted(cut % (len(matrix) + 1) for cut in cuts))


def check(matrix: npt.NDArray[Any], *cuts: int) -> Scheme | NotTernary:
    """What is found equals the oracle's answer, and then nothing is lost."""
    found = find_ternary(blocks(matrix, *cuts))
    group = oracle(matrix)
    if group is None:
        assert isinstance(found, NotTernary)
        return found
    assert found == Scheme(2, 0 if group == matrix.shape[1] else group)
    assert isinstance(found, Scheme)
    packed = ternary_rows(matrix, found)
    np.testing.assert_array_equal(packed.dequantize(), matrix.astype(np.float32))
    assert set(np.unique(packed.unpacked())) <= {1, 2, 3}
    return found


@settings(max_examples=60)
@given(
    st.sampled_from([16, 32, 64, 96, 128, 192, 256, 320, 360, 384, 512, 720]),
    st.integers(1, 5),
    st.integers(0, 5),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
    st.lists(st.integers(0, 20), max_size=3),
)
def test_the_group_is_the_oracles_and_nothing_is_lost(
    columns: int, rows: int, halvings: int, dtype: Any, seed: int, cuts: list[int]
) -> None:
    groups = 2**halvings
    while columns % groups:
        groups //= 2
    check(made(rows, columns, groups, seed, dtype), *cuts)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from(["one", "sign", "zeros", "row", "tiny"]))
def test_one_change_is_noticed_where_it_matters(seed: int, change: str) -> None:
    rng = np.random.default_rng(seed)
    matrix = made(4, 128, int(rng.choice([1, 2, 4])), seed)
    row, column = rng.integers(4), rng.integers(128)
    if change == "one":  # the next number of bfloat16
        matrix.view(np.uint16)[row, column] += 1
    elif change == "sign":
        matrix[row, column] = -matrix[row, column]
    elif change == "zeros":
        matrix[row, : 32 * int(rng.integers(1, 5))] = 0
    elif change == "row":
        matrix[row] = rng.standard_normal(128)
    else:
        matrix[row, column] = np.finfo(np.float32).tiny
    check(matrix, int(rng.integers(5)))


def test_a_scale_per_row_makes_a_scheme_of_rows() -> None:
    matrix = made(300, 256, 1, 1)
    assert check(matrix, 7, 8) == Scheme(2, 0)
    packed = ternary_rows(matrix, Scheme(2, 0))
    assert packed.nbytes == 300 * (256 // 4 + 4)


@pytest.mark.parametrize(("shards", "group"), [(2, 512), (4, 256), (8, 128)])
def test_scales_per_shard_become_groups(shards: int, group: int) -> None:
    """Row-parallel layers (o_proj, down_proj) of tensor-parallel training: a scale per part."""
    assert check(made(16, 1024, shards, 5), 3) == Scheme(2, group)


def test_one_row_in_finer_groups_decides_for_the_matrix() -> None:
    matrix = made(40, 512, 1, 2)
    matrix[33] = made(1, 512, 4, 3)[0]
    assert check(matrix, 10, 20) == Scheme(2, 128)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_groups_of_a_width_that_is_no_power_of_two(group: int) -> None:
    """5760 = 45 * 128: halving alone would never try 128."""
    matrix = made(3, 5760, 5760 // group, 4)
    assert find_ternary([matrix]) == Scheme(2, group)
    packed = ternary_rows(matrix, Scheme(2, group))
    np.testing.assert_array_equal(packed.dequantize(), matrix.astype(np.float32))


def test_rows_whose_groups_do_not_go_together() -> None:
    """5760 / 32 = 180, 5760 / 45 = 128: each is ternary alone."""
    halved, powers = made(1, 5760, 32, 1), made(1, 5760, 45, 2)
    assert find_ternary([halved]) == Scheme(2, 180)
    assert find_ternary([powers]) == Scheme(2, 128)
    assert find_ternary([halved, powers]) == NotTernary(
        "its rows need groups of different sizes that do not go together"
    )


def test_zeros() -> None:
    """A matrix of zeros is ternary; so is a row, and a group, with the scale 0."""
    assert check(np.zeros((3, 64), ml_dtypes.bfloat16)) == Scheme(2, 0)
    matrix = made(3, 128, 2, 9)
    matrix[1] = 0
    matrix[2, :64] = 0
    assert check(matrix) == Scheme(2, 64)
    packed = ternary_rows(matrix, Scheme(2, 64))
    assert packed.scale[1].tolist() == [0, 0]
    assert packed.scale[2, 0] == 0 != packed.scale[2, 1]


def test_only_the_sign_of_zero_is_lost() -> None:
    matrix = made(2, 64, 1, 3)
    matrix[0, ::2] = -0.0
    assert check(matrix) == Scheme(2, 0)
    back = ternary_rows(matrix, Scheme(2, 0)).dequantize()
    assert not np.signbit(back[back == 0]).any()


def test_smallest_and_largest_numbers_survive() -> None:
    for dtype in DTYPES:
        numbers = ml_dtypes.finfo(dtype)
        for value in (numbers.smallest_subnormal, numbers.max):
            matrix = np.array([[value, -value, 0, value] * 8], dtype)
            assert check(matrix) == Scheme(2, 0)


def test_a_dense_matrix_ends_the_search_at_its_first_row() -> None:
    dense = np.random.default_rng(0).standard_normal((1, 4096)).astype(ml_dtypes.bfloat16)

    def rows() -> Iterator[npt.NDArray[Any]]:
        yield dense
        raise AssertionError("read on after the matrix was known to be dense")

    found = find_ternary(rows())
    assert isinstance(found, NotTernary)
    count = len(np.unique(np.abs(dense.astype(np.float32))))
    assert found.reason == f"row 0 holds {count:,} different magnitudes, not one per scale"


def test_the_row_that_is_not_ternary_is_named() -> None:
    matrix = made(50, 128, 1, 7)
    matrix[37, 5:8] = (0.25, 0.5, 0.75)
    found = find_ternary(blocks(matrix, 20))
    assert found == NotTernary("row 37 holds 4 different magnitudes, not one per scale")


def test_a_width_that_fills_no_bytes_has_no_scheme() -> None:
    found = find_ternary([made(2, 30, 1, 1)])
    assert found == NotTernary("rows of 30 weights with 2 bits each fill no whole bytes")


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_are_not_finite_are_refused(bad: float, dtype: Any) -> None:
    """Infinity would be one magnitude."""
    matrix = made(3, 64, 1, 1, dtype)
    matrix[2] = bad
    for call in (lambda: find_ternary([matrix]), lambda: ternary_rows(matrix, Scheme(2, 0))):
        with pytest.raises(CheckpointError, match="not finite"):
            call()


def test_rows_that_are_not_of_the_scheme_are_a_bug() -> None:
    with pytest.raises(InternalError, match="not ternary came as int2-row"):
        ternary_rows(made(2, 64, 2, 1), Scheme(2, 0))
