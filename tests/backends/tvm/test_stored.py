"""What of a function's weights is stored, and in which form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.packing import QuantizedTensor
from arkinfer_tvm.layout import DenseStream, Stream, packed
from arkinfer_tvm.stored import Stored
from tests.backends.tvm.cases import Draft, matrix
from tests.backends.tvm.test_ops import CaseStore

Array = np.ndarray[Any, Any]
Quantize = Callable[..., QuantizedTensor]


def function(weight: ir.Weight, *activations: str) -> ir.Function:
    """Products with a matrix that take their activations so."""
    draft = Draft()
    x = draft.tensor("x", "T", int(str(weight.type.shape[1])))
    outputs = [draft.add("quant.linear", x, weight, activations=how) for how in activations]
    names = [str(number) for number in range(len(outputs))]
    return ir.Function("case", draft.inputs, draft.builder.nodes, outputs, names)


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    ("activations", "scale"),
    [(["any"], "f16"), (["i8", "i16"], "f16"), (["f32"], "f32"), (["any", "f32"], "f32")],
)
def test_scales_stay_as_they_are_where_a_product_rounds_nothing(
    activations: list[str], scale: str, arch: str, quantized: Quantize
) -> None:
    weight = matrix("w", 40, 96, "int8-g32-actorder")
    store = CaseStore(quantized)
    stored = Stored(store, arch, function(weight, *activations))
    stream = stored.stream(weight)
    assert isinstance(stream, Stream)
    assert stream.scale == scale
    whole = store.rows(weight, 0, 40)
    assert isinstance(whole, QuantizedTensor)
    expected = np.concatenate(list(packed(stream, lambda a, b: whole.rows(slice(a, b)))))
    np.testing.assert_array_equal(store.tensors[stored.packed(weight)], expected)
    np.testing.assert_array_equal(store.tensors[stored.order(weight)], whole.order)


def test_a_matrix_of_several_products_is_stored_once(quantized: Quantize) -> None:
    weight = matrix("w", 40, 96, "int4-g32-actorder")
    store = CaseStore(quantized)
    stored = Stored(store, "x86_64", function(weight, "any", "any"))
    names = [stored.packed(weight), stored.order(weight)]
    store.tensors.clear()
    assert [stored.packed(weight), stored.order(weight)] == names
    assert not store.tensors


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_floats_keep_their_type(dtype: str, quantized: Quantize) -> None:
    weight = matrix("w", 40, 24, dtype)
    store = CaseStore(quantized)
    stored = Stored(store, "aarch64", ir.Function("case", [], [], [], []))
    assert stored.stream(weight) == DenseStream.of(dtype, (40, 24))
    found = store.tensors[stored.packed(weight)]
    assert found.shape == DenseStream.of(dtype, (40, 24)).shape
    assert not stored.is_multiplied(weight)
