"""Attention and append of every cache form, against float64, on every instruction set here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from arkinfer_tvm.isa import ISAS
from arkinfer_tvm.kernels import CHANNEL, TOKEN, Attention, Combine, Strided
from arkinfer_tvm.library import aligned
from arkinfer_tvm.storage import BLOCK, Cache
from tests.backends.tvm.kernel_lab import HERE, Lab, placed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """An attention of `heads` query heads over `cache`."""

    heads: int
    cache: Cache
    scales: str = ""
    tokens: int = 1
    ranges: int = 1
    tree: bool = False
    scale: float = 0.25

    @property
    def kernel(self) -> Attention:
        width = self.heads * self.cache.size
        return Attention(
            Strided(width, width + 48, 16), self.heads, self.cache, self.scale, self.scales,
            self.tokens, self.ranges, self.tree,
        )  # fmt: skip


def form(heads: int, size: int, dtype: str) -> Cache:
    return Cache(heads, size, dtype, "keys")


CASES = [
    Case(16, form(2, 64, "float32"), "", 1, 16),
    Case(16, form(2, 64, "float32"), "", 4, 1),
    Case(2, form(2, 7, "float32"), "", 5, 2),
    Case(16, form(2, 64, "bfloat16"), "", 1, 16),
    Case(8, form(1, 128, "bfloat16"), "", 4, 8),
    Case(2, form(2, 7, "bfloat16"), "", 5, 1),
    Case(6, form(2, 10, "float16"), "", 3, 1),
    Case(16, form(1, 24, "float16"), "", 2, 8),
    Case(16, form(1, 24, "int8"), CHANNEL, 1, 8),
    Case(2, form(2, 7, "int8"), CHANNEL, 4, 1),
    Case(16, form(2, 64, "int8"), TOKEN, 1, 16),
    Case(6, form(2, 10, "int8"), TOKEN, 4, 1),
    Case(8, form(2, 64, "float32"), "", 4, 8, True),
    Case(6, form(2, 10, "bfloat16"), "", 4, 1, True),
    Case(8, form(2, 64, "int8"), TOKEN, 4, 8, True),
]
KERNELS = [case.kernel for case in CASES]
KERNELS += [Combine(case.kernel) for case in CASES if case.ranges > 1]

LENGTHS = [(1, 1), (63, 1), (64, 1), (65, 1), (700, 1), (5, 5), (64, 9), (200, 64), (270, 20)]
"""Keys in all, and how many tokens of them are the step's."""


@pytest.fixture(scope="module", params=HERE)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(request.param, KERNELS, threads=2)
    yield made
    made.close()


@dataclass
class Given:
    """Arrays of a step, and the caches' content."""

    arrays: dict[str, Array]
    q: Array
    k: Array
    v: Array
    seen: Array


def drawn(case: Case, length: int, count: int, seed: int = 0, large: float = 1.0) -> Given:
    """A step's arrays, where all that must not be read is not a number."""
    rng = np.random.default_rng([seed, length, count])
    kv, size = case.cache.heads, case.cache.size
    wide = aligned((count, case.heads * size + 48), np.float32)
    wide[...] = np.nan
    q = wide[:, 16 : 16 + case.heads * size]
    q[...] = rng.standard_normal(q.shape) * large
    arrays: dict[str, Array] = {"q": wide}
    floats: list[Array] = []
    for name, cache in (("k", case.cache), ("v", case.kernel.values)):
        memory = aligned((cache.bytes(length + BLOCK),), np.uint8)
        memory[...] = 0xFF
        rows = rng.standard_normal((length, kv, size)).astype(np.float32)
        scale = np.ones((), np.float32)
        if cache.dtype == "int8":
            rows = rng.integers(-128, 128, rows.shape, np.int8)
            shape = (kv, size) if case.scales == CHANNEL else (length, kv, 1)
            scale = placed(rng.uniform(0.005, 0.02, shape), np.float32)
            arrays[f"{name}_scale"] = scale
            if case.scales == TOKEN:
                kept = Cache(kv, 1, "float32", "scales")
                arrays[f"{name}_scale"] = aligned((kept.bytes(length),), np.uint8)
                arrays[f"{name}_scale"][...] = 0xFF
                _put(kept, arrays[f"{name}_scale"], scale, cache.unit)
        _put(cache, memory, rows, cache.unit)
        arrays[name] = memory
        floats.append(cache.read(memory, np.arange(length)) * scale)
    seen = np.tri(count, length, length - count, bool)
    if case.tree:
        seen[:, length - count :] = _tree(rng, count)
        bits = seen[:, length - count :] @ (1 << np.arange(count, dtype=np.uint64))
        arrays["ancestors"] = placed(bits, np.uint64)
    return Given(arrays, q.reshape(count, case.heads, size).copy(), *floats, seen)


def _put(cache: Cache, memory: Array, rows: Array, unit: int) -> None:
    """Rows, and zeros for the tokens after them that share a word, as `Append` leaves it."""
    tokens = len(rows)
    after = -tokens % unit
    padded = np.concatenate((rows, np.zeros((after, *rows.shape[1:]), rows.dtype)))
    cache.write(memory, np.arange(tokens + after), padded)


def _tree(rng: np.random.Generator, count: int) -> Array:
    """Which of a random tree's tokens each of them descends from, itself included."""
    seen = np.eye(count, dtype=bool)
    for token in range(1, count):
        parent = rng.integers(-1, token)
        if parent >= 0:
            seen[token] |= seen[parent]
    return seen


def exact(case: Case, given: Given) -> Array:
    """float64."""
    shared = case.heads // case.cache.heads
    q = given.q.astype(np.float64)
    k, v = (np.repeat(x.astype(np.float64), shared, axis=1) for x in (given.k, given.v))
    scores = np.einsum("thd,shd->hts", q, k) * case.scale
    scores = np.where(given.seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hts,shd->thd", weights, v)


def result(lab: Lab, case: Case, given: Given) -> Array:
    """What the kernels make of it."""
    count, length = given.seen.shape
    kernel, sizes = case.kernel, {"length": length, "count": count}
    out = aligned((count, case.heads, case.cache.size), np.float32)
    out[...] = np.nan
    if case.ranges == 1:
        lab.run(kernel, count, {**given.arrays, **sizes, "out": out})
        return out
    sums = aligned((case.ranges, count, case.heads, kernel.sums), np.float32)
    sums[...] = np.nan
    lab.run(kernel, count, {**given.arrays, **sizes, "out": sums})
    wanted = {**sizes, "sums": sums, "out": out}
    if case.scales == CHANNEL:
        wanted["v_scale"] = given.arrays["v_scale"]
    lab.run(Combine(kernel), count, wanted)
    return out


def tolerance(lab: Lab, case: Case) -> float:
    """Of the largest value: what is rounded where queries and weights are kept in bfloat16, or in
    16 bits where bytes are multiplied."""
    if case.cache.dtype == "int8" and ISAS[lab.isa].most_code == 255:
        return 1e-4
    return 6e-3 if paired(lab, case) else 3e-6


def paired(lab: Lab, case: Case) -> bool:
    return ISAS[lab.isa].paired and case.cache.dtype == "bfloat16"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention(lab: Lab, case: Case) -> None:
    for length, count in LENGTHS:
        given = drawn(case, length, count)
        error = np.abs(result(lab, case, given) - exact(case, given)).max()
        assert error <= tolerance(lab, case) * np.abs(given.v).max(), (length, count)


@pytest.mark.parametrize("case", [CASES[1], CASES[3], CASES[10]], ids=str)
def test_large_scores(lab: Lab, case: Case) -> None:
    """One key takes nearly all, and no exponential overflows.

    Where bfloat16 rounds queries, it may be another key: all values are alike there.
    """
    given = drawn(case, 200, 3, large=500.0)
    if paired(lab, case):
        given.v[...] = given.v[:1]
        given.arrays["v"][...] = 0
        _put(case.kernel.values, given.arrays["v"], given.v, 2)
    error = np.abs(result(lab, case, given) - exact(case, given)).max()
    assert error <= max(tolerance(lab, case), 1e-3) * np.abs(given.v).max()


def test_a_step_of_many_tokens_gives_what_single_ones_give(lab: Lab) -> None:
    """Up to how sums are split: the same kernel with other tiles and ranges."""
    one, many = CASES[:2]
    given = drawn(many, 130, 17)
    together = result(lab, many, given)
    for token in range(17):
        length = 130 - 16 + token
        alone = Given(
            {**given.arrays, "q": placed(given.arrays["q"][token : token + 1])},
            given.q[token : token + 1], given.k, given.v, given.seen[token : token + 1, :length],
        )  # fmt: skip
        np.testing.assert_allclose(result(lab, one, alone)[0], together[token], atol=5e-6)


@pytest.mark.parametrize("case", [CASES[3], CASES[12]], ids=str)
def test_threads_do_not_change_a_bit(case: Case) -> None:
    given = drawn(case, 1000, 1 if case.tokens == 1 else 30)
    results: list[Array] = []
    for threads in (1, 2, 3):
        lab = Lab(HERE[-1], [case.kernel, Combine(case.kernel)], threads)
        results.append(result(lab, case, given))
        lab.close()
    assert all((other == results[0]).all() for other in results[1:])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int8"])
@pytest.mark.parametrize("isa", ["x86-64-v3", "x86-64-v4-vnni-bf16", "dotprod"])
def test_decoding_asks_for_the_next_block_ahead(isa: str, dtype: str) -> None:
    """Of the same head, keys and values alike: it took a third more time with keys elsewhere."""
    case = Case(16, form(2, 64, dtype), TOKEN if dtype == "int8" else "", 1, 16)
    text = case.kernel.function("attention", ISAS[isa]).script()
    found = re.findall(r"prefetch.*address_of\((\w+)\[(\w+) \+ T.int64\((\d+)\)\]\)", text)
    words = case.cache.bytes(BLOCK) // 4
    assert len({buffer for buffer, _, _ in found}) == 2
    assert {int(distance) - words for _, _, distance in found} == {0, 16}
