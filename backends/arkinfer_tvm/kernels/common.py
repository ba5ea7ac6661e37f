"""What all kernels share: parameters, loops, vectors of lanes. Knows no particular kernel.

A kernel takes raw pointers, each to an array that starts on a 64-byte boundary; sizes that are
known first at run time are read through pointers, too. Where an array starts inside another one (a
slice), the offset is the kernel's own, so that pointers stay aligned. Its last two arguments say
which of its jobs it is to do: threads share the jobs of a call, and nothing may depend on who does
which.

What differs between instruction sets is asked of an `Isa`; all vectors here have up to 16 lanes,
whatever the registers' width: LLVM splits them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

from tvm import tirx as _tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.program import Dimension

Expr: TypeAlias = Any
"""An expression of TVM."""
Buffer: TypeAlias = Any
"""A buffer of TVM."""

tirx: Any = _tirx
"""Typed as anything: its constructors convert integers, which their annotations do not say."""

MAX_LANES = 16
_UNBOUNDED = 1 << 40
_STORED = {"f32": "float32", "bf16": "uint16", "f16": "uint16"}


@dataclass(frozen=True)
class Strided:
    """Rows of `width` floats, `stride` floats apart, the first one after `offset` floats."""

    width: int
    stride: int
    offset: int = 0

    def at(self, row: Expr, column: Expr = 0) -> Expr:
        return row * i64(self.stride) + i64(self.offset) + column

    @property
    def lanes(self) -> int:
        """Floats that one vector may hold without leaving a row or its alignment."""
        return lanes_of(self.width, self.stride, self.offset)


class Kernel(ABC):
    """Base of all kernels: frozen dataclasses, equal when their code is."""

    family: ClassVar[str]
    written: ClassVar[tuple[str, ...]] = ("out",)
    """Parameters that it writes, where it has them."""
    streamed: ClassVar[str] = ""
    """The parameter that its jobs read in order, each as much, if there is one."""

    @abstractmethod
    def parameters(self) -> dict[str, str]:
        """Names and element types (TVM's names) of the arrays that it takes, in order."""

    @property
    def own(self) -> int:
        """Bytes that each thread needs for itself, given as the parameter `own` (uint8)."""
        return 0

    def jobs(self, rows: Dimension) -> Dimension:
        """How many jobs there are where the result has so many rows."""
        return rows

    @abstractmethod
    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        """Appends the body for jobs [first, last), int64, to the function under construction.

        `p` holds the parameters.
        """

    def function(self, name: str, isa: Isa) -> Any:
        """The TVM function, exported as `__tvm_ffi_<name>`."""
        with IRBuilder() as builder:
            with build.prim_func(s_tir=True):
                build.func_name(name)
                build.func_attr({"tirx.noalias": True})
                kinds = self.parameters()
                if self.own:
                    kinds = {**kinds, "own": "uint8"}
                handles = {n: build.arg(n, tirx.Var(n, "handle")) for n in kinds}
                first, last = (build.arg(n, tirx.Var(n, "int64")) for n in ("first", "last"))
                buffers = {
                    n: build.decl_buffer((_UNBOUNDED,), kind, data=handles[n])
                    for n, kind in kinds.items()
                }
                with build.attr(0, "pragma_import_llvm", isa.code) if isa.code else nullcontext():
                    self.emit(isa, SimpleNamespace(**buffers), first, last)
            return builder.get()


class RowKernel(Kernel):
    """A kernel that treats every row alone: a job is a row."""

    @abstractmethod
    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        """Appends the body for row t."""

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        with jobs(first, last) as t:
            self.row(isa, p, t)


def stored(dtype: str) -> str:
    """TVM's name of the elements that an array of a float dtype of the IR is read as."""
    return _STORED[dtype]


def lanes_of(*sizes: int) -> int:
    """The largest vector, a power of two up to 16, that divides every size."""
    lanes = MAX_LANES
    while any(size % lanes for size in sizes):
        lanes //= 2
    return lanes


def i64(value: int) -> Expr:
    return tirx.const(value, "int64")


def kind(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def constant(value: float, lanes: int = 1, dtype: str = "float32") -> Expr:
    return spread(tirx.const(value, dtype), lanes)


def spread(value: Expr, lanes: int) -> Expr:
    """The same scalar in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def at(index: Expr, lanes: int, stride: int = 1) -> Expr:
    return index if lanes == 1 else tirx.Ramp(index, stride, lanes)


def load(buffer: Buffer, index: Expr, lanes: int = 1, stride: int = 1) -> Expr:
    return buffer[at(index, lanes, stride)]


def store(buffer: Buffer, index: Expr, value: Expr, lanes: int = 1) -> None:
    build.buffer_store(buffer, value, [at(index, lanes)])


def prefetch(buffer: Buffer, index: Expr, level: int = 2) -> None:
    """Asks for the line of an element, to a cache: the second, where it can wait a while."""
    hints = (tirx.const(hint, "int32") for hint in (0, 4 - level, 1))  # to read, locality, data
    address = build.address_of(buffer[index])
    build.evaluate(build.call_llvm_intrin("void", "llvm.prefetch.p0", address, *hints))


def bind(value: Expr) -> Expr:
    """Computes a value once."""
    return build.Bind(value)


def loop(extent: Expr | int) -> Any:
    return build.serial(i64(0), i64(extent) if isinstance(extent, int) else extent)


def jobs(first: Expr, last: Expr) -> Any:
    """A loop over the jobs that a kernel was given."""
    return build.serial(first, last)


def accumulator(lanes: int, value: float = 0.0) -> Buffer:
    """Registers that a loop adds to."""
    buffer = build.alloc_buffer((lanes,), "float32")
    store(buffer, 0, constant(value, lanes), lanes)
    return buffer


def horizontal_sum(value: Expr, lanes: int) -> Expr:
    """The sum over the lanes, by halves."""
    while lanes > 1:
        halves = build.alloc_buffer((lanes,), "float32")
        store(halves, 0, value, lanes)
        lanes //= 2
        value = load(halves, 0, lanes) + load(halves, lanes, lanes)
    return value


def horizontal_max(value: Expr, lanes: int) -> Expr:
    """The greatest lane, by halves."""
    while lanes > 1:
        halves = build.alloc_buffer((lanes,), "float32")
        store(halves, 0, value, lanes)
        lanes //= 2
        value = build.max(load(halves, 0, lanes), load(halves, lanes, lanes))
    return value


def widen(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """Stored elements of a float dtype as float32; exact for every finite number.

    Integer arithmetic, so that it needs neither an instruction set nor a support library. f16 has
    5 exponent bits with bias 15: moved into place, they lack 127 - 15 = 112.
    """
    if dtype == "f32":
        return value
    bits = build.cast(value, kind("uint32", lanes))

    def u32(number: int) -> Expr:
        return constant(number, lanes, "uint32")

    if dtype == "bf16":
        return build.reinterpret(kind("float32", lanes), bits << u32(16))
    magnitude = build.reinterpret(kind("float32", lanes), (bits & u32(0x7FFF)) << u32(13))
    scaled = build.reinterpret(kind("uint32", lanes), magnitude * constant(2.0**112, lanes))
    return build.reinterpret(kind("float32", lanes), scaled | ((bits & u32(0x8000)) << u32(16)))


def exponential(x: Expr, lanes: int = 1) -> Expr:
    """e^x for x clamped to [-87, 88], relative error below 2e-7, in vector code.

    2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; coefficients of Cephes' `expf`.
    """

    def c(number: float) -> Expr:
        return constant(number, lanes)

    x = bind(build.max(build.min(x, c(88.0)), c(-87.0)))
    # Positive before the cast, which truncates: so it rounds to the nearest.
    shifted = build.cast(x * c(1.4426950408889634) + c(128.5), kind("int32", lanes))
    exponent = bind(shifted - constant(128, lanes, "int32"))
    n = bind(build.cast(exponent, kind("float32", lanes)))
    r = bind(x - n * c(0.693359375) - n * c(-2.12194440e-4))
    y = c(1.9875691500e-4)
    for number in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5):
        y = y * r + c(number)
    power = (exponent + constant(127, lanes, "int32")) << constant(23, lanes, "int32")
    return bind((y * r * r + r + c(1.0)) * build.reinterpret(kind("float32", lanes), power))
