"""Times products with quantized matrices, as the backend tvm compiles them, in turns with what the
machine can do at all: reading the same bytes, and int8 dot products that read nothing.

    python benchmarks/tvm_products.py 4096x1024 --scheme int4-g128 --rows 1,4,8,32,512

Copies of the matrix are used in turns, so that none is in a cache. Prints medians over rounds, and
medians of the ratios within a round. Knows no model.
"""

from __future__ import annotations

import argparse
import mmap
import platform
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from tvm.script.ir_builder import tirx as build

from arkinfer.packing import Scheme, encode, parse_scheme
from arkinfer_tvm.build import build_library
from arkinfer_tvm.cost import MOST_ROWS
from arkinfer_tvm.cpu import cpu_flags, isas_for
from arkinfer_tvm.isa import ISAS, Isa
from arkinfer_tvm.kernels.common import Expr, Kernel, bind, constant, i64, jobs, load, loop, store
from arkinfer_tvm.kernels.finish import Finish, Gate
from arkinfer_tvm.kernels.linear import QuantLinear
from arkinfer_tvm.kernels.quantize import Inputs
from arkinfer_tvm.layout import LINE, Stream, packed
from arkinfer_tvm.library import Bound, Library
from arkinfer_tvm.program import Call, Dimension, Operand, Program

Array = np.ndarray[Any, Any]
COLD = 256 << 20
"""Bytes that are read between two uses of the same ones."""
PEAK = 1 << 15
"""Rounds of dot products that a job of the peak test does."""


@dataclass(frozen=True)
class Read(Kernel):
    """Reads a job's bytes and keeps their sum, as a product would read its slab."""

    family: ClassVar[str] = "read"
    bytes: int

    def parameters(self) -> dict[str, str]:
        return {"weight": "int32", "out": "int32"}

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        lines, lanes = self.bytes // LINE, LINE // 4
        with jobs(first, last) as job:
            sums = [build.alloc_buffer((lanes,), "int32") for _ in range(8)]
            for each in sums:
                store(each, 0, constant(0, lanes, "int32"), lanes)
            with loop(lines // 8) as i:
                for number, each in enumerate(sums):
                    at = job * i64(lines * lanes) + (i * i64(8) + i64(number)) * i64(lanes)
                    store(each, 0, load(each, 0, lanes) + load(p.weight, at, lanes), lanes)
            total = load(sums[0], 0, lanes)
            for each in sums[1:]:
                total = bind(total + load(each, 0, lanes))
            store(p.out, job * i64(lanes), total, lanes)


@dataclass(frozen=True)
class Peak(Kernel):
    """Dot products of registers with each other."""

    family: ClassVar[str] = "peak"

    def parameters(self) -> dict[str, str]:
        return {"weight": "uint8", "codes": "int8", "out": "int32"}

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        count = self.sums(isa)
        with jobs(first, last) as job:
            sums = [build.alloc_buffer((16,), "int32") for _ in range(count)]
            for each in sums:
                store(each, 0, constant(0, 16, "int32"), 16)
            codes = bind(load(p.weight, i64(0), LINE))
            activations = bind(load(p.codes, i64(0), LINE))
            with loop(PEAK):
                for each in sums:
                    store(each, 0, isa.dot(load(each, 0, 16), codes, activations), 16)
            total = load(sums[0], 0, 16)
            for each in sums[1:]:
                total = bind(total + load(each, 0, 16))
            store(p.out, job * i64(16), total, 16)

    def sums(self, isa: Isa) -> int:
        """Half of the registers' worth, so that no sum waits for the one before."""
        return isa.registers // isa.per_block // 2

    def operations(self, isa: Isa) -> int:
        return self.sums(isa) * PEAK * 128


class Arena:
    """Memory in huge pages, where the system has them."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size + (4 << 20))
        self._map.madvise(mmap.MADV_HUGEPAGE)
        flat = np.frombuffer(self._map, np.uint8)
        self._free = flat[-flat.ctypes.data % (2 << 20) :]

    def put(self, array: Array) -> Array:
        size = array.nbytes
        place = self._free[:size].view(array.dtype).reshape(array.shape)
        place[...] = array
        self._free = self._free[-(-size // 4096) * 4096 :]
        return place


def draw(scheme: Scheme, shape: tuple[int, int], stream: Stream) -> Array:
    """A random matrix as a stream."""
    rng = np.random.default_rng(0)
    groups = shape[1] // scheme.group_size(shape[1])
    top = 1 << scheme.bits
    codes = rng.integers(0, top, (shape[0], groups, shape[1] // groups)).astype(np.uint8)
    scale = rng.random((shape[0], groups), np.float32)
    zero = rng.integers(0, top, scale.shape).astype(np.uint8) if scheme.offset == "zero" else None
    least = -scale if scheme.offset == "min" else None
    order = rng.permutation(shape[1]).astype(np.int32) if scheme.act_order else None
    tensor = encode(scheme, codes, scale, zero=zero, min=least, order=order)
    return np.concatenate(list(packed(stream, lambda a, b: tensor.rows(slice(a, b)))))


class Bench:
    """One matrix: what computes with it, and the limits, on the same memory."""

    def __init__(
        self, scheme: Scheme, shape: tuple[int, int], threads: int, isa: Isa, gate: bool
    ) -> None:
        self.isa, self.gate = isa, gate
        self.stream = Stream.of(scheme, shape, isa.arch)
        self.inputs = Inputs.of(self.stream)
        data = draw(scheme, shape, self.stream)
        self.size = data.nbytes * (2 if gate else 1)
        self.copies = max(2, COLD // data.nbytes) // 2 * 2
        arena = Arena(self.copies * (data.nbytes + 4096) + (64 << 20))
        self.weights = [arena.put(data) for _ in range(self.copies)]
        finish = Gate() if gate else Finish()
        self.kernels: dict[str, Kernel] = {
            "read": Read(self.stream.slab),
            "peak": Peak(),
            "decode": QuantLinear(self.stream, finish, 1),
            "short": QuantLinear(self.stream, finish, MOST_ROWS),
            "many": QuantLinear(self.stream, finish, 128),
        }
        names = {kernel: name for name, kernel in self.kernels.items()}
        begin = time.perf_counter()
        self.library = Library(build_library(names, isa.name), "libbench.so", threads, 4096)
        print(f"compiled in {time.perf_counter() - begin:.1f} s")
        rng = np.random.default_rng(1)
        most, width = 512 + 8, self.inputs.scales
        self.ports = {
            "codes": arena.put(rng.integers(-127, 128, (most, self.inputs.stride)).astype("i1")),
            "scales": arena.put(rng.random((most, width), np.float32)),
            "sums": arena.put(rng.integers(-99, 99, (most, width)).astype(np.int32)),
            "out": arena.put(np.zeros((most, max(shape[0], self.stream.slabs * 16)), np.float32)),
        }
        self.bound: dict[str, Any] = {}

    def seconds(self, name: str, rows: int) -> float:
        """For one use of the matrix, of a run that uses every copy once."""
        if name not in self.bound:
            self.bound[name] = self._bind(self.kernels[name])
        bound, arguments, calls = self.bound[name]
        begin = time.perf_counter()
        bound.run(arguments, {"T": rows}, self.ports.items())
        return (time.perf_counter() - begin) / calls

    def _bind(self, kernel: Kernel) -> tuple[Bound, Array, int]:
        operands: list[Operand] = [Operand("dim", 0)]
        rows = Dimension((("T", 1),))
        jobs = Dimension((), self.stream.slabs) if isinstance(kernel, Read) else kernel.jobs(rows)
        if isinstance(kernel, Peak):
            jobs = Dimension((), 16)
        calls: list[Call] = []
        wanted = [*kernel.parameters(), *(["own"] if kernel.own else [])]
        once = isinstance(kernel, Peak)
        step = 2 if self.gate and not isinstance(kernel, Read) else 1
        for first in range(0, 1 if once else self.copies, step):
            given: list[int] = []
            for name in wanted:
                operand = Operand("port", name)
                if name in ("weight", "other"):
                    operand = Operand("weight", str(first + (name == "other")))
                elif name == "count":
                    operand = operands[0]
                elif name == "own":
                    operand = Operand("own", 0)
                if operand not in operands:
                    operands.append(operand)
                given.append(operands.index(operand))
            calls.append(Call(kernel.family, tuple(given), 1))
        name = next(n for n, k in self.kernels.items() if k is kernel)
        calls = [Call(name, call.operands, call.jobs) for call in calls]
        program = Program((rows, jobs), tuple(operands), tuple(calls), (), 64, kernel.own)
        weights = {str(i): each for i, each in enumerate(self.weights)}
        bound = Bound(program, self.library, weights)
        uses = len(calls) / (2 if self.gate and isinstance(kernel, Read) else 1)
        return bound, bound.arguments([]), max(1, uses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("shape", help="outputs x inputs, e.g. 4096x1024")
    parser.add_argument("--scheme", default="int4-g128")
    parser.add_argument("--rows", default="1,4,8,32,512", help="numbers of tokens")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", default="", help="an instruction set; default: this machine's")
    parser.add_argument("--gate", action="store_true", help="two matrices, as gate and up")
    given = parser.parse_args()
    isa = ISAS[given.isa or isas_for(("host",), platform.machine(), cpu_flags())[0]]
    rows_, columns = (int(part) for part in given.shape.split("x"))
    shape = (rows_, columns)
    bench = Bench(parse_scheme(given.scheme), shape, given.threads, isa, given.gate)
    work = 2 * rows_ * columns * (2 if given.gate else 1)
    counts = [int(part) for part in given.rows.split(",")]
    cases = [("read", 1), ("peak", 1)]
    for count in counts:
        cases += [("decode", 1)] if count == 1 else [("short", count), ("many", count)]
    times: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(given.rounds + 1):
        for case in cases:
            times[case].append(bench.seconds(*case))
    taken = {case: np.array(found[1:]) for case, found in times.items()}
    peak = Peak().operations(isa) * 16
    read = taken["read", 1]
    print(f"{given.scheme} {given.shape} on {isa.name}, {given.threads} threads, {bench.size:,} B")
    print(f"read    {bench.size / np.median(read) / 1e9:8.1f} GB/s")
    print(f"peak    {peak / np.median(taken['peak', 1]) / 1e9:8.0f} Gop/s")
    one = taken[cases[2]] if counts[0] == 1 else read
    for name, count in cases[2:]:
        mine = taken[name, count]
        limit = np.median(read / mine)
        fast = np.median(work * count / mine / (peak / taken["peak", 1]))
        usual = np.median(mine)
        print(
            f"{name:6} {count:4} rows {usual * 1e6:9.0f} us {bench.size / usual / 1e9:6.1f}"
            f" GB/s ({limit:4.0%} of read) {work * count / usual / 1e9:6.0f} Gop/s "
            f"({fast:4.0%} of peak), {np.median(mine / one):5.2f} x the first"
        )
    bench.library.close()


if __name__ == "__main__":
    main()
