"""Kernels that treat every row alone: norm, activation, addition, selection."""

from __future__ import annotations

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
    exponential,
    horizontal_sum,
    i64,
    load,
    loop,
    spread,
    store,
    stored,
    widen,
)


@dataclass(frozen=True)
class RMSNorm(RowKernel):
    """out[t] = weight * x[t] / sqrt(mean(x[t]^2) + eps)."""

    family: ClassVar[str] = "rms_norm"
    x: Strided
    weight: str
    eps: float

    def parameters(self) -> dict[str, str]:
        return {
            "x": "float32",
            "weight": stored(self.weight),
            "out": "float32",
        }

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        width, lanes = self.x.width, self.x.lanes
        squares = accumulator(lanes)
        with loop(width // lanes) as i:
            x = bind(load(p.x, self.x.at(t, i * i64(lanes)), lanes))
            store(squares, 0, load(squares, 0, lanes) + x * x, lanes)
        total = horizontal_sum(load(squares, 0, lanes), lanes)
        mean = total / constant(float(width)) + constant(self.eps)
        factor = bind(constant(1.0) / build.sqrt(mean))
        with loop(width // lanes) as i:
            at = bind(i * i64(lanes))
            x = load(p.x, self.x.at(t, at), lanes) * spread(factor, lanes)
            weight = widen(load(p.weight, at, lanes), self.weight, lanes)
            store(p.out, t * i64(width) + at, x * weight, lanes)


@dataclass(frozen=True)
class SiluMul(RowKernel):
    """out = gate / (1 + exp(-gate)) * up."""

    family: ClassVar[str] = "silu_mul"
    gate: Strided
    up: Strided

    def parameters(self) -> dict[str, str]:
        return {"gate": "float32", "up": "float32", "out": "float32"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        lanes = min(self.gate.lanes, self.up.lanes)
        with loop(self.gate.width // lanes) as i:
            at = bind(i * i64(lanes))
            gate = bind(load(p.gate, self.gate.at(t, at), lanes))
            up = load(p.up, self.up.at(t, at), lanes)
            below = constant(1.0, lanes) + exponential(constant(0.0, lanes) - gate, lanes)
            store(p.out, t * i64(self.gate.width) + at, gate / below * up, lanes)


@dataclass(frozen=True)
class Add(RowKernel):
    """out = residual + scale * branch."""

    family: ClassVar[str] = "add"
    residual: Strided
    branch: Strided
    scale: float

    def parameters(self) -> dict[str, str]:
        return {"residual": "float32", "branch": "float32", "out": "float32"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        lanes = min(self.residual.lanes, self.branch.lanes)
        with loop(self.residual.width // lanes) as i:
            at = bind(i * i64(lanes))
            branch = load(p.branch, self.branch.at(t, at), lanes)
            residual = load(p.residual, self.residual.at(t, at), lanes)
            value = residual + branch * constant(self.scale, lanes)
            store(p.out, t * i64(self.residual.width) + at, value, lanes)


@dataclass(frozen=True)
class Take(RowKernel):
    """out[r] = x[rows[r]]."""

    family: ClassVar[str] = "take"
    x: Strided

    def parameters(self) -> dict[str, str]:
        return {"x": "float32", "rows": "int64", "out": "float32"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        width, lanes = self.x.width, self.x.lanes
        source = bind(load(p.rows, t))
        with loop(width // lanes) as i:
            at = bind(i * i64(lanes))
            value = load(p.x, self.x.at(source, at), lanes)
            store(p.out, t * i64(width) + at, value, lanes)


@dataclass(frozen=True)
class Range(RowKernel):
    """out[t] = start + t."""

    family: ClassVar[str] = "range"

    def parameters(self) -> dict[str, str]:
        return {"start": "int64", "out": "int64"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        start = bind(load(p.start, 0))
        store(p.out, t, start + t)
