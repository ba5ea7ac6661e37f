"""Weights as networks have them, in blocks and whole, against plain formulas."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from arkinfer.errors import UnsupportedError
from arkinfer.packing import QuantizedTensor, encode, parse_scheme
from arkinfer_trt import numbers
from arkinfer_trt.kernels.layout import repacked
from arkinfer_trt.numbers import NegativeScales, blocks, inputs, whole
from arkinfer_trt.section import NetworkWeight, Stored

Array = npt.NDArray[Any]


class Tensors(dict[str, Array]):
    """Stands for an artifact, of which tensors alone are asked for."""

    def tensor(self, name: str) -> Array:
        return self[name]


def matrix(scheme: str, shape: tuple[int, int], dtype: Any = np.float32) -> QuantizedTensor:
    kind = parse_scheme(scheme)
    group = kind.group_size(shape[1])
    random = np.random.default_rng(5)
    codes = random.integers(0, 1 << kind.bits, (shape[0], shape[1] // group, group))
    scale = random.uniform(1e-3, 1e-1, codes.shape[:2]).astype(dtype)
    return encode(kind, codes.astype(np.uint8), scale)


def stored(found: QuantizedTensor) -> tuple[Tensors, Stored]:
    parts = found.parts()
    return Tensors(parts), Stored(found.shape, found.scheme.name, {name: name for name in parts})


def weight(form: Any, where: Stored) -> NetworkWeight:
    names = ("w",) if form == "dense" else ("w", "w.scale")
    return NetworkWeight(names, form, ("gemv", "native"), False, where)


@pytest.fixture(params=[numbers.ELEMENTS, 300])
def elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """In one piece, and in many."""
    monkeypatch.setattr(numbers, "ELEMENTS", request.param)
    return request.param


def typed(artifact: Tensors, what: NetworkWeight, dtype: str = "float16") -> dict[str, Array]:
    """Whole arrays, with types and shapes."""
    found: dict[str, Array] = {}
    for name, array in whole(artifact, what, dtype).items():
        kind = inputs(what, dtype)[name]
        assert array.nbytes == kind.nbytes
        if kind.dtype == numbers.INT4:
            nibbles = np.stack((array & 15, array >> 4), -1).reshape(kind.shape).astype(np.int8)
            found[name] = (nibbles ^ 8) - 8  # two's complement
        else:
            found[name] = array.view(kind.dtype).reshape(kind.shape)
    return found


@pytest.mark.usefixtures("elements")
@pytest.mark.parametrize("source", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_dense_numbers_are_cast(source: Any) -> None:
    values = np.random.default_rng(1).normal(size=(7, 130)).astype(source)
    artifact, where = Tensors({"t": values}), Stored((7, 130), "", {"": "t"})
    got = typed(artifact, weight("dense", where))["w"]
    np.testing.assert_array_equal(got, values.astype(np.float16))


@pytest.mark.usefixtures("elements")
def test_a_quantized_matrix_may_be_dense() -> None:
    found = matrix("int8-g32", (10, 64))
    artifact, where = stored(found)
    got = typed(artifact, weight("dense", where), "float32")["w"]
    np.testing.assert_array_equal(got, found.dequantize())


@pytest.mark.usefixtures("elements")
@pytest.mark.parametrize("scheme", ["int2-g64", "int4-g32", "int8-row"])
@pytest.mark.parametrize("rows", [1, 4, 10, 33])
def test_matrices_of_our_kernels_are_repacked(scheme: str, rows: int) -> None:
    found = matrix(scheme, (rows, 128))
    artifact, where = stored(found)
    got = typed(artifact, weight("gemv", where))
    expected = repacked(found)
    np.testing.assert_array_equal(got["w"], expected["words"])
    np.testing.assert_array_equal(got["w.scale"], expected["scale"])


@pytest.mark.usefixtures("elements")
@pytest.mark.parametrize(("scheme", "rows"), [("int4-g32", 10), ("int4-row", 3), ("int4-g16", 64)])
def test_int4_is_transposed_for_dequantize_linear(scheme: str, rows: int) -> None:
    found = matrix(scheme, (rows, 128))
    artifact, where = stored(found)
    got = typed(artifact, weight("int4", where), "float32")
    codes, scale = got["w"], got["w.scale"]
    assert codes.shape == (128, rows)
    values = codes * np.repeat(scale, found.group, axis=0)
    np.testing.assert_array_equal(values.T, found.dequantize())


def test_scales_that_float16_cannot_hold_stay_positive() -> None:
    found = matrix("int4-g32", (4, 64))
    parts = {**found.parts(), "scale": found.scale * np.float32(1e-12)}
    artifact, where = stored(QuantizedTensor.from_parts(found.scheme, found.shape, parts))
    scale = typed(artifact, weight("int4", where))["w.scale"]
    assert (scale == np.finfo(np.float16).smallest_normal).all()


def test_negative_scales_are_none_for_dequantize_linear() -> None:
    found = matrix("int4-g32", (4, 64))
    parts = {**found.parts(), "scale": -found.scale}
    artifact, where = stored(QuantizedTensor.from_parts(found.scheme, found.shape, parts))
    with pytest.raises(NegativeScales) as refusal:
        whole(artifact, weight("int4", where), "float16")
    assert str(refusal.value) == (
        "w has negative scales. TensorRT dequantizes with positive ones only."
    )
    assert typed(artifact, weight("gemv", where))["w.scale"].min() < 0  # our kernel does not mind


def test_scales_that_float16_cannot_hold_at_all() -> None:
    found = matrix("int8-g32", (4, 64))
    parts = {**found.parts(), "scale": found.scale * np.float32(1e8)}
    artifact, where = stored(QuantizedTensor.from_parts(found.scheme, found.shape, parts))
    with pytest.raises(UnsupportedError, match="scales that float16 cannot hold"):
        whole(artifact, weight("gemv", where), "float16")


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is no larger than it was said to be, whatever the matrix."""
    monkeypatch.setattr(numbers, "ELEMENTS", 1024)
    artifact, where = stored(matrix("int4-g32", (256, 64)))
    found = list(blocks(artifact, weight("gemv", where), "float16"))
    assert max(block.numbers.nbytes for block in found) <= 1024 // 2
    assert len(found) > 16
