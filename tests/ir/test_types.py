"""Dimensions as an algebra, types as text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.ir.types import add_dims, dtype_name, evaluate, scale_dim, symbols_of
from arkinfer.packing import Scheme

NAMES = ("T", "S", "R", "L_1")
BINDINGS = dict(zip(NAMES, (3, 10, 1, 77), strict=True))

terms = st.dictionaries(st.sampled_from(NAMES), st.integers(-9, 9), max_size=3)


@st.composite
def dims(draw: st.DrawFn) -> ir.Dim:
    """What adding and scaling symbols can give."""
    total: ir.Dim = draw(st.integers(-1000, 1000))
    for name, factor in draw(terms).items():
        total = add_dims(total, scale_dim(ir.dim(name), factor))
    return total


shapes = st.lists(dims(), max_size=4).map(tuple)
dtypes = st.sampled_from(sorted(ir.DTYPES))
sizes = st.integers(1, 9999)
schemes = st.builds(
    Scheme,
    st.integers(2, 8),
    st.sampled_from([0, 8, 32, 64, 128]),
    st.sampled_from(["none", "zero", "min"]),
    st.booleans(),
)
types = st.one_of(
    st.builds(ir.TensorType, dtypes, shapes),
    st.builds(ir.CacheType, dtypes, shapes),
    st.builds(ir.QuantizedType, schemes, st.tuples(sizes, sizes)),
)


@given(dims(), dims())
def test_sums_mean_sums(a: ir.Dim, b: ir.Dim) -> None:
    assert evaluate(add_dims(a, b), BINDINGS) == evaluate(a, BINDINGS) + evaluate(b, BINDINGS)


@given(dims(), st.integers(-9, 9))
def test_products_mean_products(a: ir.Dim, factor: int) -> None:
    assert evaluate(scale_dim(a, factor), BINDINGS) == factor * evaluate(a, BINDINGS)


@given(dims(), dims(), dims())
def test_equal_dims_are_equal_objects(a: ir.Dim, b: ir.Dim, c: ir.Dim) -> None:
    assert add_dims(a, b) == add_dims(b, a)
    assert add_dims(add_dims(a, b), c) == add_dims(a, add_dims(b, c))
    assert add_dims(a, scale_dim(a, -1)) == 0
    assert scale_dim(add_dims(a, a), 3) == scale_dim(a, 6)


@given(dims())
def test_a_dim_comes_back_from_its_text(a: ir.Dim) -> None:
    assert ir.dim(str(a)) == a


@given(types)
def test_a_type_comes_back_from_its_text(t: ir.Type) -> None:
    assert ir.parse_type(str(t)) == t


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("T", 3),
        ("S + T", 13),
        ("T+S", 13),
        ("2*T + 1", 7),
        ("-1*T + -2", -5),
        ("T + T", 6),
        ("T + -1*T", 0),
    ],
)
def test_dim_reads(text: str, value: int) -> None:
    assert evaluate(ir.dim(text), BINDINGS) == value


@pytest.mark.parametrize("text", ["", "+", "2T", "T - 1", "T*2", "1.5", "a b", "T +", "*T"])
def test_dim_refuses(text: str) -> None:
    with pytest.raises(InternalError) as error:
        ir.dim(text)
    assert str(error.value) == f'"{text}" is not a dimension. expected terms like T, 2*T or 8.'


def test_a_symbol_without_a_value_is_named() -> None:
    with pytest.raises(InternalError, match=r"the symbol Z of Z \+ 1 has no value\."):
        evaluate(ir.dim("Z + 1"), BINDINGS)


def test_symbols_of_a_shape() -> None:
    assert symbols_of((ir.dim("S + T"), 8, ir.dim("2*R"))) == {"S", "T", "R"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("f32", '"f32" is not a type. expected one like f32[T, 256].'),
        ("f32[T", '"f32[T" is not a type. expected one like f32[T, 256].'),
        ("list<f32>[2]", '"list<f32>[2]" is not a type. expected one like f32[T, 256].'),
        ("f23[2]", f'"f23" is not a dtype of the IR. known: {", ".join(ir.DTYPES)}.'),
        ("cache<f23>[2]", f'"f23" is not a dtype of the IR. known: {", ".join(ir.DTYPES)}.'),
        (
            "quant<int4-g32>[8]",
            '"quant<int4-g32>[8]" is not a type. quantized matrices have two sizes.',
        ),
        (
            "quant<int4-g32>[T, 32]",
            '"quant<int4-g32>[T, 32]" is not a type. quantized matrices have two sizes.',
        ),
    ],
)
def test_parse_type_refuses(text: str, why: str) -> None:
    with pytest.raises(InternalError) as error:
        ir.parse_type(text)
    assert str(error.value) == why


def test_every_dtype_has_one_name() -> None:
    assert {dtype_name(dtype): dtype for dtype in ir.DTYPES.values()} == ir.DTYPES
    with pytest.raises(InternalError, match="the IR has no dtype complex64"):
        dtype_name(np.dtype(np.complex64))
