"""What each instruction set does: here on those of this processor, the others in tests/arm64."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from arkinfer_tvm import cpu
from arkinfer_tvm.build import build_library, compile_kernels
from arkinfer_tvm.isa import ISAS, Isa
from arkinfer_tvm.kernels.common import Expr, RowKernel, i64, load, store
from arkinfer_tvm.library import Bound, Library, aligned
from arkinfer_tvm.program import Call, Dimension, Operand, Program

Array = np.ndarray[Any, Any]

LANES, ROWS = 16, 64
HERE = [
    name
    for name, flags in cpu.ISAS.get(platform.machine(), {}).items()
    if cpu.cpu_flags().issuperset(flags)
]


@dataclass(frozen=True)
class Probe(RowKernel):
    """One operation of an `Isa` on 16 lanes of each row."""

    family: ClassVar[str] = "probe"
    does: str

    def parameters(self) -> dict[str, str]:
        kinds = {
            "dot": ("int32", "uint8", "int8", "int32"),
            "fma": ("float32", "float32", "float32", "float32"),
            "half": ("uint16", "float32"),
            "pair_dot": ("float32", "uint32", "uint32", "float32"),
        }[self.does]
        names = [*"abc"[: len(kinds) - 1], "out"]
        return dict(zip(names, kinds, strict=True))

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        operands: list[Expr] = []
        for name, kind in list(self.parameters().items())[:-1]:
            lanes = 4 * LANES if kind in ("uint8", "int8") else LANES
            operands.append(load(getattr(p, name), t * i64(lanes), lanes))
        store(p.out, t * i64(LANES), getattr(isa, self.does)(*operands), LANES)


PROBES = {Probe(name): name for name in ("dot", "fma", "half", "pair_dot")}
Runner = Callable[..., Array]


@pytest.fixture(scope="module", params=HERE)
def isa(request: pytest.FixtureRequest) -> str:
    """Elsewhere, other processors' sets take its place."""
    return request.param


@pytest.fixture(scope="module")
def run(isa: str) -> Iterator[Runner]:
    """run("dot", a, b, c): the operation on [ROWS, lanes], all rows."""
    library = Library(build_library(PROBES, isa), f"libprobe-{isa}.so", 1, 1)

    def run(name: str, *operands: Array) -> Array:
        kernel = Probe(name)
        given = dict(zip(kernel.parameters(), map(placed, operands), strict=False))
        out = aligned((ROWS, LANES), np.int32 if name == "dot" else np.float32)
        given["out"] = out
        ports = tuple(Operand("port", each) for each in kernel.parameters())
        call = Call(name, tuple(range(len(ports))), 0)
        bound = Bound(Program((Dimension((), ROWS),), ports, (call,), (), 0), library, {})
        bound.run(bound.arguments([]), {}, given.items())
        return out

    yield run
    library.close()


def placed(array: Array) -> Array:
    copy = aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def test_each_set_has_a_description() -> None:
    described = {(isa.arch, name) for name, isa in ISAS.items()}
    assert described == {(arch, name) for arch, known in cpu.ISAS.items() for name in known}


@pytest.mark.parametrize("extreme", [False, True])
def test_dot_is_exact(run: Runner, isa: str, extreme: bool) -> None:
    rng = np.random.default_rng(0)
    most = ISAS[isa].most_code
    total = rng.integers(-(2**20), 2**20, (ROWS, LANES), np.int32)
    codes = rng.integers(0, most + 1, (ROWS, 4 * LANES)).astype(np.uint8)
    activations = rng.integers(-127, 128, (ROWS, 4 * LANES)).astype(np.int8)
    if extreme:
        codes[:] = most
        activations[:] = np.where(np.arange(ROWS) % 2, -127, 127)[:, None]
    wide = codes.astype(np.int64) * activations
    expected = total + wide.reshape(ROWS, LANES, 4).sum(-1)
    np.testing.assert_array_equal(run("dot", total, codes, activations), expected)


def test_fma_rounds_once(run: Runner) -> None:
    rng = np.random.default_rng(1)
    a, b, c = (rng.standard_normal((ROWS, LANES), np.float32) for _ in range(3))
    a[0], b[0], c[0] = 1 + 2**-12, 1 + 2**-12, -(1 + 2**-11)  # the product alone rounds to -c
    got = run("fma", a, b, c)
    np.testing.assert_array_equal(got[0], np.float32(2**-24))
    exact = a.astype(np.float64) * b + c
    assert (np.abs(got - exact) <= np.spacing(np.abs(exact).astype(np.float32))).all()


def test_half_is_exact(run: Runner) -> None:
    for first in range(0, 1 << 16, ROWS * LANES):
        bits = np.arange(first, first + ROWS * LANES, dtype=np.uint16).reshape(ROWS, LANES)
        wanted = bits.view(np.float16).astype(np.float32)
        np.testing.assert_array_equal(run("half", bits), wanted)


def test_pair_dot(run: Runner) -> None:
    """Denormal numbers left out: the instruction of x86 takes them for zeros."""
    rng = np.random.default_rng(2)
    total = rng.standard_normal((ROWS, LANES), np.float32)
    pairs, factors = (
        (rng.standard_normal((ROWS, LANES, 2), np.float32).view(np.uint32) >> 16).astype(np.uint32)
        for _ in range(2)
    )
    a, b = ((x << 16).view(np.float32).astype(np.float64) for x in (pairs, factors))
    expected = total + (a * b).sum(-1)
    packed = [(x[..., 0] | (x[..., 1] << 16)).astype(np.uint32) for x in (pairs, factors)]
    size = np.abs(total) + np.abs(a * b).sum(-1)
    assert (np.abs(run("pair_dot", total, *packed) - expected) <= 3e-7 * size).all()


@pytest.mark.parametrize("name", ISAS)
def test_every_set_compiles_here(name: str) -> None:
    """For its architecture: e_machine at byte 18 of the ELF header."""
    compiled = compile_kernels(PROBES, name)
    machine = {"x86_64": 62, "aarch64": 183}[ISAS[name].arch]
    assert (compiled[:4], int.from_bytes(compiled[18:20], "little")) == (b"\x7fELF", machine)
