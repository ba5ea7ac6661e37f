"""How caches lie: every form gives back what it was given, in whole blocks."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from arkinfer_tvm.storage import BLOCK, ORDERS, STORED, Cache, Order

Array = np.ndarray[Any, Any]

FORMS = [
    Cache(heads, size, dtype, order)
    for heads, size in ((1, 7), (2, 10), (3, 24), (2, 64), (1, 128))
    for dtype in STORED
    for order in ("keys", "values")
] + [Cache(heads, 1, "float32", "scales") for heads in (1, 3)]


def drawn(form: Cache, tokens: int, seed: int = 0) -> Array:
    """Numbers that the form holds exactly."""
    rng = np.random.default_rng(seed)
    shape = (tokens, form.heads, form.size)
    if form.dtype == "int8":
        return rng.integers(-128, 128, shape, np.int8)
    kinds = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
    return rng.standard_normal(shape).astype(kinds[form.dtype]).astype(np.float32)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_was_written_is_read(form: Cache) -> None:
    rng = np.random.default_rng(1)
    memory = rng.integers(0, 256, form.bytes(3 * BLOCK), np.uint8)
    rows = drawn(form, 100)
    places = rng.permutation(3 * BLOCK)[:100]
    form.write(memory, places, rows)
    np.testing.assert_array_equal(form.read(memory, places), rows)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_first_tokens_are_the_first_bytes(form: Cache) -> None:
    """So a cache can be saved, and grow, without knowing its capacity."""
    memory = np.zeros(form.bytes(3 * BLOCK), np.uint8)
    rows = drawn(form, 3 * BLOCK)
    form.write(memory, np.arange(3 * BLOCK), rows)
    for tokens in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK):
        part = memory[: form.bytes(tokens)].copy()
        assert form.bytes(tokens) % form.block == 0
        np.testing.assert_array_equal(form.read(part, np.arange(tokens)), rows[:tokens])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_tokens_move_to_the_front(form: Cache) -> None:
    """A path through a tree of tokens: its places become neighbours, though they overlap."""
    memory = np.zeros(form.bytes(2 * BLOCK), np.uint8)
    rows = drawn(form, 2 * BLOCK)
    form.write(memory, np.arange(2 * BLOCK), rows)
    path = np.array([60, 61, 63, 66, 67, 90])
    form.move(memory, path, 60)
    expected = rows.copy()
    expected[60:66] = rows[path]
    np.testing.assert_array_equal(form.read(memory, np.arange(2 * BLOCK)), expected)


@pytest.mark.parametrize(("dtype", "kind"), [
    ("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16),
])  # fmt: skip
def test_numbers_are_rounded_to_the_nearest(dtype: str, kind: Any) -> None:
    form = Cache(1, 64, dtype)
    memory = np.zeros(form.bytes(BLOCK), np.uint8)
    rows = np.random.default_rng(0).standard_normal((BLOCK, 1, 64)).astype(np.float32)
    form.write(memory, np.arange(BLOCK), rows)
    expected = rows.astype(kind).astype(np.float32)
    np.testing.assert_array_equal(form.read(memory, np.arange(BLOCK)), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_no_byte_is_in_vain(order: Order) -> None:
    """Heads of the usual sizes are not padded."""
    for size, dtype in ((64, "bfloat16"), (128, "int8"), (64, "float32")):
        form = Cache(2, 1 if order == "scales" else size, dtype, order)
        wide = np.dtype(STORED[dtype]).itemsize
        assert form.bytes(BLOCK) == BLOCK * 2 * form.size * wide
        assert form.per_token * BLOCK == form.bytes(BLOCK)
