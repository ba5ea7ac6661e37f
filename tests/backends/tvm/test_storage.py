"""How caches lie: every form gives back what it was given, in whole blocks."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


FORM = st.one_of(
    st.builds(
        Cache,
        st.integers(1, 3),
        st.integers(1, 80),
        st.sampled_from(list(STORED)),
        st.sampled_from(["keys", "values"]),
    ),
    st.builds(Cache, st.integers(1, 3), st.just(1), st.just("float32"), st.just("scales")),
)


def place(form: Cache, token: int, head: int, dim: int) -> int:
    """Where a number stands, counted in numbers, by the table of `storage.py`."""
    block, t = divmod(token, 64)
    unit = {"float32": 1, "bfloat16": 2, "float16": 2, "int8": 4}[form.dtype]
    if form.order == "scales":
        return (block * form.heads + head) * 64 + t
    if form.order == "keys":
        dims = -(-form.size // unit) * unit
        word, inside = divmod(dim, unit)
        at = ((t // 32 * (dims // unit) + word) * 32 + t % 32) * unit + inside
    else:
        width = 32 if form.size > 16 else 16
        dims = -(-form.size // width) * width
        word, inside = divmod(t, unit)
        at = ((dim // width * (64 // unit) + word) * width + dim % width) * unit + inside
    return (block * form.heads + head) * 64 * dims + at


@settings(max_examples=60)
@given(FORM, st.integers(1, 130), st.integers(0, 2**30))
def test_every_number_is_at_its_place(form: Cache, tokens: int, seed: int) -> None:
    memory = np.zeros(form.bytes(tokens), np.uint8)
    rows = drawn(form, tokens, seed)
    form.write(memory, np.arange(tokens), rows)
    kinds = {"bfloat16": ml_dtypes.bfloat16}
    numbers = memory.view(kinds.get(form.dtype, STORED[form.dtype]))
    unread = np.ones(numbers.shape, bool)
    for index in np.ndindex(rows.shape):
        at = place(form, *index)
        assert numbers[at] == rows[index]
        unread[at] = False
    assert not numbers[unread].any()  # what fills up words and blocks
