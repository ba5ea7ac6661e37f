"""A proof refuses what is almost the same, and needs no real-sized tables."""

from __future__ import annotations

import pytest

from arkinfer import ir
from arkinfer.passes.prove import refutation

HEAD = """\
module
weight @a : f32[8]
weight @p : f32[4, 8]
weight @q : f32[4, 8]
weight @pq : f32[8, 8] = concat(@p, @q)
weight @a.scaled : f32[8] = scale(@a) {by = 0.5}
weight @table : f32[1000000000, 8]
weight @packed : quant<int8-row>[1000000000, 8]
weight @least : quant<int6-g4-min>[1000000000, 8]
weight @moved : quant<int4-g4-asym-actorder>[8, 8]
weight @f : f32[4]
func @f(%x: f32[T, 8], %z: f32[T, 8], %h: f32[T, 2, 8], %g: f32[T, 2, 8], %n: i64[T], \
%k: cache<f32>[S, 2, 8], %m: f32[S + T, 8], %one: f32[1]) {
"""


def refuted(old: str, new: str) -> str | None:
    """Executes two bodies; both call their one result %y. None: it is the same."""
    was, now = (side(old), side(new))
    inputs = {value.name: value for value in was.inputs}
    for node in now.nodes:  # both sides read the same values
        node.operands = [
            inputs[o.name] if isinstance(o, ir.Value) and o.producer is None else o
            for o in node.operands
        ]
    module = ir.parse_module(HEAD + "  return x = %x\n}\n")
    return refutation(was.nodes, now.nodes, {was.outputs[0]: now.outputs[0]}, module.weights)


def side(body: str) -> ir.Function:
    lines = body.replace("; ", "\n")
    return ir.parse_module(f"{HEAD}{lines}\n  return y = %y\n}}\n").functions["f"]


NORM = "%y = nn.rms_norm(%x, @a) {eps = 1e-05} : f32[T, 8]"
EQUAL = {
    "itself": (NORM, NORM),
    "a chain of scales": (
        "%0 = tensor.scale(%x) {by = 3.0} : f32[T, 8]; "
        "%y = tensor.scale(%0) {by = 0.1} : f32[T, 8]",
        "%y = tensor.scale(%x) {by = 0.3} : f32[T, 8]",
    ),
    "a scaled weight": (
        NORM.replace("%y", "%0") + "; %y = tensor.scale(%0) {by = 0.5} : f32[T, 8]",
        NORM.replace("@a", "@a.scaled"),
    ),
    "stacked matrices": (
        "%0 = nn.linear(%x, @p) : f32[T, 4]; %1 = nn.linear(%x, @q) : f32[T, 4]; "
        "%y = tensor.concat(%0, %1) {axis = 1} : f32[T, 8]",
        "%y = nn.linear(%x, @pq) : f32[T, 8]",
    ),
    "an embedding of a billion tokens": (
        "%0 = nn.embedding(%n, @table) {scale = 1.0} : f32[T, 8]; "
        "%y = tensor.scale(%0) {by = 12.0} : f32[T, 8]",
        "%y = nn.embedding(%n, @table) {scale = 12.0} : f32[T, 8]",
    ),
    "a quantized one": (
        "%0 = quant.embedding(%n, @packed) {scale = 1.0} : f32[T, 8]; "
        "%y = tensor.scale(%0) {by = 12.0} : f32[T, 8]",
        "%y = quant.embedding(%n, @packed) {scale = 12.0} : f32[T, 8]",
    ),
    "one with minima": (
        "%0 = quant.embedding(%n, @least) {scale = 1.0} : f32[T, 8]; "
        "%y = tensor.scale(%0) {by = 12.0} : f32[T, 8]",
        "%y = quant.embedding(%n, @least) {scale = 12.0} : f32[T, 8]",
    ),
    "one with its inputs in another order": (
        "%y = quant.linear(%x, @moved) : f32[T, 8]",
        "%0 = tensor.scale(%x) {by = 1.0} : f32[T, 8]; %y = quant.linear(%0, @moved) : f32[T, 8]",
    ),
}
DIFFERENT = {
    "another eps": (NORM, NORM.replace("1e-05", "1.1e-05")),
    "a small eps": (NORM.replace("1e-05", "1e-07"), NORM.replace("1e-05", "2e-07")),
    "another input": (NORM, NORM.replace("%x", "%z")),
    "gate and up swapped": (
        "%y = nn.silu_mul(%x, %z) : f32[T, 8]",
        "%y = nn.silu_mul(%z, %x) : f32[T, 8]",
    ),
    "another factor": (
        "%y = nn.rope(%h, %n, @f) {factor = 1.0} : f32[T, 2, 8]",
        "%y = nn.rope(%h, %n, @f) {factor = 1.0001} : f32[T, 2, 8]",
    ),
    "another scale of scores": (
        "%0 = cache.append(%k, %h) : cache<f32>[S + T, 2, 8]; "
        "%y = attn.dense(%h, %0, %0) {scale = 0.25} : f32[T, 2, 8]",
        "%0 = cache.append(%k, %h) : cache<f32>[S + T, 2, 8]; "
        "%y = attn.dense(%h, %0, %0) {scale = 0.2501} : f32[T, 2, 8]",
    ),
    "stacked the other way round": (
        "%0 = nn.linear(%x, @p) : f32[T, 4]; %1 = nn.linear(%x, @q) : f32[T, 4]; "
        "%y = tensor.concat(%1, %0) {axis = 1} : f32[T, 8]",
        "%y = nn.linear(%x, @pq) : f32[T, 8]",
    ),
    "one row more": (
        "%y = tensor.arange() {start = S, stop = S + T} : i64[T]",
        "%y = tensor.arange() {start = S + 1, stop = S + T + 1} : i64[T]",
    ),
    "another shape": (
        "%y = tensor.reshape(%x) {shape = [8, T]} : f32[8, T]",
        "%y = tensor.transpose(%x) {axes = [1, 0]} : f32[8, T]",
    ),
    "other sizes": (NORM, "%y = tensor.slice(%x) {axis = 1, start = 0, stop = 4} : f32[T, 4]"),
    "not a number": (
        "%0 = tensor.neg(%one) : f32[1]; %y = tensor.rsqrt(%0) : f32[1]",
        "%0 = tensor.rsqrt(%one) : f32[1]; %y = tensor.rsqrt(%0) : f32[1]",
    ),
}


@pytest.mark.parametrize("case", EQUAL)
def test_the_same(case: str) -> None:
    assert refuted(*EQUAL[case]) is None


@pytest.mark.parametrize("case", DIFFERENT)
def test_almost_the_same(case: str) -> None:
    why = refuted(*DIFFERENT[case])
    assert why is not None
    assert why.startswith("the proof failed: ")


def test_what_cannot_be_executed() -> None:
    ranks = "%y = tensor.take(%one, %n) : f32[T]"
    assert str(refuted(ranks, ranks)).startswith("it cannot be proven: executing it fails, ")


def test_the_text_says_how_far_apart() -> None:
    why = refuted(
        "%y = tensor.shift(%x) {by = 1.0} : f32[T, 8]",
        "%y = tensor.shift(%x) {by = 1.5} : f32[T, 8]",
    )
    assert why == "the proof failed: executing both sides gives results 0.5 apart"
