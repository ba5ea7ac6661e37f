"""Steps of a build whose passes replace, merge, scale and copy values, rightly or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.align.follow import Follow
from arkinfer.align.report import Finding
from arkinfer.align.snapshot import Snapshot, partners
from arkinfer.align.steps import Build, first_inputs
from arkinfer.align.weights import CheckedWeights
from arkinfer.compiler.weights import WeightStore
from arkinfer.ir import Module
from arkinfer.passes import pass_named

TEXT = """\
module {vocab_size = 8}
weight @table : f32[8, 16]
weight @norm : f32[16]
func @step(%tokens: i64[T], %rows: i64[R], %k0: f32[S, 1, 4]) {
  %0 = nn.embedding(%tokens, @table) {scale = 1.0} : f32[T, 16]  // embed
  %1 = nn.rms_norm(%0, @norm) {eps = 1e-05} : f32[T, 16]  // a
  %2 = nn.rms_norm(%0, @norm) {eps = 1e-05} : f32[T, 16]  // b
  %3 = nn.add(%0, %1) {scale = 0.5} : f32[T, 16]  // c
  %4 = nn.add(%3, %2) {scale = 0.5} : f32[T, 16]  // d
  %5 = nn.rms_norm(%4, @norm) {eps = 1e-05} : f32[T, 16]  // e
  return logits = %5, k0 = %k0
}
"""


class Leaves:
    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        shape = {"table": (8, 16), "norm": (16,)}[name]
        return np.random.default_rng(len(name)).standard_normal(shape, np.float32)[start:stop]


def findings(change: Callable[[Module], object]) -> list[Finding]:
    """What comparing before and after finds."""
    module = ir.parse_module(TEXT)
    before = Snapshot.of("traced", module)
    tokens = np.array([3, 1, 4])
    build = Build(first_inputs(before, tokens), {"T": 3, "R": 3, "S": 0})
    store = WeightStore(module.weights, Leaves())
    for line, computed in (follow := Follow(before, build.values, store, build.symbols)).run():
        assert len(computed) == len(line.results)
    build.values = follow.values
    change(module)
    ir.verify_module(module)
    checked = CheckedWeights(module.weights, WeightStore(module.weights, Leaves()))
    return list(build.step(before, Snapshot.of("changed", module), checked))


def wrong(found: list[Finding]) -> Iterator[str]:
    return (f"{finding.op} at {finding.loc}" for finding in found if finding.wrong)


def test_a_pass_that_changes_nothing_has_nothing_to_compare():
    assert findings(lambda module: None) == []


def test_equal_nodes_are_merged():
    found = findings(pass_named("eliminate-common-subexpressions").run)
    assert [f.loc for f in found] == ["b"]  # what stands for it is compared with it
    assert not found[0].wrong


def test_other_nodes_are_merged():
    """The first norm stands for the last."""

    def change(module: Module) -> None:
        function = module.functions["step"]
        nodes = function.nodes
        function.replace_values({nodes[5].result: nodes[1].result})
        function.remove([nodes[5]])

    assert list(wrong(findings(change))) == ["nn.rms_norm at e"]


def test_a_stream_is_rescaled():
    found = findings(pass_named("rescale-residual").run)
    assert [f.loc for f in found] == ["embed", "a", "b", "c", "d", "e"]
    assert not any(f.wrong for f in found)


@pytest.mark.parametrize("which", [1, 3, 5])
def test_an_attribute_is_changed_in_place(which: int):
    def change(module: Module) -> None:
        node = module.functions["step"].nodes[which]
        for name, value in node.attributes.items():
            assert isinstance(value, float)
            node.attributes[name] = value + 0.25

    loc = {1: "a", 3: "c", 5: "e"}[which]
    assert list(wrong(findings(change))) == [
        f"{'nn.add' if loc == 'c' else 'nn.rms_norm'} at {loc}"
    ]


def test_a_pass_that_tells_nobody_what_it_replaced():
    """The next value that was there before shows it."""

    def change(module: Module) -> None:
        nodes = module.functions["step"].nodes
        builder = ir.Builder(ir.infer_types)
        builder.loc = "new"
        fresh = builder.add("nn.add", nodes[0].result, nodes[1].result, scale=0.75)
        module.functions["step"].nodes[3:4] = builder.nodes
        nodes = module.functions["step"].nodes
        nodes[4].operands[0] = fresh

    assert list(wrong(findings(change))) == ["nn.add at d"]


def test_a_result_is_another_value():
    def change(module: Module) -> None:
        function = module.functions["step"]
        function.outputs[0] = function.nodes[4].result

    assert list(wrong(findings(change))) == ["nn.add at d"]


def test_copies_keep_the_order():
    module = ir.parse_module(TEXT)
    before = Snapshot.of("traced", module)
    after = Snapshot.of("copied", ir.parse_module(TEXT))
    found = partners(before, after)
    assert [found[new.results[0]][0].value for new in after.lines] == [
        old.results[0] for old in before.lines
    ]
