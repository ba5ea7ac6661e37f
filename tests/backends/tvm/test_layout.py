"""Repacked matrices against a slow reader that looks for every number by hand."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.packing import QuantizedTensor, Scheme, encode
from arkinfer_tvm import layout
from arkinfer_tvm.layout import DenseStream, Stream, packed, packed_dense

Array = np.ndarray[Any, Any]

SCALES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ARCHS = ("x86_64", "aarch64")


@st.composite
def matrices(draw: st.DrawFn) -> QuantizedTensor:
    """Groups that fill no line, rows that fill no slab, scales of very different sizes."""
    bits = draw(st.integers(2, 8))
    whole = 8 // np.gcd(8, bits)  # codes that fill bytes
    group = int(whole) * draw(st.integers(1, 160 // whole))
    groups = draw(st.integers(1, max(1, 160 // group)))
    offset, ordered = draw(st.sampled_from(["none", "zero", "min"])), draw(st.booleans())
    row = groups == 1 and draw(st.booleans())
    scheme = Scheme(bits, 0 if row else group, offset, ordered)
    rows, kind = draw(st.integers(1, 150)), draw(st.sampled_from(list(SCALES)))
    rng = np.random.default_rng(draw(st.integers(0, 2**30)))
    size = 2.0 ** draw(st.integers(-130, 8))
    scale, low = (
        (size * rng.standard_normal((rows, groups))).astype(SCALES[kind]) for _ in range(2)
    )
    scale[rng.random(scale.shape) < 0.1] = 0
    return encode(
        scheme,
        rng.integers(0, 1 << bits, (rows, groups, group), np.uint8),
        scale,
        zero=rng.integers(0, 1 << bits, scale.shape, np.uint8) if offset == "zero" else None,
        min=low if offset == "min" else None,
        order=rng.permutation(groups * group).astype(np.int32) if ordered else None,
    )


class Reader:
    """Reads a stream of slabs by what `layout.py` says of it, and notes which bytes it read."""

    def __init__(self, stream: Stream, data: Array) -> None:
        self.stream = stream
        self.bytes = data
        self.unread = np.ones(data.shape, bool)
        self.channels = 16 * stream.blocks

    def _take(self, slab: int, at: int, kind: str) -> float:
        size = np.dtype(kind).itemsize
        self.unread[slab, at : at + size] = False
        return self.bytes[slab, at : at + size].view(kind)[0].item()

    def _record(self, channel: int, group: int) -> tuple[int, int, int]:
        slab, channel = divmod(channel, self.channels)
        return slab, channel, group * self.stream.record

    def code(self, channel: int, group: int, place: int) -> int:
        slab, channel, at = self._record(channel, group)
        bits = self.stream.bits
        line, place = divmod(place, 4 * 8 // bits)
        block, lane = divmod(channel, 16)
        plane, byte = divmod(place, 4)
        at += (line * self.stream.blocks + block) * 64 + 4 * lane + byte
        found = int(self._take(slab, at, "u1")) ^ (0x80 if self.stream.signed else 0)
        return found >> bits * plane & (1 << bits) - 1

    def _codes(self) -> int:
        """Where the codes of a record end."""
        return self.stream.size * self.channels * self.stream.bits // 8

    def factor(self, channel: int) -> float:
        slab, channel = divmod(channel, self.channels)
        at = self.stream.groups * self.stream.record
        return self._take(slab, at + 4 * channel, "<f4")

    def scale(self, channel: int, group: int) -> float:
        slab, channel, at = self._record(channel, group)
        kind = {"f16": "<f2", "f32": "<f4"}[self.stream.scale]
        size = np.dtype(kind).itemsize
        return self._take(slab, at + self._codes() + size * channel, kind)

    def offset(self, channel: int, group: int) -> float:
        slab, channel, at = self._record(channel, group)
        scales = self.channels * (2 if self.stream.scale == "f16" else 4)
        if self.stream.offset == "zero":
            return self._take(slab, at + self._codes() + scales + channel, "u1")
        lines = -(-scales // 64) * 64
        return self._take(slab, at + self._codes() + lines + 4 * channel, "<f4")


@settings(max_examples=40)
@given(matrices(), st.sampled_from(ARCHS), st.booleans(), st.sampled_from([1, 20_000, 4 << 20]))
def test_every_number_is_at_its_place(
    weights: QuantizedTensor, arch: str, exact: bool, chunk: int
) -> None:
    stream = Stream.of(weights.scheme, weights.shape, arch, exact)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_CHUNK", chunk)
        parts = list(packed(stream, lambda a, b: weights.rows(slice(a, b))))
    data = np.concatenate(parts)
    assert (data.dtype, data.shape) == (np.uint8, stream.shape)
    reader, (rows, _) = Reader(stream, data), weights.shape
    codes = weights.unpacked()
    codes = np.pad(codes, ((0, 0), (0, 0), (0, stream.size - codes.shape[-1])))
    for n, g, k in np.ndindex(codes.shape):
        assert reader.code(n, g, k) == codes[n, g, k]
    factor = np.array([reader.factor(n) for n in range(rows)])
    assert (np.frexp(factor)[0] == 0.5).all()  # powers of two
    places = list(np.ndindex(weights.scale.shape))
    scale = np.reshape([reader.scale(*place) for place in places], (rows, -1)) * factor[:, None]
    _same_scales(scale, weights.scale, narrow=stream.scale == "f16")
    if weights.scheme.offset != "none":
        found = np.reshape([reader.offset(*place) for place in places], (rows, -1))
        is_zero = weights.min is None
        expected = weights.zeros() if weights.min is None else weights.min.astype(np.float64)
        np.testing.assert_array_equal(found * (1 if is_zero else factor[:, None]), expected)
    assert not data[reader.unread].any()


def _same_scales(found: Array, scale: Array, *, narrow: bool) -> None:
    """Float16 rounds scales of more digits than it has, and loses those that are 2^28 times smaller
    than their channel's largest."""
    exact = scale.astype(np.float64)
    error, size = np.abs(found - exact), np.abs(exact)
    lost = size < 2.0**-28 * size.max(axis=1, keepdims=True)
    rounding = 2.0**-11 if narrow and scale.dtype == np.float32 else 0.0
    assert (error <= np.where(lost, 1.0, rounding) * size).all()


@pytest.mark.parametrize("arch", ARCHS)
@given(st.integers(2, 8), st.integers(1, 600), st.integers(1, 400), st.integers(1, 5))
def test_groups_are_filled_up_to_whole_shares(
    arch: str, bits: int, rows: int, words: int, groups: int
) -> None:
    """Each share of a group has one scale of the activations, and whole lines."""
    group = words * 8 // int(np.gcd(8, bits))
    stream = Stream.of(Scheme(bits, group), (rows, group * groups), arch)
    assert stream.bits in (2, 4, 8)
    assert stream.bits >= bits
    assert stream.size >= group
    assert stream.size % stream.share == 0
    assert stream.share % (32 // stream.bits) == 0
    assert stream.share <= max(128, 32 // stream.bits)
    assert stream.signed == (arch == "aarch64" and stream.bits == 8)
    assert stream.record % 64 == stream.slab % 64 == 0
    assert stream.slabs * stream.channels >= rows > (stream.slabs - 1) * stream.channels


@pytest.mark.parametrize(("bits", "shape"), [(4, (4096, 1024)), (2, (6400, 2048)), (8, (256, 512))])
@pytest.mark.parametrize("arch", ARCHS)
def test_bytes_are_those_of_the_canonical_form(
    bits: int, shape: tuple[int, int], arch: str
) -> None:
    """Nothing that a step has to read is in vain: codes, a float16 a group, a float32 a row."""
    stream = Stream.of(Scheme(bits, 128), shape, arch)
    assert stream.slab * stream.slabs == shape[0] * (shape[1] * bits // 8 + shape[1] // 128 * 2 + 4)


@settings(max_examples=40)
@given(
    st.sampled_from(["f32", "bf16", "f16"]),
    st.integers(1, 200),
    st.integers(1, 30),
    st.sampled_from([1, 900, 4 << 20]),
    st.integers(0, 2**30),
)
def test_dense_matrices_are_read_back(
    dtype: str, rows: int, columns: int, chunk: int, seed: int
) -> None:
    kinds = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(kinds[dtype])
    stream = DenseStream.of(dtype, values.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_CHUNK", chunk)
        data = np.concatenate(list(packed_dense(stream, lambda a, b: values[a:b])))
    assert (data.dtype, data.shape) == (np.uint8, stream.shape)
    numbers = data.view(kinds[dtype])
    channels, unread = 16 * stream.blocks, np.ones(numbers.shape, bool)
    for n, k in np.ndindex(values.shape):
        at = n // channels, k * channels + n % channels
        assert numbers[at] == values[n, k]
        unread[at] = False
    assert not numbers[unread].any()
