"""A step whose tokens are a tree, by the interpreter: against the same tokens path by path."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer import ir
from arkinfer.models.config import parse_config
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module

Array = npt.NDArray[Any]

HEADS, KV, SIZE = 4, 2, 8

LAYER = """
module
weight @freq : f32[4]
func @step(%q: f32[T, 4, 8], %k: f32[T, 2, 8], %v: f32[T, 2, 8], %k0: cache<f32>[S, 2, 8], %v0: cache<f32>[S, 2, 8]) {
  %0 = tensor.arange() {start = S, stop = S + T} : i64[T]
  %1 = nn.rope(%k, %0, @freq) {factor = 1.0} : f32[T, 2, 8]
  %2 = cache.append(%k0, %1) : cache<f32>[S + T, 2, 8]
  %3 = cache.append(%v0, %v) : cache<f32>[S + T, 2, 8]
  %4 = nn.rope(%q, %0, @freq) {factor = 1.0} : f32[T, 4, 8]
  %5 = attn.dense(%4, %2, %3) {scale = 0.25} : f32[T, 4, 8]
  return y = %5, k0 = %2, v0 = %3
}
"""  # noqa: E501
STEP = ir.parse_module(LAYER).functions["step"]


def rows(rng: np.random.Generator, count: int) -> dict[str, Array]:
    return {n: rng.standard_normal((count, h, SIZE)) for n, h in (("q", 4), ("k", 2), ("v", 2))}


def run(fresh: dict[str, Array], caches: dict[str, Array], tree: ir.Tree | None = None) -> Any:
    inputs = {**fresh, **caches}
    return ir.run_function(STEP, inputs, ir.RandomWeights(), dtype=np.float64, tree=tree)


EMPTY = {name: np.zeros((0, KV, SIZE)) for name in ("k0", "v0")}


@st.composite
def parents(draw: st.DrawFn) -> list[int]:
    return [draw(st.integers(-1, token - 1)) for token in range(draw(st.integers(1, 12)))]


def tree_of(parents: list[int], length: int) -> ir.Tree:
    count = len(parents)
    positions, seen = np.zeros(count, np.int64), np.eye(count, dtype=np.bool_)
    for token, parent in enumerate(parents):
        positions[token] = length if parent < 0 else positions[parent] + 1
        if parent >= 0:
            seen[token] |= seen[parent]
    return ir.Tree(positions, seen)


@given(parents=parents(), before=st.integers(0, 5), seed=st.integers(0, 1 << 20))
@settings(max_examples=30, deadline=None)
def test_each_token_is_the_end_of_its_path(parents: list[int], before: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    held = run(rows(rng, before), EMPTY) if before else EMPTY
    caches = {name: held[name] for name in EMPTY}
    fresh = rows(rng, len(parents))
    found = run(fresh, caches, tree_of(parents, before))
    for token in range(len(parents)):
        path = [token]
        while parents[path[0]] >= 0:
            path.insert(0, parents[path[0]])
        alone = run({name: array[path] for name, array in fresh.items()}, caches)
        np.testing.assert_allclose(found["y"][token], alone["y"][-1], rtol=1e-10, atol=1e-12)
        for name in EMPTY:
            kept = found[name][[*range(before), *(before + i for i in path)]]
            np.testing.assert_allclose(kept, alone[name], rtol=1e-12)


def test_a_line_is_what_a_step_is_anyway() -> None:
    fresh = rows(np.random.default_rng(0), 5)
    line = run(fresh, EMPTY, tree_of([-1, 0, 1, 2, 3], 0))
    for name, array in run(fresh, EMPTY).items():
        np.testing.assert_array_equal(line[name], array)


def test_a_whole_model_has_no_obstacle() -> None:
    module = dense_module(parse_config(preset("tiny")))
    assert ir.obstacle(module.functions["step"]) == ""
    assert ir.obstacle(STEP) == ""


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("{start = S, stop = S + T}", "{start = 0, stop = T}",
         "it counts from 0 to T, and not over the new positions"),
        ("%1 = nn.rope(%k, %0, @freq) {factor = 1.0} : f32[T, 2, 8]",
         "%1 = tensor.concat(%k, %k) {axis = 0} : f32[2*T, 2, 8]",
         "tensor.concat may look at other tokens"),
    ],
)  # fmt: skip
def test_what_may_look_elsewhere_is_an_obstacle(old: str, new: str, text: str) -> None:
    function = ir.parse_module(LAYER.replace(old, new)).functions["step"]
    assert ir.obstacle(function) == text
