"""What is written of a matrix is what our readers, and the format's own library, read of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.export.compressed_tensors import CompressedTensors, packed_parts
from arkinfer.export.gptq import Gptq, gptq_parts
from arkinfer.packing import QuantizedTensor, Scheme, encode
from tests.frontend.quantized.stored import MODULE, one

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32)


def matrix(
    bits: int, rows: int, groups: int, size: int, zero: bool, order: bool, dtype: Any, seed: int
) -> QuantizedTensor:
    rng = np.random.default_rng(seed)
    scheme = Scheme(bits, size, "zero" if zero else "none", order)
    codes = rng.integers(0, 1 << bits, (rows, groups, size), dtype=np.uint8)
    zeros = rng.integers(0, 1 << bits, (rows, groups), dtype=np.uint8) if zero else None
    columns = rng.permutation(groups * size).reshape(groups, size)
    index = np.sort(columns, axis=1).ravel().astype(np.int32) if order else None
    scale = rng.normal(0, 0.02, (rows, groups)).astype(dtype)
    return encode(scheme, codes, scale, zero=zeros, order=index)


def same(found: QuantizedTensor, expected: QuantizedTensor) -> None:
    parts = expected.parts()
    assert found.parts().keys() == parts.keys()
    for name, part in found.parts().items():
        assert part.dtype == parts[name].dtype
        np.testing.assert_array_equal(part, parts[name], err_msg=name)


@settings(max_examples=60)
@given(
    st.sampled_from([2, 3, 4, 8]),
    st.integers(1, 40),
    st.integers(2, 4),
    st.sampled_from([8, 32, 40]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
)
def test_gptq_is_read_back_bit_by_bit(
    bits: int, rows: int, groups: int, size: int, zero: bool, order: bool, dtype: Any, seed: int
) -> None:
    tensor = matrix(bits, rows, groups, size, zero, order, dtype, seed)
    form = "gptq_v2" if zero else "gptq"
    parts = gptq_parts(tensor, 2 if zero else 1)
    stored = one(parts, tensor.shape, bits=bits, sym=not zero, checkpoint_format=form)
    found = stored.only().rows(stored.read, 0, rows)
    if found.scheme == tensor.scheme:
        same(found, tensor)
    else:  # zeros that are all the midpoint, or an order that is none
        np.testing.assert_array_equal(found.dequantize(), tensor.dequantize())


@settings(max_examples=60)
@given(
    st.integers(2, 8),
    st.integers(1, 40),
    st.integers(2, 4),
    st.sampled_from([8, 32, 40]),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
)
def test_compressed_tensors_is_read_back_bit_by_bit(
    bits: int, rows: int, groups: int, size: int, zero: bool, dtype: Any, seed: int
) -> None:
    tensor = matrix(bits, rows, groups, size, zero, False, dtype, seed)
    facts = {"config_groups": {"group_0": {"weights": {"num_bits": bits, "group_size": size}}}}
    stored = one(packed_parts(tensor), tensor.shape, **facts)
    found = stored.only().rows(stored.read, 0, rows)
    if found.scheme == tensor.scheme:
        same(found, tensor)
    else:
        np.testing.assert_array_equal(found.dequantize(), tensor.dequantize())


@pytest.mark.parametrize(
    ("bits", "size", "zero"), [(4, 32, False), (4, 32, True), (8, 0, False), (3, 64, True)]
)
def test_the_library_of_compressed_tensors_reads_the_same(bits: int, size: int, zero: bool):
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    rng = np.random.default_rng(bits)
    scheme = Scheme(bits, size, "zero" if zero else "none")
    groups = 64 // (size or 64)
    codes = rng.integers(0, 1 << bits, (19, groups, size or 64), dtype=np.uint8)
    zeros = rng.integers(0, 1 << bits, (19, groups), dtype=np.uint8) if zero else None
    tensor = encode(scheme, codes, rng.normal(0, 1, (19, groups)).astype("f4"), zero=zeros)
    state = {name: torch.from_numpy(part) for name, part in packed_parts(tensor).items()}
    config = CompressedTensors(_One(tensor), {f"{MODULE}.weight": scheme}).config()
    group = QuantizationScheme.model_validate(config["config_groups"]["group_0"])
    compressor: Any = BaseCompressor.get_value_from_registry("pack-quantized")
    theirs = compressor.decompress(state, group)["weight"].numpy()
    np.testing.assert_array_equal(theirs, tensor.dequantize())


class _One:
    """A checkpoint of one matrix."""

    def __init__(self, tensor: QuantizedTensor) -> None:
        self._tensor = tensor

    def names(self) -> list[str]:
        return [f"{MODULE}.weight"]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensor.shape

    def schemes(self) -> dict[str, Scheme]:
        return {f"{MODULE}.weight": self._tensor.scheme}


@pytest.mark.parametrize("problem", [Gptq.problem, CompressedTensors.problem])
def test_a_float_minimum_has_no_place(problem: Callable[[Scheme], str]):
    assert "no float minimum" in problem(Scheme(4, 64, "min"))
    assert problem(Scheme(4, 64)) == problem(Scheme(8, 0, "zero")) == ""


def test_what_only_one_of_them_has():
    assert Gptq.problem(Scheme(5, 32)) == "GPTQ has 2, 3, 4, 8 bits, not 5"
    assert CompressedTensors.problem(Scheme(5, 32)) == ""
    assert Gptq.problem(Scheme(4, 32, act_order=True)) == ""
    assert "no order" in CompressedTensors.problem(Scheme(4, 32, act_order=True))
