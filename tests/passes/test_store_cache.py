"""Caches in bf16 and f16 against caches in f32: both sides executed, and what must be refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from arkinfer import ir
from arkinfer.errors import InternalError, UnsupportedError, UsageError
from arkinfer.models.config import parse_config
from arkinfer.passes import pass_named
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module

Array = npt.NDArray[Any]

LAYER = """
module
func @step(%q: f32[T, 4, 8], %k: f32[T, 2, 8], %v: f32[T, 2, 8], %k0: cache<f32>[S, 2, 8], %v0: cache<f32>[S, 2, 8]) {
  %0 = cache.append(%k0, %k) : cache<f32>[S + T, 2, 8]  // layer
  %1 = cache.append(%v0, %v) : cache<f32>[S + T, 2, 8]  // layer
  %2 = attn.dense(%q, %0, %1) {scale = 0.25} : f32[T, 4, 8]  // layer
  return y = %2, k0 = %0, v0 = %1
}
"""  # noqa: E501

NARROW = pytest.mark.parametrize("dtype", ["bf16", "f16"])


def stored(dtype: str) -> ir.Module:
    module = ir.parse_module(LAYER)
    assert pass_named("store-cache", dtype=dtype).run(module)
    ir.verify_module(module)
    return module


def run(module: ir.Module, rows: dict[str, Array], *sizes: int, dtype: Any) -> dict[str, Array]:
    """All tokens in steps of these sizes: what attention gave for each, and the caches."""
    step = module.functions["step"]
    kinds = {v.name: v.type for v in step.inputs if isinstance(v.type, ir.CacheType)}
    state = {n: np.zeros((0, 2, 8), ir.DTYPES[kind.dtype]) for n, kind in kinds.items()}
    attended: list[Array] = []
    done = 0
    for size in sizes:
        fresh = {name: array[done : done + size] for name, array in rows.items()}
        found = ir.run_function(step, {**fresh, **state}, ir.RandomWeights(), dtype=dtype)
        attended.append(found["y"])
        state, done = {name: found[name] for name in state}, done + size
    return {"y": np.concatenate(attended), **state}


def random_rows(count: int) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    shapes = (("q", 4), ("k", 2), ("v", 2))
    return {n: rng.standard_normal((count, h, 8)).astype(np.float32) for n, h in shapes}


@NARROW
@pytest.mark.parametrize("computed", [np.float32, np.float64])
def test_rounding_when_appended_is_the_whole_difference(dtype: str, computed: Any) -> None:
    """Also where floats are computed in float64: the narrow numbers are what is kept."""
    rows = random_rows(9)
    kept = run(stored(dtype), rows, 5, 1, 3, dtype=computed)
    rounded = {**rows, **{n: rows[n].astype(ir.DTYPES[dtype]).astype(np.float32) for n in "kv"}}
    wide = run(ir.parse_module(LAYER), rounded, 5, 1, 3, dtype=computed)
    for name in ("k0", "v0"):
        assert kept[name].dtype == ir.DTYPES[dtype]
        np.testing.assert_array_equal(kept[name].astype(np.float32), rounded[name[0]])
    np.testing.assert_array_equal(kept["y"], wide["y"])
    plain = run(ir.parse_module(LAYER), rows, 5, 1, 3, dtype=computed)
    assert 1e-5 < np.abs(kept["y"] - plain["y"]).max() < 0.02  # it is no identity


@NARROW
def test_any_steps_give_the_same(dtype: str) -> None:
    rows = random_rows(9)
    whole, parts = (run(stored(dtype), rows, *s, dtype=np.float64) for s in ((9,), (4, 1, 1, 3)))
    np.testing.assert_allclose(parts.pop("y"), whole.pop("y"), rtol=1e-12)
    for name, cache in whole.items():
        np.testing.assert_array_equal(parts[name], cache)


@pytest.mark.parametrize(
    ("dtype", "given", "kept"),
    [
        ("bf16", 1 + 2**-8, 1.0),  # a tie goes to the even one, down …
        ("bf16", 1 + 3 * 2**-8, 1 + 2**-6),  # … or up
        ("bf16", 1 + 2**-8 + 2**-20, 1 + 2**-7),
        ("bf16", 3e38, float(np.float32(3e38).astype(ir.DTYPES["bf16"]))),
        ("f16", 1 + 2**-11, 1.0),
        ("f16", 1 + 3 * 2**-11, 1 + 2**-9),
        ("f16", 2**-24, 2**-24),  # the least number
        ("f16", 2**-25, 0.0),
        ("f16", 65519.0, 65504.0),  # the largest
        ("f16", 65520.0, np.inf),
        ("f16", -np.inf, -np.inf),
    ],
)
def test_numbers_round_to_nearest_and_ties_to_even(dtype: str, given: float, kept: float) -> None:
    old = np.zeros((0, 1, 1), ir.DTYPES[dtype])
    with np.errstate(over="ignore"):
        (new,) = ir.op_class("cache.append").ref([old, np.full((1, 1, 1), given, np.float32)], {})
    assert new.dtype == ir.DTYPES[dtype]
    assert float(new[0, 0, 0]) == kept


@NARROW
def test_a_whole_model_and_back(dtype: str) -> None:
    module = dense_module(parse_config(preset("tiny")))
    before = ir.print_module(module)
    store = pass_named("store-cache", dtype=dtype)
    assert store.run(module)
    ir.verify_module(module)
    assert ir.parse_module(ir.print_module(module)) == module
    caches = [v for v in module.functions["step"].inputs if isinstance(v.type, ir.CacheType)]
    assert {str(v.type) for v in caches} == {f"cache<{dtype}>[S, 1, 64]"}
    assert not store.run(module)
    assert pass_named("store-cache{dtype=f32}").run(module)
    assert ir.print_module(module) == before


@pytest.mark.parametrize("dtype", ["i8", "f64", "bfloat16"])
def test_what_no_cache_of_floats_holds_is_refused(dtype: str) -> None:
    with pytest.raises(UsageError) as refusal:
        pass_named("store-cache", dtype=dtype).run(ir.parse_module(LAYER))
    assert str(refusal.value) == (f'A cache of floats cannot hold "{dtype}". Use f32, bf16, f16.')


def test_a_cache_that_something_else_reads_is_refused() -> None:
    text = LAYER.replace("%q, %0, %1)", "%q, %0, %last)").replace(
        "%v0: cache<f32>[S, 2, 8]", "%v0: cache<f32>[S, 2, 8], %last: cache<f32>[S + T, 2, 8]"
    )
    module = ir.parse_module(text)
    ir.verify_module(module)
    before = ir.print_module(module)
    with pytest.raises(UnsupportedError) as refusal:
        pass_named("store-cache{dtype=f16}").run(module)
    assert str(refusal.value) == (
        "The cache last cannot be kept in f16. attn.dense at layer reads it; only attention after "
        "an append can. Keep the cache in fp32."
    )
    assert ir.print_module(module) == before


@pytest.mark.parametrize("dtype", ["f64", "i32", "bool"])
def test_caches_of_other_numbers_are_no_ir(dtype: str) -> None:
    module = ir.parse_module(LAYER.replace("cache<f32>", f"cache<{dtype}>"))
    with pytest.raises(InternalError) as refusal:
        ir.verify_module(module)
    assert "a cache must hold f32 or bf16 or f16 or i8" in str(refusal.value)
