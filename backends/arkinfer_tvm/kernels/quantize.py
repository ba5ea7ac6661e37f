"""Kernels that prepare the inputs of a product with a quantized matrix: a row is a job.

What they make of a row depends on that row alone. They know the order in which a stream has its
inputs, and nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.common import (
    Expr,
    RowKernel,
    Strided,
    accumulator,
    bind,
    constant,
    horizontal_max,
    horizontal_sum,
    i64,
    kind,
    lanes_of,
    load,
    loop,
    spread,
    store,
    stored,
    widen,
)
from arkinfer_tvm.layout import LINE, Stream

_HIGH = 128
"""What a code of the first of two digits stands for."""


@dataclass(frozen=True)
class Inputs:
    """The order in which a stream has its inputs; see `Stream` for the names.

    Attributes:
        digits: rows of codes for each row of x. 1: 8 bits. 2: 15 bits, as 128 times the codes of
            the first row and those of the second, which the product takes for two rows.
    """

    columns: int
    group: int
    share: int
    shares: int
    order: bool
    digits: int = 1

    @classmethod
    def of(cls, stream: Stream, digits: int = 1) -> Inputs:
        return cls(stream.columns, stream.group, stream.share, stream.shares, stream.order, digits)

    @property
    def groups(self) -> int:
        return self.columns // self.group

    @property
    def size(self) -> int:
        """Inputs of a group, with those that fill it up."""
        return self.share * self.shares

    @property
    def scales(self) -> int:
        """Shares of a row."""
        return self.groups * self.shares

    @property
    def stride(self) -> int:
        """From one row of codes to the next, in bytes; no power of two, which would put rows on
        top of each other in the processor's cache."""
        size = -(-self.groups * self.size // LINE) * LINE
        return size + LINE if size % 512 == 0 else size

    @property
    def plain(self) -> bool:
        """Whether it is the order of the activations, with nothing filled up."""
        return not self.order and self.size == self.group


@dataclass(frozen=True)
class Norm:
    """x / sqrt(mean(x^2) + eps) * gain, in front of everything else.

    Attributes:
        gain: the IR dtype of the weight.
    """

    gain: str
    eps: float


@dataclass(frozen=True)
class Quantize(RowKernel):
    """Codes, scales and sums of the activations: x is about code * scale, code -127 to 127.

    codes int8 [T * digits, stride], scales float32 [T * digits, scales], sums int32 of that shape:
    of the codes that share a scale. Where there are two digits, x is about the sum of both.
    """

    family: ClassVar[str] = "quantize"
    written: ClassVar[tuple[str, ...]] = ("codes", "scales", "sums")
    x: Strided
    inputs: Inputs
    norm: Norm | None = None

    def parameters(self) -> dict[str, str]:
        gain = {"gain": stored(self.norm.gain)} if self.norm else {}
        order = {"order": "int32"} if self.inputs.order else {}
        return {
            "x": "float32", **gain, **order,
            "codes": "int8", "scales": "float32", "sums": "int32",
        }  # fmt: skip

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        inputs = self.inputs
        value = reader(self.x, self.norm, p, t)
        with loop(inputs.groups) as g:
            with loop(inputs.group // inputs.share) as s:
                self._share(p, t, value, g, s, inputs.share)
            rest = inputs.group % inputs.share
            if rest:
                self._share(p, t, value, g, i64(inputs.shares - 1), rest)

    def _share(
        self, p: SimpleNamespace, t: Expr, value: Callable[[Expr, int], Expr], g: Expr, s: Expr,
        count: int,
    ) -> None:  # fmt: skip
        """`count` inputs, and zeros to fill up the share."""
        inputs = self.inputs
        lanes = lanes_of(count, inputs.share, inputs.group) if not inputs.order else 1
        first = bind(g * i64(inputs.group) + s * i64(inputs.share))
        place = bind(g * i64(inputs.shares) + s)
        rows = [bind(t * i64(inputs.digits) + i64(digit)) for digit in range(inputs.digits)]
        outs = [bind(row * i64(inputs.stride) + place * i64(inputs.share)) for row in rows]

        def at(i: Expr) -> Expr:
            index = bind(first + i * i64(lanes))
            if inputs.order:
                index = bind(build.cast(load(p.order, index), "int64"))
            return bind(value(index, lanes))

        most = accumulator(lanes)
        with loop(count // lanes) as i:
            x = at(i)
            size = build.max(x, constant(0.0, lanes) - x)
            store(most, 0, build.max(load(most, 0, lanes), size), lanes)
        largest = bind(horizontal_max(load(most, 0, lanes), lanes))
        # The inverse of less would not be finite; rows of zeros are divided by something, too.
        steps = constant(127.0 if inputs.digits == 1 else 127.0 * _HIGH + _HIGH // 2 - 1)
        scale = bind(build.max(largest / steps, constant(2.0**-120)))
        inverse = bind(constant(1.0) / scale)
        totals = [build.alloc_buffer((lanes,), "int32") for _ in rows]
        for total in totals:
            store(total, 0, constant(0, lanes, "int32"), lanes)
        with loop(count // lanes) as i:
            whole = rounded(at(i) * spread(inverse, lanes), lanes)
            codes = [whole] if inputs.digits == 1 else _halves(whole, lanes)
            for code, total, out in zip(codes, totals, outs, strict=True):
                store(total, 0, load(total, 0, lanes) + code, lanes)
                store(p.codes, out + i * i64(lanes), build.cast(code, kind("int8", lanes)), lanes)
        if count < inputs.share:
            with loop(inputs.share - count) as i:
                for out in outs:
                    store(p.codes, out + i64(count) + i, constant(0, 1, "int8"))
        for digit, (row, total) in enumerate(zip(rows, totals, strict=True)):
            index = bind(row * i64(inputs.scales) + place)
            high = digit == 0 and inputs.digits == 2
            store(p.scales, index, scale * constant(float(_HIGH)) if high else scale)
            with_sum = build.alloc_buffer((1,), "int32")
            store(with_sum, 0, constant(0, 1, "int32"))
            for lane in range(lanes):
                store(with_sum, 0, load(with_sum, 0) + load(total, i64(lane)))
            store(p.sums, index, load(with_sum, 0))


def _halves(code: Expr, lanes: int) -> list[Expr]:
    """int32: the codes of two digits; the second is from -64 to 63, and the first within 127."""
    shift = constant(_HIGH.bit_length() - 1, lanes, "int32")
    high = bind((code + constant(_HIGH // 2, lanes, "int32")) >> shift)
    return [high, bind(code - (high << shift))]


@dataclass(frozen=True)
class Arrange(RowKernel):
    """x in the order in which a stream has its inputs, float32 [T, inputs], with zeros between."""

    family: ClassVar[str] = "arrange"
    x: Strided
    inputs: Inputs

    def parameters(self) -> dict[str, str]:
        order = {"order": "int32"} if self.inputs.order else {}
        return {"x": "float32", **order, "out": "float32"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        inputs = self.inputs
        with loop(inputs.groups) as g:
            out = bind((t * i64(inputs.groups) + g) * i64(inputs.size))
            with loop(inputs.group) as i:
                k = bind(g * i64(inputs.group) + i)
                if inputs.order:
                    k = bind(build.cast(load(p.order, k), "int64"))
                store(p.out, out + i, load(p.x, self.x.at(t, k)))
            if inputs.size > inputs.group:
                with loop(inputs.size - inputs.group) as i:
                    store(p.out, out + i64(inputs.group) + i, constant(0.0))


def reader(
    x: Strided, norm: Norm | None, p: SimpleNamespace, t: Expr
) -> Callable[[Expr, int], Expr]:
    """value(column, lanes): of row t of x, normalized if asked for."""
    if norm is None:
        return lambda column, lanes: load(p.x, x.at(t, column), lanes)
    squares = accumulator(x.lanes)
    with loop(x.width // x.lanes) as i:
        some = bind(load(p.x, x.at(t, i * i64(x.lanes)), x.lanes))
        store(squares, 0, load(squares, 0, x.lanes) + some * some, x.lanes)
    total = horizontal_sum(load(squares, 0, x.lanes), x.lanes)
    mean = total / constant(float(x.width)) + constant(norm.eps)
    factor = bind(constant(1.0) / build.sqrt(mean))

    def normalized(column: Expr, lanes: int) -> Expr:
        gain = widen(load(p.gain, column, lanes), norm.gain, lanes)
        return load(p.x, x.at(t, column), lanes) * spread(factor, lanes) * gain

    return normalized


def rounded(x: Expr, lanes: int) -> Expr:
    """int32: the nearest integers of numbers below 2^22, halves to the even one.

    1.5 * 2^23 + x has no bits for a fraction, and x in its lowest ones.
    """
    magic = constant(12582912.0, lanes)
    bits = build.reinterpret(kind("int32", lanes), x + magic)
    return bind(bits - constant(0x4B400000, lanes, "int32"))
