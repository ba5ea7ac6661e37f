"""The text form: what is printed is read back exactly, and what cannot be read says its line."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.ir.types import add_dims, scale_dim
from arkinfer.models.config import parse_config
from arkinfer.packing import Scheme, parse_scheme
from arkinfer.testing import PRESETS, preset
from arkinfer.testing.dense import dense_module

TEXT = """\
module {context = 8, name = "a \\"b\\"", scales = [1.0, -0.0, 1e-05, inf], T = 3, ok = true}
weight @embed : bf16[16, 8]
weight @embed.q : quant<int4-g8-asym>[16, 8] = rtn(@embed) {scheme = "int4-g8-asym"}
weight @norm : f32[8]
func @step(%tokens: i64[T], %k: cache<f32>[S, 1, 8], %7: f32[2*T + 1]) {
  %0 = nn.embedding(%tokens, @embed) {scale = 12.0} : f32[T, 8]  // model.embed
  %1 = nn.rms_norm(%0, @norm) {eps = 1e-06} : f32[T, 8]
  %2 = tensor.reshape(%1) {shape = [T, 1, 8]} : f32[T, 1, 8]
  %3 = tensor.arange() {start = S, stop = S + T} : i64[T]
  %4 = cache.append(%k, %2) : cache<f32>[S + T, 1, 8]
  return hidden = %1, k = %4
}
func @head(%x: f32[8]) {
  %0 = tensor.scale(%x) {by = 0.5} : f32[8]  // a } : f32[1]  // b
  return y = %0
}
"""
"""A text that must stay readable for ever: change it only with a version of the format."""

words = st.text(string.ascii_letters + string.digits + "_.-/:", min_size=1, max_size=12)
symbols = st.sampled_from(("T", "S", "R"))
scalars = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(max_size=20),
    st.builds(lambda name, f, c: add_dims(scale_dim(ir.dim(name), f), c),
              symbols, st.integers(-3, 3), st.integers(-9, 9)),
)  # fmt: skip
attributes = st.one_of(scalars, st.lists(scalars, max_size=4).map(tuple))
finite = attributes.filter(lambda value: "nan" not in repr(value))  # for dataclass equality
dims = st.one_of(st.integers(0, 9999), symbols.map(ir.dim))
shapes = st.lists(dims, max_size=4).map(tuple)
dtypes = st.sampled_from(sorted(ir.DTYPES))
tensors = st.builds(ir.TensorType, dtypes, shapes)
values = st.one_of(tensors, st.builds(ir.CacheType, dtypes, shapes))
sizes = st.integers(1, 999)
quantized = st.builds(
    ir.QuantizedType,
    st.builds(Scheme, st.integers(2, 8), st.just(8), st.sampled_from(["none", "zero", "min"])),
    st.tuples(sizes, sizes),
)
locations = st.text(max_size=20).map(lambda text: " ".join(text.split()))


@st.composite
def modules(draw: st.DrawFn) -> ir.Module:
    """Anything that the text can say, whether it makes sense or not."""
    module = ir.Module(attributes=draw(st.dictionaries(words, attributes, max_size=3)))
    for name in draw(st.lists(words, unique=True, max_size=4)):
        source = None
        if module.weights and draw(st.booleans()):
            inputs = draw(st.lists(st.sampled_from(sorted(module.weights)), max_size=3))
            options = draw(st.dictionaries(words, finite, max_size=2))
            source = ir.Derived(draw(st.sampled_from(["concat", "rtn"])), tuple(inputs),
                                tuple(options.items()))  # fmt: skip
        module.add_weight(ir.Weight(name, draw(st.one_of(tensors, quantized)), source))
    for name in draw(st.lists(words, unique=True, max_size=2)):
        module.functions[name] = draw(functions(name, list(module.weights.values())))
    return module


@st.composite
def functions(draw: st.DrawFn, name: str, weights: list[ir.Weight]) -> ir.Function:
    inputs = [ir.Value(draw(values), n) for n in draw(st.lists(words, unique=True, max_size=3))]
    function = ir.Function(name, inputs)
    known: list[ir.Value] = list(inputs)
    for op in draw(st.lists(st.sampled_from(sorted(ir.OPS)), min_size=1, max_size=6)):
        given_attributes = {key: draw(attributes) for key in ir.op_class(op).attributes}
        operands = draw(st.lists(st.sampled_from([*known, *weights]), max_size=3)) if known else []
        results = [ir.Value(t) for t in draw(st.lists(values, min_size=1, max_size=2))]
        function.nodes.append(ir.Node(op, operands, given_attributes, results, draw(locations)))
        known += results
    function.output_names = draw(st.lists(words, unique=True, min_size=1, max_size=3))
    function.outputs = [draw(st.sampled_from(known)) for _ in function.output_names]
    return function


@given(modules())
@settings(max_examples=150)
def test_a_module_comes_back_from_its_text(module: ir.Module) -> None:
    text = ir.print_module(module)
    again = ir.parse_module(text)
    assert again == module
    assert ir.print_module(again) == text


def test_the_text_of_format_1_is_read_and_written() -> None:
    module = ir.parse_module(TEXT)
    assert ir.print_module(module) == TEXT
    assert module.attributes["scales"] == (1.0, 0.0, 1e-05, float("inf"))
    assert module.weights["embed.q"].source == ir.Derived(
        "rtn", ("embed",), (("scheme", "int4-g8-asym"),)
    )
    step, head = module.functions.values()
    assert [node.op for node in step.nodes[:2]] == ["nn.embedding", "nn.rms_norm"]
    assert step.nodes[0].loc == "model.embed"
    assert step.nodes[4].values == [step.inputs[1], step.nodes[2].result]
    assert head.nodes[0].loc == "a } : f32[1]  // b"
    ir.verify_module(module)


def test_inputs_that_are_named_like_results() -> None:
    module = ir.parse_module(
        "module\nfunc @f(%0: f32[2], %2: f32[2]) {\n%a = tensor.add(%0, %2) : f32[2]\n"
        "%b = tensor.neg(%a) : f32[2]\nreturn y = %b\n}"
    )
    assert "%3 = tensor.neg(%1)" in ir.print_module(module)
    assert ir.parse_module(ir.print_module(module)) == module


def test_comments_and_blank_lines_are_skipped() -> None:
    lines = TEXT.splitlines()
    commented = [part for line in lines for part in ("  // CHECK: " + line, "", f"\t{line} ")]
    assert ir.parse_module("\n".join(commented)) == ir.parse_module(TEXT)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("scheme", [None, "int4-g128", "int8-row-asym"])
def test_the_models_of_the_family(name: str, scheme: str | None) -> None:
    config = parse_config(preset(name, num_hidden_layers=2))
    packed = parse_scheme(scheme) if scheme else None
    module = dense_module(config, linear=packed, embedding=packed, dtype="bf16")
    assert ir.parse_module(ir.print_module(module)) == module


CHANGES: dict[str, Callable[[ir.Module], object]] = {
    "module attribute": lambda m: m.attributes.update(context=9),
    "int for float": lambda m: m.attributes.update(context=8.0),
    "sign of zero": lambda m: m.attributes.update(scales=(1.0, 0.0, 1e-05, float("inf"))),
    "weight type": lambda m: m.weights.update(
        norm=dataclasses.replace(m.weights["norm"], type=ir.parse_type("f16[8]"))
    ),
    "weight gone": lambda m: m.weights.pop("norm"),
    "function name": lambda m: m.functions.update(tail=m.functions.pop("head")),
    "location": lambda m: setattr(m.functions["step"].nodes[0], "loc", "elsewhere"),
    "node attribute": lambda m: m.functions["step"].nodes[1].attributes.update(eps=1e-5),
    "operand": lambda m: (
        m.functions["step"].nodes[1].operands.__setitem__(0, m.functions["step"].inputs[2])
    ),
    "order": lambda m: m.functions["step"].nodes.insert(0, m.functions["step"].nodes.pop(3)),
    "input name": lambda m: setattr(m.functions["step"].inputs[0], "name", "ids"),
    "output": lambda m: m.functions["step"].outputs.__setitem__(0, m.functions["step"].inputs[2]),
    "outputs fewer": lambda m: m.functions["step"].outputs.pop(),
    "result type": lambda m: setattr(
        m.functions["step"].nodes[0].result, "type", ir.parse_type("f16[T, 8]")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_modules_that_differ_are_not_equal(change: str) -> None:
    module = ir.parse_module(TEXT)
    CHANGES[change](module)
    assert module != ir.parse_module(TEXT)


def test_remarks_and_names_of_results_do_not_count() -> None:
    module = ir.parse_module(TEXT)
    node = module.functions["step"].nodes[0]
    node.result.name = "embedded"
    module.remark("fuse-rope", node, "no rotation follows")
    assert module == ir.parse_module(TEXT)
    assert str(module.remarks[0]) == ("fuse-rope: nn.embedding at model.embed: no rotation follows")


GOOD = "module\nweight @w : f32[2]\nfunc @f(%x: f32[2]) {\n"


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("weight @w : f32[2]", 1, "expected `module {attributes}`."),
        ("module {a = }", 1, "expected a value at: ."),
        ("module {a = 1, a = 2}", 1, 'the attribute "a" is given twice.'),
        ("module {a = 1x}", 1, "could not convert string to float: '1x'."),
        ("module {a = [1, 2}", 1, "its list has no end: [1, 2."),
        ("module {a = ?}", 1, '"?" is not a dimension. expected terms like T, 2*T or 8.'),
        ("module\nnonsense", 2, "expected weight or func."),
        ("module\nweight @w : f23[2]", 2, '"f23" is not a dtype of the IR.'),
        ("module\nweight @w : cache<f32>[2]", 2, "@w cannot be a cache."),
        ("module\nweight @w : quant<int9-g8>[2, 8]", 2, '"int9-g8" is not a quantization scheme.'),
        ("module\nweight @w : quant<int4-g8>[8]", 2, "quantized matrices have two sizes."),
        ("module\nweight @w : f32[2] = scale", 2, "scale does not say how @w is derived."),
        (
            "module\nweight @w : f32[2]\nweight @w : f32[3]",
            3,
            "@w is declared twice, differently.",
        ),
        ("module\nfunc @f(%x f32[2]) {", 2, "expected weight or func."),
        (GOOD + "return y = %x\n}\nfunc @f(%x: f32[2]) {", 6, "@f is defined twice."),
        (GOOD + "%0 = tensor.neg(%y) : f32[2]", 4, "%y is used before it is defined."),
        (GOOD + "%0 = nn.linear(%x, @v) : f32[2]", 4, "@v is not declared."),
        (GOOD + "%x = tensor.neg(%x) : f32[2]", 4, "%x is defined twice."),
        (GOOD + "%0, %1 = tensor.neg(%x) : f32[2]", 4, "2 results, but 1 types."),
        (
            GOOD + "%0 = tensor.negg(%x) : f32[2]",
            4,
            'the IR has no op "tensor.negg". Did you mean "tensor.neg"?',
        ),
        (GOOD + "%0 = tensor.scale(%x) : f32[2]", 4, 'tensor.scale needs the attribute "by".'),
        (
            GOOD + "%0 = tensor.scale(%x) {bye = 2} : f32[2]",
            4,
            'tensor.scale has no attribute "bye". Did you mean "by"?',
        ),
        (
            GOOD + "tensor.neg(%x)",
            4,
            "expected `%result = op(operands) {attributes} : type  // location`.",
        ),
        (GOOD + "return y = %0", 4, "%0 is used before it is defined."),
        (GOOD + "return y = %x\n%0 = tensor.neg(%x) : f32[2]", 5, "nothing can follow the return."),
    ],
)
def test_what_cannot_be_read_says_where(text: str, line: int, why: str) -> None:
    with pytest.raises(InternalError) as error:
        ir.parse_module(text)
    at = text.splitlines()[line - 1]
    assert error.value.what == f"line {line} of the IR text cannot be read: {at}"
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the IR text is empty."),
        ("// module", "the IR text is empty."),
        (GOOD, "the IR text ends inside of @f."),
    ],
)
def test_what_is_not_whole_is_refused(text: str, what: str) -> None:
    with pytest.raises(InternalError) as error:
        ir.parse_module(text)
    assert str(error.value) == what


@given(st.data())
@settings(max_examples=200)
def test_damaged_text_raises_nothing_else(data: st.DataObject) -> None:
    """Bytes cut out or put in: it is read, or refused in words."""
    start = data.draw(st.integers(0, len(TEXT)))
    stop = data.draw(st.integers(start, min(len(TEXT), start + 8)))
    text = TEXT[:start] + data.draw(st.text('{}[](),=%@":/\\T 1e.-*+\n', max_size=4)) + TEXT[stop:]
    try:
        module = ir.parse_module(text)
        ir.verify_module(module)
    except InternalError:
        return
    assert ir.parse_module(ir.print_module(module)) == module


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("module" + " " * (4 << 20), "the IR text has more than 4,194,304 characters."),
        ("module\n" + "// x\n" * 20_000, "the IR text has more than 20,000 lines."),
        ("module {a = [" + "1, " * 30_000 + "]}", "it has more than 65,536 characters."),
    ],
    ids=("text", "lines", "line"),
)
def test_limits_of_a_text(text: str, why: str) -> None:
    with pytest.raises(InternalError) as error:
        ir.parse_module(text)
    assert str(error.value).endswith(why)


def test_a_line_of_many_values_takes_no_time() -> None:
    module = ir.parse_module("module {a = [" + "1, " * 20_000 + "2]}")
    assert module.attributes["a"] == (*[1] * 20_000, 2)
