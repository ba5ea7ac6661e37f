"""What is refused, and in which words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.models.config import parse_config
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module


def function(*body: str, inputs: str = "%x: f32[T, 8], %k: cache<f32>[S, 2, 4]") -> ir.Module:
    weights = "weight @w : f32[6, 8]\nweight @q : quant<int4-g8>[6, 8]\nweight @n : f32[8]\n"
    return ir.parse_module(
        f"module\n{weights}func @f({inputs}) {{\n" + "\n".join(body) + "\nreturn y = %x\n}"
    )


def refusal(module: ir.Module) -> InternalError:
    with pytest.raises(InternalError) as error:
        ir.verify_module(module)
    return error.value


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("%0 = nn.linear(%x) : f32[T, 6]", "nn.linear takes (x, weight), not 1 operands"),
        (
            "%0 = nn.linear(%x, @w) : f32[T, 7]",
            "its result is f32[T, 7], but the op gives f32[T, 6]",
        ),
        ("%0 = nn.linear(%k, @w) : f32[T, 6]", "nn.linear: x is cache<f32>[S, 2, 4], not a float"),
        ("%0 = nn.linear(%x, @n) : f32[T, 6]", "weight is f32[8], which has not 2 dims"),
        ("%0 = nn.linear(%x, @q) : f32[T, 6]", "weight is quant<int4-g8>[6, 8], not a float"),
        (
            '%0 = quant.linear(%x, @w) {activations = "any"} : f32[T, 6]',
            "weight is f32[6, 8], not a quantized matrix",
        ),
        (
            '%0 = quant.linear(%x, @q) {activations = "f16"} : f32[T, 6]',
            'activations are any, f32, i16, i8, not "f16"',
        ),
        ("%0 = nn.rms_norm(%x, @n) {eps = 1.0} : f32[8, T]", "its result is f32[8, T], but the op"),
        ("%0 = tensor.add(%x, @w) : f32[T, 8]", "tensor.add: dims T and 6 do not broadcast"),
        ("%0 = nn.add(%x, @n) : f32[T, 8]", "residual is f32[T, 8], branch is f32[8]"),
        ("%0 = nn.silu_mul(%x, @n) : f32[T, 8]", "gate is f32[T, 8], up is f32[8]"),
        ("%0 = nn.embedding(%x, @w) : f32[T, 8]", "tokens is f32[T, 8]; it must be i64"),
        ("%0 = tensor.take(%x, %x) : f32[T, 8]", "rows is f32[T, 8]; it must be i64"),
        ('%0 = tensor.cast(%x) {to = "f23"} : f32[T, 8]', '"f23" is not a dtype'),
        (
            "%0 = tensor.reshape(%x) {shape = [T, 3]} : f32[T, 3]",
            "f32[T, 8] has not the elements of f32[T, 3]",
        ),
        (
            "%0 = tensor.transpose(%x) {axes = [0, 0]} : f32[T, 8]",
            "(0, 0) do not permute f32[T, 8]",
        ),
        (
            "%0 = tensor.slice(%x) {axis = 0, start = 0, stop = 1} : f32[1, 8]",
            "axis 0 of f32[T, 8] is symbolic",
        ),
        (
            "%0 = tensor.slice(%x) {axis = 1, start = 4, stop = 9} : f32[T, 5]",
            "4:9 is outside of axis 1 of f32[T, 8]",
        ),
        (
            "%0 = tensor.slice(%x) {axis = 2, start = 4, stop = 9} : f32[T, 5]",
            "there is no axis 2 among 2",
        ),
        ("%0 = tensor.concat() {axis = 0} : f32[T, 8]", "tensor.concat: there is nothing to join"),
        (
            "%0 = tensor.concat(%x, @n) {axis = 0} : f32[T, 8]",
            "f32[T, 8] and f32[8] do not join along axis 0",
        ),
        ("%0 = tensor.arange() {start = 3, stop = 1} : i64[-2]", "from 3 to 1 there is nothing"),
        ("%0 = tensor.le(%x, %x) : bool[T, 8]", "a is f32[T, 8]; it must be i64"),
        (
            "%0 = cache.append(%k, %x) : cache<f32>[S + T, 2, 4]",
            "rows is f32[T, 8], which has not 3 dims",
        ),
        (
            "%0 = attn.dense(%x, %k, %k) {scale = 1.0} : f32[T, 8]",
            "q is f32[T, 8], which has not 3 dims",
        ),
    ],
)
def test_a_node_that_breaks_its_rule(line: str, why: str) -> None:
    error = refusal(function(line))
    shown = line.replace("nn.add(%x, @n)", "nn.add(%x, @n) {scale = 1.0}").replace(
        "nn.embedding(%x, @w)", "nn.embedding(%x, @w) {scale = 1.0}"
    )
    assert error.what == f"the IR of @f is wrong at: {shown}"
    assert why in error.why


@pytest.mark.parametrize(
    ("inputs", "line", "why"),
    [
        (
            "%x: f32[T, 8], %k: cache<f32>[S, 2, 4]",
            "%0 = cache.append(%k, %r) : cache<f32>[S + T, 2, 4]",
            "cache is cache<f32>[S, 2, 4], rows are f32[T, 4, 2]",
        ),
        (
            "%x: f32[T, 3, 4], %k: cache<f32>[S, 2, 4]",
            "%0 = attn.dense(%x, %k, %k) {scale = 1.0} : f32[T, 3, 4]",
            "q is f32[T, 3, 4], k is cache<f32>[S, 2, 4]",
        ),
        (
            "%x: f32[T, 4, 8], %k: cache<f32>[S, 2, 4]",
            "%0 = attn.dense(%x, %k, %k) {scale = 1.0} : f32[T, 4, 8]",
            "q is f32[T, 4, 8], k is cache<f32>[S, 2, 4]",
        ),
        (
            "%x: f32[T, 2, 4], %k: cache<f32>[S, 2, 4], %v: cache<f32>[S, 1, 4]",
            "%0 = attn.dense(%x, %k, %v) {scale = 1.0} : f32[T, 2, 4]",
            "k is cache<f32>[S, 2, 4], v is cache<f32>[S, 1, 4]",
        ),
        (
            "%x: f32[T, 2, 4], %k: cache<i8>[S, 2, 4]",
            "%0 = cache.append(%k, %x) : cache<i8>[S + T, 2, 4]",
            "cache.append: a cache<i8>[S, 2, 4] takes 1 scales, not 0",
        ),
        (
            "%x: f32[T, 2, 4], %k: cache<f32>[S, 2, 4], %s: f32[2, 4]",
            "%0 = cache.append(%k, %x, %s) : cache<f32>[S + T, 2, 4]",
            "cache.append: a cache<f32>[S, 2, 4] takes 0 scales, not 1",
        ),
        (
            "%x: f32[T, 2, 4], %k: cache<i8>[S, 2, 4], %s: f32[4, 2]",
            "%0 = cache.append(%k, %x, %s) : cache<i8>[S + T, 2, 4]",
            "scale is f32[4, 2], the cache is cache<i8>[S, 2, 4]",
        ),
        (
            "%x: f32[T, 2, 4], %k: cache<i8>[S, 2, 4], %s: f32[2, 4]",
            "%0 = attn.dense(%x, %k, %k, %s) {scale = 1.0} : f32[T, 2, 4]",
            "attn.dense: a cache<i8>[S, 2, 4] takes 2 scales, not 1",
        ),
        (
            "%x: f32[T, 2, 4], %k: cache<i8>[S, 2, 4], %s: cache<f32>[S, 2, 4]",
            "%0, %1 = cache.append(%k, %x, %s) : cache<i8>[S + T, 2, 4], cache<f32>[S + T, 2, 4]",
            "scale is cache<f32>[S, 2, 4], the cache is cache<i8>[S, 2, 4]",
        ),
        (
            "%x: f32[T, 2, 4], %k: cache<i8>[S, 2, 4], %s: cache<f32>[L, 2, 1]",
            "%0, %1 = cache.append(%k, %x, %s) : cache<i8>[S + T, 2, 4], cache<f32>[L + T, 2, 1]",
            "scale is cache<f32>[L, 2, 1], the cache is cache<i8>[S, 2, 4]",
        ),
        (
            "%x: f32[T, 2, 4], %k: cache<i8>[S, 2, 4], %s: cache<f32>[S, 2, 1], %c: f32[2, 4]",
            "%0 = attn.dense(%x, %k, %k, %s, %c) {scale = 1.0} : f32[T, 2, 4]",
            "attn.dense: one of its caches has scales per channel, the other per token",
        ),
        (
            "%x: f32[T, 2, 4], %p: i64[S], %f: f32[2]",
            "%0 = nn.rope(%x, %p, %f) {factor = 1.0} : f32[T, 2, 4]",
            "x is f32[T, 2, 4], positions are i64[S]",
        ),
        (
            "%x: f32[T, 2, 4], %p: i64[T], %f: f32[4]",
            "%0 = nn.rope(%x, %p, %f) {factor = 1.0} : f32[T, 2, 4]",
            "f32[T, 2, 4] with f32[4]",
        ),
        (
            "%x: f32[4, T, 8], %k: f32[3, L, 8], %m: bool[T, L]",
            "%0 = tensor.sdpa(%x, %k, %k, %m) {scale = 1.0} : f32[4, T, 8]",
            "f32[4, T, 8], f32[3, L, 8], f32[3, L, 8]",
        ),
        (
            "%x: f32[4, T, 8], %k: f32[2, L, 8], %m: bool[L, T]",
            "%0 = tensor.sdpa(%x, %k, %k, %m) {scale = 1.0} : f32[4, T, 8]",
            "mask is bool[L, T], q f32[4, T, 8], k f32[2, L, 8]",
        ),
    ],
)
def test_attention_that_does_not_fit(inputs: str, line: str, why: str) -> None:
    error = refusal(function(line, inputs=inputs + ", %r: f32[T, 4, 2]"))
    assert why in error.why


def test_a_result_may_not_be_used_before_it_is_made() -> None:
    module = function("%0 = tensor.neg(%x) : f32[T, 8]", "%1 = tensor.neg(%0) : f32[T, 8]")
    module.functions["f"].nodes.reverse()
    error = refusal(module)
    assert error.what == "the IR of @f is wrong at: %0 = tensor.neg(%1) : f32[T, 8]"
    assert error.why == "an operand is used before it is made."


def test_a_cache_is_not_used_after_it_was_appended_to() -> None:
    append = "%{} = cache.append(%k, %r) : cache<f32>[S + T, 2, 4]"
    inputs = "%x: f32[T, 2, 4], %r: f32[T, 2, 4], %k: cache<f32>[S, 2, 4]"
    why = "the cache was appended to before."
    assert refusal(function(append.format(0), append.format(1), inputs=inputs)).why == why
    read = "%1 = attn.dense(%x, %k, %k) {scale = 1.0} : f32[T, 2, 4]"
    assert refusal(function(append.format(0), read, inputs=inputs)).why == why
    ir.verify_module(function(read, append.format(0), inputs=inputs))
    module = function(append.format(0), inputs=inputs)
    module.functions["f"].outputs = [module.functions["f"].inputs[2]]
    assert str(refusal(module)) == "@f returns y, a cache as it was before."


def test_weights_stand_as_declared() -> None:
    module = function("%0 = nn.linear(%x, @w) : f32[T, 6]")
    module.weights["w"] = ir.Weight("w", ir.TensorType("f16", (6, 8)))
    assert refusal(module).why == "@w is not declared as it is used."
    del module.weights["w"]
    assert refusal(module).why == "@w is not declared as it is used."
    module = function()
    module.add_weight(ir.Weight("c", ir.TensorType("f32", (8,)), ir.Derived("scale", ("gone",))))
    assert str(refusal(module)) == "@c comes from @gone, which is not declared."


def broken(change: Callable[[ir.Module, ir.Function, ir.Node], object]) -> InternalError:
    module = function("%0 = tensor.scale(%x) {by = 2.0} : f32[T, 8]")
    change(module, module.functions["f"], module.functions["f"].nodes[0])
    return refusal(module)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m, f, n: n.attributes.clear(), 'tensor.scale needs the attribute "by".'),
        (lambda m, f, n: n.attributes.update(to=1), 'tensor.scale has no attribute "to".'),
        (
            lambda m, f, n: n.attributes.update(by=np.float64(2)),
            'the attribute "by" of the node is a float64.',
        ),
        (lambda m, f, n: setattr(n, "op", "tensor.gone"), 'the IR has no op "tensor.gone".'),
        (lambda m, f, n: setattr(n, "loc", "a\nb"), "its location is not one line."),
        (lambda m, f, n: setattr(n.result, "producer", None), "a result does not know its"),
    ],
)
def test_nodes_that_no_text_can_hold(change: Callable[..., object], why: str) -> None:
    error = broken(change)
    assert error.what.startswith("the IR of @f is wrong at: %0 = tensor.")
    assert why in error.why


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m, f, n: setattr(f.inputs[1], "name", "x"), "@f has two inputs of one name."),
        (lambda m, f, n: setattr(f.inputs[1], "name", "a b"), "'a b' cannot name an input."),
        (lambda m, f, n: setattr(f, "name", ""), "'' cannot name a function."),
        (lambda m, f, n: f.output_names.append("z"), "@f needs outputs, each with a name."),
        (lambda m, f, n: (f.outputs.clear(), f.output_names.clear()), "@f needs outputs, each"),
        (
            lambda m, f, n: (f.outputs.append(f.inputs[0]), f.output_names.append("y")),
            "@f has two outputs of one name.",
        ),
        (
            lambda m, f, n: f.outputs.__setitem__(0, ir.Value(ir.TensorType("f32", (1,)))),
            "@f returns y, which no node makes.",
        ),
        (lambda m, f, n: m.attributes.update(a=None), 'the attribute "a" of the module is a None'),
        (
            lambda m, f, n: m.weights.update(a=ir.Weight("a,b", ir.TensorType("f32", (1,)))),
            "'a,b' cannot name a weight.",
        ),
    ],
)
def test_interfaces(change: Callable[..., object], what: str) -> None:
    assert what in str(broken(change))


def test_attributes_left_out_are_refused() -> None:
    """The parser fills defaults in; a pass that forgets them is caught."""
    module = ir.parse_module(
        "module\nfunc @f(%x: f32[2]) {\n%0 = tensor.mean(%x) : f32[1]\nreturn y = %0\n}"
    )
    ir.verify_module(module)
    module.functions["f"].nodes[0].attributes.clear()
    assert refusal(module).why == "attributes are not complete."


def test_every_single_change_of_a_type_is_caught() -> None:
    """No result of a real module may have any other type."""
    config = parse_config(preset("tiny"))
    module = dense_module(config)
    for node in module.functions["step"].nodes:
        value = node.result
        right = value.type
        value.type = ir.TensorType("f32", (*right.shape, 3))
        refusal(module)
        value.type = right
    ir.verify_module(module)


def test_scales_of_a_cache_are_not_used_after_it_was_appended_to() -> None:
    inputs = "%x: f32[T, 2, 4], %k: cache<i8>[S, 2, 4], %s: cache<f32>[S, 2, 1]"
    append = "%0, %1 = cache.append(%k, %x, %s) : cache<i8>[S + T, 2, 4], cache<f32>[S + T, 2, 1]"
    ir.verify_module(function(append, inputs=inputs))
    read = "%2 = attn.dense(%x, %k, %k, %s, %s) {scale = 1.0} : f32[T, 2, 4]"
    assert refusal(function(append, read, inputs=inputs)).why == "the cache was appended to before."
