"""Weight rules evaluated by rows, against numpy on whole matrices."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer.compiler import weights as weights_module
from arkinfer.compiler.weights import WeightStore, nbytes
from arkinfer.errors import CheckpointError, InternalError
from arkinfer.ir import Derived, QuantizedType, TensorType, Weight
from arkinfer.packing import QuantizedTensor, Scheme
from arkinfer.quant import round_to_nearest


class Leaves:
    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.most = 0

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        self.most = max(self.most, stop - start)
        return self.arrays[name][start:stop]

    def quantized(self, name: str, start: int, stop: int) -> QuantizedTensor:
        """As a checkpoint has it: with scales of 16 bits."""
        tensor = round_to_nearest(self.arrays[name][start:stop], STORED, clip=False)
        parts = tensor.parts()
        half = {"scale": parts["scale"].astype(np.float16)}
        return QuantizedTensor.from_parts(STORED, tensor.shape, parts | half)


STORED = Scheme(4, 32, "zero")


def leaf(name: str, rows: int, dtype: Any = np.float32) -> tuple[Weight, np.ndarray]:
    array = np.random.default_rng([7, *name.encode()]).standard_normal((rows, 64)).astype(dtype)
    kind = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[array.dtype.name]
    return Weight(name, TensorType(kind, (rows, 64))), array


def store(*weights: Weight, **arrays: np.ndarray) -> WeightStore:
    return WeightStore({w.name: w for w in weights}, Leaves(arrays))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_concat_by_any_rows(sizes: list[int], data: st.DataObject) -> None:
    leaves = [leaf(f"w{i}", size) for i, size in enumerate(sizes)]
    total = sum(sizes)
    kind = TensorType("f32", (total, 64))
    joined = Weight("joined", kind, Derived("concat", tuple(w.name for w, _ in leaves)))
    found = store(joined, *(w for w, _ in leaves), **{w.name: a for w, a in leaves})
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start + 1, total))
    whole = np.concatenate([a for _, a in leaves])
    np.testing.assert_array_equal(found.rows(joined, start, stop), whole[start:stop])


def test_scale_and_cast_of_bfloat16() -> None:
    weight, array = leaf("w", 5, ml_dtypes.bfloat16)
    scaled = Weight("s", TensorType("f32", (5, 64)), Derived("scale", ("w",), (("by", 0.25),)))
    half = Weight("h", TensorType("f16", (5, 64)), Derived("cast", ("s",), (("to", "f16"),)))
    found = store(weight, scaled, half, w=array)
    expected = array.astype(np.float32) * np.float32(0.25)
    np.testing.assert_array_equal(found.load(scaled), expected)
    np.testing.assert_array_equal(found.load(half), expected.astype(np.float16))


def quantized(rows: int, scheme: Scheme) -> Weight:
    source = Derived("rtn", ("w",), (("scheme", scheme.name),))
    return Weight(f"w.{scheme.name}", QuantizedType(scheme, (rows, 64)), source)


def test_blocks_join_to_the_whole_and_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "BLOCK", 64 * 10)
    weight, array = leaf("w", 37)
    matrix = quantized(37, Scheme(4, 32, "zero"))
    leaves = Leaves({"w": array})
    found = WeightStore({"w": weight, matrix.name: matrix}, leaves)
    blocks = [b for b in found.blocks(matrix) if isinstance(b, QuantizedTensor)]
    assert [b.shape[0] for b in blocks] == [10, 10, 10, 7]
    assert leaves.most == 10
    whole = round_to_nearest(array, Scheme(4, 32, "zero"))
    joined = QuantizedTensor.concatenate(blocks)
    for name, part in whole.parts().items():
        np.testing.assert_array_equal(joined.parts()[name], part)
    assert nbytes(matrix) == whole.nbytes


def test_a_damaged_weight_is_named() -> None:
    weight, array = leaf("w", 3)
    array[1, 2] = np.nan
    matrix = quantized(3, Scheme(4, 32))
    with pytest.raises(CheckpointError, match=r"@w\.int4-g32: A weight holds numbers that are not"):
        store(weight, matrix, w=array).load(matrix)


def test_a_leaf_of_another_shape_is_named() -> None:
    weight, array = leaf("w", 3)
    with pytest.raises(InternalError, match=r"@w is f32\[3, 64\], but its rows came as float32"):
        store(weight, w=array[:, :32]).load(weight)


def test_an_unknown_rule_is_named() -> None:
    weight, array = leaf("w", 3)
    odd = Weight("odd", weight.type, Derived("twist", ("w",)))
    with pytest.raises(InternalError, match='the unknown rule "twist"'):
        store(weight, odd, w=array).load(odd)


def test_what_is_stored_quantized_comes_as_it_is_with_wide_scales() -> None:
    weight, array = leaf("w", 6)
    source = Derived("stored", ("w",), (("scheme", STORED.name),))
    form = Weight("q", QuantizedType(STORED, (6, 64)), source)
    found = store(form, weight, w=array)
    own = found.rows(form, 2, 5)
    given = Leaves({"w": array}).quantized("w", 2, 5)
    assert isinstance(own, QuantizedTensor)
    assert own.scale.dtype == np.float32
    np.testing.assert_array_equal(own.codes, given.codes)
    np.testing.assert_array_equal(own.dequantize(), given.dequantize())


@given(st.lists(st.integers(1, 5), min_size=2, max_size=3), st.data())
def test_a_stack_of_quantized_matrices_by_any_rows(sizes: list[int], data: st.DataObject) -> None:
    leaves = [leaf(f"w{i}", size) for i, size in enumerate(sizes)]
    forms = [
        Weight(
            f"q{i}",
            QuantizedType(STORED, (size, 64)),
            Derived("stored" if i else "rtn", (f"w{i}",), (("scheme", STORED.name),)),
        )
        for i, size in enumerate(sizes)
    ]
    total = sum(sizes)
    names = tuple(form.name for form in forms)
    stack = Weight("stack", QuantizedType(STORED, (total, 64)), Derived("concat", names))
    found = store(stack, *forms, *(w for w, _ in leaves), **{w.name: a for w, a in leaves})
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start + 1, total))
    rows = found.rows(stack, start, stop)
    whole = np.concatenate([found.load(form).dequantize() for form in forms])
    assert isinstance(rows, QuantizedTensor)
    np.testing.assert_array_equal(rows.dequantize(), whole[start:stop])


def test_a_stored_form_of_another_scheme_is_a_bug_and_said_so() -> None:
    weight, array = leaf("w", 6)
    kind = QuantizedType(Scheme(8, 32), (6, 64))
    form = Weight("q", kind, Derived("stored", ("w",), (("scheme", "int8-g32"),)))
    with pytest.raises(InternalError) as caught:
        store(form, weight, w=array).load(form)
    assert "@q is quant<int8-g32>[6, 64], but its rows came as int4-g32-asym [6, 64]" in str(
        caught.value
    )
