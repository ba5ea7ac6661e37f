"""Attention of the TVM backend beside the machine's limits: decoding against a plain read of the
same bytes, prefill against the multiplications that cores can do. Checks no result.

    python -m benchmarks.tvm_attention --threads 2 --rounds 15
    python -m benchmarks.tvm_attention --decode bfloat16:64:2:8:8192 --prefill

Measurements take turns; the figures are medians, and ratios medians of paired ratios. One thread is
timed by the processor time that it took, so that other programs count little.
"""

from __future__ import annotations

import argparse
import mmap
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter, thread_time
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.build import build_library
from arkinfer_tvm.cpu import ISAS, cpu_flags
from arkinfer_tvm.isa import ISAS as DESCRIPTIONS
from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels import TOKEN, Attention, Combine, Kernel, Strided, tiles
from arkinfer_tvm.kernels.common import Expr, constant, i64, jobs, load, loop, store
from arkinfer_tvm.library import Bound, Library, aligned
from arkinfer_tvm.program import Call, Dimension, Operand, Program
from arkinfer_tvm.storage import BLOCK, Cache

Array = np.ndarray[Any, Any]

ENOUGH = 200 << 20
"""Bytes of caches, spread over layers: more than any processor keeps."""

_CHUNK = 1 << 16
_STEPS = 1 << 17


@dataclass(frozen=True)
class Shape:
    """What attention is timed for."""

    dtype: str
    size: int
    kv_heads: int
    shared: int
    length: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """dtype:head size:kv heads:query heads of each:tokens"""
        dtype, *numbers = text.split(":")
        return cls(dtype, *map(int, numbers))

    def cache(self, order: Any) -> Cache:
        return Cache(self.kv_heads, self.size, self.dtype, order)

    @property
    def layers(self) -> int:
        return max(1, ENOUGH // (2 * self.cache("keys").bytes(self.length)))


DECODE = (
    *(Shape("bfloat16", size, kv, 8, 8192) for size in (64, 128) for kv in (2, 8)),
    *(Shape(dtype, 64, 2, 8, 8192) for dtype in ("float16", "int8", "float32")),
)
PREFILL = tuple(Shape(dtype, 64, 2, 8, 4096) for dtype in ("bfloat16", "float32", "int8"))
ROWS = 512
"""Tokens of a step of prefill."""


@dataclass(frozen=True)
class Read(Kernel):
    """Adds up words, a chunk a job: what a thread can read."""

    family: ClassVar[str] = "read"

    def parameters(self) -> dict[str, str]:
        return {"x": "uint32", "out": "uint32"}

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        with jobs(first, last) as job:
            sums = [build.alloc_buffer((16,), "uint32") for _ in range(4)]
            for each in sums:
                store(each, 0, constant(0, 16, "uint32"), 16)
            with loop(_CHUNK // 256) as i:
                for number, each in enumerate(sums):
                    at = job * i64(_CHUNK // 4) + i * i64(64) + i64(16 * number)
                    store(each, 0, load(each, 0, 16) + load(p.x, at, 16), 16)
            for number, each in enumerate(sums):
                store(p.out, job * i64(64) + i64(16 * number), load(each, 0, 16), 16)


@dataclass(frozen=True)
class Multiply(Kernel):
    """Products of registers alone, of bfloat16 pairs or of float32: what a core can compute."""

    family: ClassVar[str] = "multiply"
    pairs: bool

    def parameters(self) -> dict[str, str]:
        return {"x": "uint32" if self.pairs else "float32", "out": "float32"}

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        count = 16 // isa.per_block
        with jobs(first, last) as job:
            sums = [build.alloc_buffer((16,), "float32") for _ in range(count)]
            for each in sums:
                store(each, 0, constant(0.0, 16), 16)
            x = build.Bind(load(p.x, 0, 16))
            with loop(_STEPS) as _:
                for each in sums:
                    total = load(each, 0, 16)
                    total = isa.pair_dot(total, x, x) if self.pairs else isa.fma(x, x, total)
                    store(each, 0, total, 16)
            for number, each in enumerate(sums):
                store(p.out, (job * i64(count) + i64(number)) * i64(16), load(each, 0, 16), 16)


class Bench:
    """The kernels of one shape in one library, and its caches.

    Args:
        shape: of the caches and queries.
        count: tokens of a step.
        threads: to share the work.
    """

    def __init__(self, isa: str, shape: Shape, count: int, threads: int) -> None:
        self.isa, self.shape, self.count, self.threads = isa, shape, count, threads
        heads = shape.kv_heads * shape.shared
        rows = Strided(heads * shape.size, heads * shape.size)
        per = TOKEN if shape.dtype == "int8" else ""
        cache = shape.cache("keys")
        tile = tiles(count, heads, cache)
        self.attention = Attention(rows, heads, cache, shape.size**-0.5, per, *tile)
        pairs = DESCRIPTIONS[isa].paired and shape.dtype == "bfloat16"
        self.multiply = Multiply(pairs)
        self.names: dict[Kernel, str] = {
            self.attention: "attention", Combine(self.attention): "combine", Read(): "read",
            self.multiply: "multiply",
        }  # fmt: skip
        self.library = Library(build_library(self.names, isa), "libbench.so", threads, 1 << 12)
        self.ports = self._ports()
        layers = range(shape.layers if count == 1 else 1)
        self.caches = [
            filled(shape.cache(order), shape.length) for _ in layers for order in ("keys", "values")
        ]
        self.runs = {
            "attention": self._attention(), "read": self._read(), "multiply": self._multiply()
        }  # fmt: skip

    @property
    def bytes(self) -> int:
        return sum(cache.size for cache in self.caches)

    @property
    def operations(self) -> int:
        """Multiplications and additions of a step of attention."""
        keys = sum(self.shape.length - self.count + i + 1 for i in range(self.count))
        return 4 * keys * self.shape.kv_heads * self.shape.shared * self.shape.size

    @property
    def peak_operations(self) -> int:
        """Of a run of `Multiply`."""
        vectors = self.threads * 8 * _STEPS * (16 // DESCRIPTIONS[self.isa].per_block)
        return vectors * 16 * (4 if self.multiply.pairs else 2)

    def seconds(self, name: str) -> float:
        """One run."""
        bound, arguments = self.runs[name]
        clock = thread_time if self.threads == 1 else perf_counter
        begin = clock()
        bound.run(arguments, {}, self.ports.items())
        return clock() - begin

    def _ports(self) -> dict[str, Array]:
        shape, kernel = self.shape, self.attention
        rng = np.random.default_rng(0)
        heads = kernel.heads
        scales = shape.kv_heads * (shape.length + BLOCK)
        sizes = {
            "q": (self.count, heads * shape.size), "out": (self.count, heads * shape.size),
            "sums": (kernel.ranges, self.count, heads, kernel.sums), "scale": (scales,),
            "x": (16,), "sink": (1 << 20,),
        }  # fmt: skip
        ports = {name: aligned(size, np.float32) for name, size in sizes.items()}
        for name in ("q", "scale", "x"):
            ports[name][...] = rng.uniform(0.01, 0.02, ports[name].shape)
        return ports

    def _bound(self, calls: list[tuple[Kernel, Mapping[str, Operand], int]]) -> tuple[Bound, Array]:
        """Calls of kernels with operands by name, for so many rows, made one program."""
        dims: dict[Dimension, int] = {}
        operands: dict[Operand, int] = {}
        made: list[Call] = []
        for number in (self.count, self.shape.length):
            dims[Dimension((), number)] = len(dims)
        for kernel, given, rows in calls:
            named = [given[name] for name in kernel.parameters()]
            if kernel.own:
                named.append(Operand("own", 0))
            work = dims.setdefault(kernel.jobs(Dimension((), rows)), len(dims))
            places = tuple(operands.setdefault(o, len(operands)) for o in named)
            made.append(Call(self.names[kernel], places, work))
        caches = [self.shape.cache(order) for order in ("keys", "values")]
        forms = tuple(caches * (len(self.caches) // 2))
        own = -(-self.attention.own // 64) * 64
        program = Program(tuple(dims), tuple(operands), tuple(made), forms, 0, own)
        bound = Bound(program, self.library, {})
        return bound, bound.arguments(self.caches)

    def _attention(self) -> tuple[Bound, Array]:
        ranges = self.attention.ranges > 1
        length = {"count": Operand("dim", 0), "length": Operand("dim", 1)}
        scales = {f"{name}_scale": Operand("port", "scale") for name in "kv"}
        calls: list[tuple[Kernel, Mapping[str, Operand], int]] = []
        for layer in range(len(self.caches) // 2):
            given = {"q": Operand("port", "q"), **length, **scales}
            given |= {"k": Operand("cache", 2 * layer), "v": Operand("cache", 2 * layer + 1)}
            given["out"] = Operand("port", "sums" if ranges else "out")
            calls.append((self.attention, given, self.count))
            if ranges:
                given = {"sums": Operand("port", "sums"), "out": Operand("port", "out")}
                calls.append((Combine(self.attention), {**given, **length}, self.count))
        return self._bound(calls)

    def _read(self) -> tuple[Bound, Array]:
        sink = Operand("port", "sink")
        return self._bound([
            (Read(), {"x": Operand("cache", i), "out": sink}, cache.size // _CHUNK)
            for i, cache in enumerate(self.caches)
        ])  # fmt: skip

    def _multiply(self) -> tuple[Bound, Array]:
        given = {"x": Operand("port", "x"), "out": Operand("port", "sink")}
        return self._bound([(self.multiply, given, 8 * self.threads)])


def filled(form: Cache, tokens: int) -> Array:
    """A cache with numbers of a usual size, in large pages where the system grants them."""
    size, page = form.bytes(tokens), 2 << 20
    memory = mmap.mmap(-1, size + page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % page
    cache = whole[start : start + size]
    one = np.zeros(form.bytes(BLOCK), np.uint8)
    rows = np.random.default_rng(0).standard_normal((BLOCK, form.heads, form.size))
    rows = np.rint(rows * 40) if form.dtype == "int8" else rows
    form.write(one, np.arange(BLOCK), rows.astype(np.int8 if form.dtype == "int8" else np.float32))
    cache.reshape(-1, one.size)[...] = one
    return cache


def taken(bench: Bench, names: tuple[str, str], rounds: int) -> tuple[Array, Array]:
    """Seconds of two runs that take turns; the first round warms up."""
    times = [[bench.seconds(name) for name in names] for _ in range(rounds + 1)]
    first, second = np.array(times[1:]).T
    bench.library.close()
    return first, second


def main(arguments: list[str] | None = None) -> int:
    """Prints a line for each shape."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tvm_attention", description=(__doc__ or "").splitlines()[0]
    )
    form = "dtype:head size:kv heads:query heads of each:tokens"
    parser.add_argument("--decode", nargs="*", type=Shape.parse, default=DECODE, metavar=form)
    parser.add_argument("--prefill", nargs="*", type=Shape.parse, default=PREFILL, metavar=form)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    isa = [isa for isa, flags in ISAS["x86_64"].items() if cpu_flags().issuperset(flags)][-1]
    print(f"{isa}, {options.threads} threads, medians of {options.rounds} rounds")
    for shape in options.decode:
        bench = Bench(isa, shape, 1, options.threads)
        ours, read = taken(bench, ("attention", "read"), options.rounds)
        speed, limit = (bench.bytes / np.median(x) / 1e9 for x in (ours, read))
        share = np.median(read / ours)
        print(f"decode  {shape}: {speed:.1f} GB/s, read {limit:.1f} GB/s, {share:.0%}", flush=True)
    for shape in options.prefill:
        bench = Bench(isa, shape, ROWS, options.threads)
        ours, peak = taken(bench, ("attention", "multiply"), options.rounds)
        speed = bench.operations / ours / 1e9
        limit = bench.peak_operations / peak / 1e9
        share = np.median(speed / limit)
        print(
            f"prefill {shape}, {ROWS} tokens: {np.median(speed):.0f} Gflop/s, "
            f"peak {np.median(limit):.0f} Gflop/s, {share:.0%}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
