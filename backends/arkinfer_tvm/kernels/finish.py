"""What a product does with its sums before it writes them: nothing, add them to something, or gate
another product's. Knows no way to compute a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.common import (
    Buffer,
    Expr,
    Strided,
    bind,
    constant,
    exponential,
    i64,
    load,
    loop,
    store,
)
from arkinfer_tvm.layout import LANES


@dataclass(frozen=True)
class Finish:
    """out = sums of the one matrix."""

    matrices = 1

    def parameters(self) -> dict[str, str]:
        """What is read beside the sums."""
        return {}

    def value(
        self, isa: Isa, p: SimpleNamespace, row: Expr, channel: Expr, lanes: int, sums: list[Expr]
    ) -> Expr:
        """What is written, float32 of so many lanes, in place of the sums of each matrix."""
        return sums[0]


@dataclass(frozen=True)
class AddTo(Finish):
    """out = residual + scale * sums."""

    residual: Strided
    scale: float

    def parameters(self) -> dict[str, str]:
        return {"residual": "float32"}

    def value(
        self, isa: Isa, p: SimpleNamespace, row: Expr, channel: Expr, lanes: int, sums: list[Expr]
    ) -> Expr:
        residual = load(p.residual, self.residual.at(row, channel), lanes)
        return isa.fma(sums[0], constant(self.scale, lanes), residual, lanes)


@dataclass(frozen=True)
class Gate(Finish):
    """out = silu(sums of the first matrix) * sums of the second."""

    matrices = 2

    def value(
        self, isa: Isa, p: SimpleNamespace, row: Expr, channel: Expr, lanes: int, sums: list[Expr]
    ) -> Expr:
        gate, up = sums
        below = constant(1.0, lanes) + exponential(constant(0.0, lanes) - gate, lanes)
        return gate / below * up


def write(
    finish: Finish, isa: Isa, p: SimpleNamespace, row: Expr, channel: Expr, outputs: int,
    slab: int, sums: list[Expr],
) -> None:  # fmt: skip
    """Writes the finished sums of 16 channels from `channel` on, or of as many as there are.

    Args:
        outputs: channels in all, floats of a row of `out`.
        slab: channels of a slab; slabs may reach beyond the outputs.
    """

    def whole() -> None:
        value = finish.value(isa, p, row, channel, LANES, sums)
        store(p.out, row * i64(outputs) + channel, value, LANES)

    def some() -> None:
        kept = [_kept(each) for each in sums]
        with loop(build.min(build.max(i64(outputs) - channel, i64(0)), i64(LANES))) as lane:
            given = [bind(load(each, lane)) for each in kept]
            one = bind(channel + lane)
            value = finish.value(isa, p, row, one, 1, given)
            store(p.out, row * i64(outputs) + one, value)

    if outputs % slab == 0:
        whole()
        return
    fits = channel + i64(LANES) <= i64(outputs)
    with build.If(fits):
        with build.Then():
            whole()
        with build.Else():
            some()


def _kept(value: Expr) -> Buffer:
    buffer = build.alloc_buffer((LANES,), "float32")
    store(buffer, 0, value, LANES)
    return buffer
