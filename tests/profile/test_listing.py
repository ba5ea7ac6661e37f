"""What the device half reads of a listing is what the IR says, and foreign text is refused."""

from __future__ import annotations

import pytest

from arkinfer import ir
from arkinfer.errors import ArtifactError
from arkinfer.ir.types import evaluate
from arkinfer.profile.listing import Type, read_listing
from tests.backends.models import MODELS

MODULE = """\
module {context = 64, note = "} : f32[1]  // no"}
weight @a.w : bf16[4, 8]
weight @a.w.int4-g32 : quant<int4-g32>[4, 8] = rtn(@a.w) {scheme = "int4-g32"}
func @other(%x: f32[T]) {
  %0 = nn.silu(%x) : f32[T]  // other
  return y = %0
}
func @step(%tokens: i64[T], %k0: cache<f32>[S, 1, 8]) {
  %0 = quant.linear(%tokens, @a.w.int4-g32) {note = "a } : b  // c", s = [1, 2.5]} : f32[T, 4]  // a
  %1, %2 = two.results(%0, %k0) : f32[T, 4], cache<f32>[S + T, 1, 8]
  return logits = %1, k0 = %2
}
"""


def test_a_listing_says_what_is_computed_from_what_and_where():
    listing = read_listing(MODULE)
    assert listing.inputs == ("tokens", "k0")
    first, second = listing.ops
    assert (first.results, first.name, first.values) == (("0",), "quant.linear", ("tokens",))
    assert (first.weights, first.path) == (("a.w.int4-g32",), "a")
    assert (second.results, second.values, second.path) == (("1", "2"), ("0", "k0"), "")
    assert listing.types["2"] == Type("cache", "f32", ("S + T", "1", "8"))
    assert listing.weights["a.w.int4-g32"] == Type("quant", "int4-g32", ("4", "8"))
    symbols = listing.symbols(tokens=3, k0=10)
    assert listing.types["2"].sizes(symbols) == (13, 1, 8)
    assert listing.types["2"].nbytes(symbols) == 13 * 8 * 4
    assert Type("tensor", "bf16", ("2*T + -1",)).sizes({"T": 3}) == (5,)


@pytest.mark.parametrize("name", [
    "three layers int4, int8 cache", "three layers int4, int8 cache by token", "llama int8",
])  # fmt: skip
def test_it_agrees_with_the_ir(name: str):
    module = MODELS[name].module
    step = module.functions["step"]
    names = ir.value_names(step)
    listing = read_listing(ir.print_module(module))
    assert listing.inputs == tuple(value.name for value in step.inputs)
    assert len(listing.ops) == len(step.nodes)
    for op, node in zip(listing.ops, step.nodes, strict=True):
        assert op.results == tuple(names[value] for value in node.results)
        assert (op.name, op.path) == (node.op, node.loc)
        assert op.values == tuple(names[value] for value in node.values)
        assert op.weights == tuple(weight.name for weight in node.weights)
        for value in node.results:
            sizes = listing.types[names[value]].sizes({"T": 5, "R": 2, "S": 7})
            bound = {"T": 5, "R": 2, "S": 7}
            assert sizes == tuple(evaluate(d, bound) for d in value.type.shape)
    assert set(listing.weights) == set(module.weights)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hello", 1),
        (MODULE.replace("two.results(", "two.results"), 10),
        (MODULE.replace("bf16[4, 8]", "bf17[4, 8]"), 2),
        (MODULE.replace("%k0: cache<f32>[S, 1, 8]", "%k0: cache<f31>[S, 1, 8]"), 8),
        (MODULE.replace("f32[T, 4], cache", "cache"), 10),
    ],
)
def test_foreign_text_is_refused_with_its_line(text: str, line: int):
    with pytest.raises(ArtifactError, match=rf"cannot be read\. Line {line}: "):
        read_listing(text)


def test_a_module_without_a_step_is_refused():
    with pytest.raises(ArtifactError, match='no function "step"'):
        read_listing("module\n")


def test_long_hostile_lines_are_read_in_no_time():
    for part in ("%0, " * 50_000, '{"' * 50_000, "f32[" * 50_000, " : " * 50_000):
        with pytest.raises(ArtifactError):
            read_listing(f"func @step(%x: f32[T]) {{\n  %0 = a.b(%x) {part}\n")
