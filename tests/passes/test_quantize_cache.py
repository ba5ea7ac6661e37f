"""Caches in int8 against caches in float: both sides executed, and what must be refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from arkinfer import ir
from arkinfer.errors import UnsupportedError, UsageError
from arkinfer.models.config import parse_config
from arkinfer.passes import Pass, pass_named
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module

Array = npt.NDArray[Any]

QUANTIZE = pass_named("quantize-cache")
BY_TOKEN = pass_named("quantize-cache{scales=token}")
BOTH = pytest.mark.parametrize("quantize", [QUANTIZE, BY_TOKEN], ids=["channel", "token"])

LAYER = """
module
func @step(%q: f32[T, 4, 8], %k: f32[T, 2, 8], %v: f32[T, 2, 8], %{first}0: cache<f32>[S, 2, 8],
           %{second}0: cache<f32>[S, 2, 8]) {
  %0 = cache.append(%k0, %k) : cache<f32>[S + T, 2, 8]  // layer
  %1 = cache.append(%v0, %v) : cache<f32>[S + T, 2, 8]  // layer
  %2 = attn.dense(%q, %0, %1) {scale = 0.25} : f32[T, 4, 8]  // layer
  return y = %2, k0 = %0, v0 = %1
}
"""


class Scales:
    """Gives each channel of keys and values a scale of its own."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.of = {
            f"cache_scales.{name}0": rng.uniform(0.02, 0.05, (2, 8)).astype(np.float32)
            for name in "kv"
        }

    def load(self, weight: ir.Weight) -> Array:
        return self.of[weight.name]


def layer(first: str = "k", second: str = "v") -> ir.Module:
    text = LAYER.replace("{first}", first).replace("{second}", second)
    return ir.parse_module(text.replace(",\n           ", ", "))


def empty(step: ir.Function) -> dict[str, Array]:
    kinds = {v.name: v.type for v in step.inputs if isinstance(v.type, ir.CacheType)}
    sizes = {n: tuple(int(str(d)) for d in kind.shape[1:]) for n, kind in kinds.items()}
    return {n: np.zeros((0, *sizes[n]), ir.DTYPES[kind.dtype]) for n, kind in kinds.items()}


def run(module: ir.Module, steps: list[int]) -> dict[str, Array]:
    """Tokens in steps of these sizes; the last step's queries and results, in float64."""
    rng = np.random.default_rng(1)
    step = module.functions["step"]
    state = empty(step)
    outputs: dict[str, Array] = {}
    for count in steps:
        fresh = {
            name: rng.standard_normal((count, heads, 8))
            for name, heads in (("q", 4), ("k", 2), ("v", 2))
        }
        outputs = ir.run_function(step, {**fresh, **state}, Scales(), dtype=np.float64)
        state = {name: outputs[name] for name in state}
        outputs["q"] = fresh["q"]
    return outputs


@BOTH
@pytest.mark.parametrize("order", [("k", "v"), ("v", "k")])
def test_codes_are_within_half_a_scale(quantize: Pass, order: tuple[str, str]) -> None:
    before, after = layer(*order), layer(*order)
    assert quantize.run(after)
    ir.verify_module(after)
    exact, coded = run(before, [5, 1, 3]), run(after, [5, 1, 3])
    scales = Scales().of if quantize is QUANTIZE else {
        f"cache_scales.{name}": coded[f"{name}.scale"] for name in ("k0", "v0")
    }  # fmt: skip
    for name in ("k0", "v0"):
        assert coded[name].dtype == np.int8
        scale = scales[f"cache_scales.{name}"]
        assert np.abs(coded[name].astype(int)).max() <= 127  # nothing was cut off
        assert (np.abs(coded[name] * scale - exact[name]) <= scale / 2 * (1 + 1e-6)).all()
    # A mean of values moves by half a scale at most; its weights by those of the scores.
    worst = {name: scales[f"cache_scales.{name}0"].max() / 2 for name in "kv"}
    shift = 0.25 * np.abs(exact["q"]).sum(axis=-1, keepdims=True) * worst["k"]  # of any score
    bound = worst["v"] + np.expm1(2 * shift) * np.abs(exact["v0"]).max()
    error = np.abs(coded["y"] - exact["y"])
    assert (error <= bound).all()
    assert 1e-4 < error.max()  # it is no identity


def test_the_scales_are_the_whole_difference() -> None:
    """With caches that hold multiples of their scales, the two agree to rounding."""
    module = layer()
    QUANTIZE.run(module)
    rng, scales = np.random.default_rng(2), Scales().of
    codes = {name: rng.integers(-128, 128, (6, 2, 8)) for name in "kv"}
    rows = {name: codes[name] * scales[f"cache_scales.{name}0"].astype(np.float64) for name in "kv"}
    given = {"q": rng.standard_normal((6, 4, 8)), **rows}
    found: list[Array] = []
    for each, dtype in ((layer(), np.float32), (module, np.int8)):
        caches = {f"{name}0": np.zeros((0, 2, 8), dtype) for name in "kv"}
        step = each.functions["step"]
        outputs = ir.run_function(step, {**given, **caches}, Scales(), dtype=np.float64)
        found.append(outputs["y"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)


@BOTH
def test_codes_and_their_scales_are_the_whole_difference(quantize: Pass) -> None:
    """Attention over codes is attention over the numbers that they stand for."""
    module = layer()
    quantize.run(module)
    coded, given = run(module, [5, 1, 3]), Scales().of
    wide = [
        coded[name] * coded.get(f"{name}.scale", given[f"cache_scales.{name}"]).astype(np.float64)
        for name in ("k0", "v0")
    ]
    expected = ir.op_class("attn.dense").ref([coded["q"], *wide], {"scale": 0.25})
    np.testing.assert_allclose(coded["y"], expected[0], rtol=1e-12)


@BOTH
def test_any_steps_give_the_same(quantize: Pass) -> None:
    module = layer()
    quantize.run(module)
    rng = np.random.default_rng(4)
    rows = {n: rng.standard_normal((9, h, 8)) for n, h in (("q", 4), ("k", 2), ("v", 2))}

    def steps(*sizes: int) -> dict[str, Array]:
        state, done, attended = empty(module.functions["step"]), 0, []
        for size in sizes:
            fresh = {name: array[done : done + size] for name, array in rows.items()}
            found = ir.run_function(
                module.functions["step"], {**fresh, **state}, Scales(), dtype=np.float64
            )
            attended.append(found["y"])
            state, done = {name: found[name] for name in state}, done + size
        return {"y": np.concatenate(attended), **state}

    whole, parts = steps(9), steps(4, 1, 1, 3)
    np.testing.assert_allclose(parts.pop("y"), whole.pop("y"), rtol=1e-12)
    for name, cache in whole.items():
        np.testing.assert_array_equal(parts[name], cache)


def test_a_whole_model_by_token_and_twice() -> None:
    module = dense_module(parse_config(preset("tiny")))
    assert BY_TOKEN.run(module)
    ir.verify_module(module)
    assert ir.parse_module(ir.print_module(module)) == module
    step = module.functions["step"]
    caches = [v for v in step.inputs if isinstance(v.type, ir.CacheType)]
    assert [v.name for v in caches] == [
        f"{name}{layer}{kind}" for layer in (0, 1) for name in "kv" for kind in ("", ".scale")
    ]
    assert step.output_names == ["logits", *(v.name for v in caches)]
    assert [str(v.type) for v in caches[:2]] == ["cache<i8>[S, 1, 64]", "cache<f32>[S, 1, 1]"]
    assert not [name for name in module.weights if name.startswith("cache_scales.")]
    assert not BY_TOKEN.run(module)
    assert not QUANTIZE.run(module)


def test_scales_of_something_else_are_refused() -> None:
    with pytest.raises(UsageError) as refusal:
        pass_named("quantize-cache{scales=tokens}").run(layer())
    assert str(refusal.value) == (
        'A cache has no scales per "tokens". Did you mean "token"? Known: channel, token.'
    )


def test_a_whole_model_and_twice() -> None:
    module = dense_module(parse_config(preset("tiny")))
    layers = 2 * len([n for n in module.nodes() if n.op == "attn.dense"])
    assert QUANTIZE.run(module)
    ir.verify_module(module)
    assert ir.parse_module(ir.print_module(module)) == module
    scales = [w for name, w in module.weights.items() if name.startswith("cache_scales.")]
    assert len(scales) == layers
    assert {str(w.type) for w in scales} == {"f32[1, 64]"}
    assert not QUANTIZE.run(module)


@BOTH
def test_two_attentions_of_one_cache(quantize: Pass) -> None:
    """Layers may share keys and values; the cache is still written once, by one scale."""
    text = ir.print_module(layer()).replace(
        "  return y = %2,",
        "  %3 = attn.dense(%2, %0, %1) {scale = 0.5} : f32[T, 4, 8]  // next\n  return y = %3,",
    )
    module = ir.parse_module(text)
    assert quantize.run(module)
    ir.verify_module(module)
    assert [len(n.operands) for n in module.nodes()] == [3, 3, 5, 5]


EARLY = """
module
func @step(%q: f32[T, 4, 8], %k: f32[T, 2, 8], %k0: cache<f32>[S, 2, 8], %v0: cache<f32>[S + T, 2, 8]) {
  %0 = cache.append(%k0, %k) : cache<f32>[S + T, 2, 8]  // layer
  %1 = attn.dense(%q, %0, %v0) {scale = 0.25} : f32[T, 4, 8]  // layer
  return y = %1, k0 = %0
}
"""  # noqa: E501


@BOTH
@pytest.mark.parametrize(("first", "second"), [("%0", "%v0"), ("%v0", "%0"), ("%v0", "%v0")])
def test_a_cache_that_is_read_before_it_grows_is_refused(
    quantize: Pass, first: str, second: str
) -> None:
    module = ir.parse_module(EARLY.replace("%q, %0, %v0", f"%q, {first}, {second}"))
    ir.verify_module(module)
    before = ir.print_module(module)
    with pytest.raises(UnsupportedError) as refusal:
        quantize.run(module)
    assert str(refusal.value) == (
        "The cache v0 cannot be kept in int8. attn.dense at layer reads it; only attention "
        "after an append can. Keep the cache in fp32."
    )
    assert ir.print_module(module) == before
