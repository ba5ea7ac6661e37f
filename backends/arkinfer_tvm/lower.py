"""From a function of the IR to a program: one kernel call per node, memory placed.

Knows the kernels by what they are made for, and no TVM: building them is `build.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from arkinfer import ir
from arkinfer.errors import InternalError, UnsupportedError
from arkinfer_tvm import kernels
from arkinfer_tvm.cache_forms import cache_forms
from arkinfer_tvm.lower_matrix import MatrixLowering, number
from arkinfer_tvm.phases import Phases
from arkinfer_tvm.program import (
    ANCESTORS,
    POSITIONS,
    Cache,
    Call,
    Dimension,
    Operand,
    Program,
    Seen,
)
from arkinfer_tvm.scratch import ALIGNMENT, Lifetime, place
from arkinfer_tvm.stored import Stored


class KernelTable:
    """The kernels of one library: equal ones once, named in the order in which they came."""

    def __init__(self) -> None:
        self.names: dict[kernels.Kernel, str] = {}

    def name(self, kernel: kernels.Kernel) -> str:
        return self.names.setdefault(kernel, f"{kernel.family}_{len(self.names)}")


@dataclass(frozen=True)
class Home:
    """Where a value lives: `rows` of buffer `buffer`, one for each of `count`."""

    buffer: int
    count: ir.Dim
    rows: kernels.Strided
    dtype: str = "f32"


@dataclass
class _Buffer:
    size: int
    first: int
    last: int
    port: str = ""


@dataclass
class _Call:
    kernel: str
    operands: list[Operand]
    jobs: Dimension
    phase: int
    stream: Operand | None


class Lowering(MatrixLowering):
    """The lowering of one function, for steps of some size.

    Args:
        function: verified; every node is supported.
        limits: the greatest value of each symbol that counts rows; kernels are chosen by it.
        stored: stores weights.
        table: collects the kernels; several functions may share one.
        tree: the step is told where its tokens stand and which of them they attend to.
    """

    def __init__(
        self,
        function: ir.Function,
        limits: Mapping[str, int],
        stored: Stored,
        table: KernelTable,
        tree: bool = False,
    ) -> None:
        self.function, self.limits = function, limits
        self.stored, self.table, self.tree = stored, table, tree
        self._ancestors: Home | None = None
        super().__init__()
        self._homes: dict[ir.Value, Home] = {}
        self._caches: dict[ir.Value, int] = {}
        self._shapes: list[Cache] = []
        self._buffers: list[_Buffer] = []
        self._dims: dict[Dimension, int] = {}
        self._calls: list[_Call] = []
        self._phases = Phases()
        self._own = 0
        self._places: dict[int, Operand] = {}
        self._seen: list[Seen] = []
        self._value_names = ir.value_names(function)
        self._angles: dict[tuple[ir.Value, str, float], Home] = {}
        named = zip(function.output_names, function.outputs, strict=True)
        self._ports = {v: name for name, v in named if not isinstance(v.type, ir.CacheType)}

    def program(self) -> Program:
        """Lowers every node, then places the buffers."""
        forms = cache_forms(self.function)
        for value in self.function.inputs:
            if isinstance(value.type, ir.CacheType):
                self._caches[value] = len(self._shapes)
                self._shapes.append(forms[value])
            else:
                self._homes[value] = self._fresh(value, port=value.name)
        for node in self.function.nodes:
            self._lower(node)
        final = [self._caches[v] for v in self.function.outputs if v in self._caches]
        if final != list(range(len(self._shapes))):
            raise UnsupportedError("The step does not give its caches in the order it takes them")
        return self._placed()

    def _lower(self, node: ir.Node) -> None:
        lower = getattr(self, "_" + node.op.replace(".", "_"), None)
        if lower is None:
            raise UnsupportedError(f"{node.op} at {node.loc} has no kernel of the backend tvm")
        for value in node.values:
            if value in self._homes:
                self._buffers[self._homes[value].buffer].last = len(self._calls)
        lower(node)
        for value in node.results:
            self._see(value)

    def _see(self, value: ir.Value) -> None:
        """Notes where a value is from now on, for those that look at a step."""
        row = tuple(_fixed(d) for d in value.type.shape[1:])
        if value in self._caches:
            place, count = self._cached(value), value.type.shape[0]
            width, offset = math.prod(row), 0
            dtype = self._shape(value).dtype
        elif value not in self._homes:
            return  # it is inside of a kernel
        else:
            home = self._homes[value]
            place, count = Operand("scratch", home.buffer), home.count
            width, offset = home.rows.stride, home.rows.offset
            dtype = ir.DTYPES[home.dtype].name
        name = self._value_names[value]
        calls, rows = len(self._calls), self._count(count)
        inside = tuple(self._value_names[each] for each in self._inside.get(value, ()))
        self._seen.append(Seen(name, calls, place, rows, row, width, offset, dtype, inside))

    def seen(self) -> list[Seen]:
        """Where the function's values can be seen; after `program`."""
        return [replace(each, place=self._place(each.place)) for each in self._seen]

    # --- the ops ---

    def _nn_rope(self, node: ir.Node) -> None:
        x, positions = node.values
        _, heads, size = (d if isinstance(d, int) else 0 for d in x.tensor.shape)
        factor, frequency = number(node, "factor"), node.weights[0]
        key = (positions, frequency.name, factor)
        if key not in self._angles:  # all layers turn by the same ones
            angles = kernels.Angles(size // 2, factor)
            table = self._buffer(self._homes[positions].count, size)
            self._call(
                angles, table.count, positions=positions, frequency=self._dense(frequency),
                table=table,
            )  # fmt: skip
            self._angles[key] = table
        kernel = kernels.Rope(self._homes[x].rows, heads, size)
        self._rowwise(node, kernel, x=x, table=self._angles[key])

    def _cache_append(self, node: ir.Node) -> None:
        cache, rows, *scales = node.values
        home = self._homes[rows]
        given: dict[str, Any] = {}
        if scales:
            given = {"scales": self._cached(scales[0])}
        elif node.weights:
            given = {"scale": self._dense(node.weights[0])}
        kernel = kernels.Append(home.rows, self._shape(cache), bool(scales))
        start = self._count(cache.type.shape[0])
        self._call(kernel, home.count, rows=home, cache=self._cached(cache), **given, start=start)
        for old, new in zip((cache, *scales), node.results, strict=True):
            self._caches[new] = self._caches[old]

    def _attn_dense(self, node: ir.Node) -> None:
        q, k, v, *scales = node.values
        _, heads, _ = (d if isinstance(d, int) else 0 for d in q.tensor.shape)
        given = [*map(self._cached, scales), *map(self._dense, node.weights)]  # none, or two
        form = kernels.TOKEN if scales else kernels.CHANNEL if given else ""
        home, scale = self._homes[q], number(node, "scale")
        cache, most = self._shape(k), self._most(home.count)
        tokens, ranges = kernels.tiles(most, heads, cache)
        kernel = kernels.Attention(home.rows, heads, cache, scale, form, tokens, ranges, self.tree)
        named: dict[str, Any] = dict(zip(("k_scale", "v_scale"), given, strict=False))
        if self.tree:
            self._ancestors = self._ancestors or self._buffer(home.count, 1, "i64", ANCESTORS)
            named["ancestors"] = self._ancestors
        reads = {"q": q, "k": self._cached(k), "v": self._cached(v)}
        length = self._count(k.type.shape[0])
        if ranges == 1:
            self._rowwise(node, kernel, **named, **reads, length=length)
            return
        sums = self._buffer(home.count, ranges * heads * kernel.sums)
        self._call(kernel, home.count, **named, **reads, length=length, out=sums)
        named = {"v_scale": given[1]} if form == kernels.CHANNEL else {}
        self._rowwise(node, kernels.Combine(kernel), **named, sums=sums, length=length)

    def _shape(self, cache: ir.Value) -> Cache:
        return self._shapes[self._caches[cache]]

    def _cached(self, cache: ir.Value) -> Operand:
        return Operand("cache", self._caches[cache])

    def _tensor_arange(self, node: ir.Node) -> None:
        if self.tree:
            self._homes[node.result] = self._fresh(node.result, POSITIONS)
            return
        start = cast("ir.Dim", node.attributes["start"])
        self._rowwise(node, kernels.Range(), start=self._count(start))

    def _tensor_take(self, node: ir.Node) -> None:
        x, rows = node.values
        self._rowwise(node, kernels.Take(self._homes[x].rows), x=x, rows=rows)

    def _tensor_reshape(self, node: ir.Node) -> None:
        self._alias(node, self._homes[node.values[0]])

    def _tensor_slice(self, node: ir.Node) -> None:
        home, shape = self._homes[node.values[0]], node.values[0].tensor.shape
        inner = math.prod(_fixed(d) for d in shape[2:])
        start, stop = (cast(int, node.attributes[k]) for k in ("start", "stop"))
        rows = replace(
            home.rows, width=(stop - start) * inner, offset=home.rows.offset + start * inner
        )
        self._alias(node, replace(home, rows=rows))

    def _alias(self, node: ir.Node, home: Home) -> None:
        if node.result in self._ports:
            raise UnsupportedError(f"{node.op} at {node.loc} cannot be an output of the step")
        self._homes[node.result] = home

    # --- memory and calls ---

    def _fresh(self, value: ir.Value, port: str = "") -> Home:
        """A home of its own for a value, in row-major order."""
        shape = value.tensor.shape
        width = math.prod(_fixed(d) for d in shape[1:])
        return self._buffer(shape[0], width, value.tensor.dtype, port)

    def _buffer(
        self, count: ir.Dim, width: int, dtype: str = "f32", port: str = "", spare: int = 0
    ) -> Home:
        """Memory for so many rows, and for spare ones that nobody looks at."""
        now = len(self._calls)
        rows = 0 if port else self._most(count) + spare
        size = rows * width * ir.DTYPES[dtype].itemsize
        self._buffers.append(_Buffer(size, now, now, port))
        return Home(len(self._buffers) - 1, count, kernels.Strided(width, width), dtype)

    def _most(self, count: ir.Dim) -> int:
        if isinstance(count, int):
            return count
        unknown = [name for name, _ in count.terms if name not in self.limits]
        if unknown:
            raise UnsupportedError(f"A tensor has {count} rows, and {unknown[0]} has no limit")
        return sum(f * self.limits[name] for name, f in count.terms) + count.constant

    def _rowwise(self, node: ir.Node, kernel: kernels.Kernel, **given: Any) -> None:
        """A call whose one result has a row for each of `count`."""
        home = self._fresh(node.result, self._ports.get(node.result, ""))
        self._call(kernel, home.count, **given, out=home)
        self._homes[node.result] = home

    def _call(self, kernel: kernels.Kernel, height: ir.Dim, /, **given: Any) -> None:
        """One more call, whose result has so many rows; `count` is that number, for the asking."""
        wanted = list(kernel.parameters())
        if "count" in wanted:
            given["count"] = self._count(height)
        if sorted(wanted) != sorted(given):
            raise InternalError(f"{kernel.family} takes {wanted}, not {list(given)}")
        operands = [self._operand(given[n]) for n in wanted]
        written = [operands[wanted.index(name)] for name in kernel.written if name in wanted]
        phase = self._phases.add(operands, written)
        if kernel.own:
            operands.append(Operand("own", 0))
            self._own = max(self._own, kernel.own)
        jobs = kernel.jobs(_dimension(height))
        stream = operands[wanted.index(kernel.streamed)] if kernel.streamed else None
        self._calls.append(_Call(self.table.name(kernel), operands, jobs, phase, stream))

    def _operand(self, given: ir.Value | Home | Operand) -> Operand:
        if isinstance(given, Operand):
            return given
        home = self._homes[given] if isinstance(given, ir.Value) else given
        self._buffers[home.buffer].last = len(self._calls)
        return Operand("scratch", home.buffer)  # its place is known at the end

    def _count(self, d: ir.Dim) -> Operand:
        return Operand("dim", self._dim(_dimension(d)))

    def _dim(self, known: Dimension) -> int:
        return self._dims.setdefault(known, len(self._dims))

    def _dense(self, weight: ir.Weight) -> Operand:
        return self._tensor(self.stored.whole(weight))

    def _tensor(self, name: str) -> Operand:
        return Operand("weight", name)

    def _placed(self) -> Program:
        inner = [i for i, b in enumerate(self._buffers) if not b.port]
        phases = [call.phase for call in self._calls]
        phases.append(phases[-1] + 1 if phases else 0)
        lifetimes = [
            Lifetime(b.size, phases[b.first], phases[b.last])
            for b in (self._buffers[i] for i in inner)
        ]
        offsets, scratch = place(lifetimes)
        self._places = {i: Operand("scratch", at) for i, at in zip(inner, offsets, strict=True)}
        self._places |= {i: Operand("port", b.port) for i, b in enumerate(self._buffers) if b.port}
        operands: dict[Operand, int] = {}
        calls: list[Call] = []
        for call, after in zip(self._calls, phases[1:], strict=True):
            final = (self._place(operand) for operand in call.operands)
            given = tuple(operands.setdefault(o, len(operands)) for o in final)
            stream = operands[call.stream] if call.stream else None
            jobs = self._dim(call.jobs)
            calls.append(Call(call.kernel, given, jobs, call.phase != after, stream))
        return Program(
            tuple(self._dims), tuple(operands), tuple(calls), tuple(self._shapes), scratch,
            -(-self._own // ALIGNMENT) * ALIGNMENT, max([1, *self.limits.values()]),
        )  # fmt: skip

    def _place(self, operand: Operand) -> Operand:
        """Where the buffer is that an operand named by its number."""
        return self._places[int(operand.key)] if operand.kind == "scratch" else operand


def _dimension(d: ir.Dim) -> Dimension:
    return Dimension((), d) if isinstance(d, int) else Dimension(d.terms, d.constant)


def _fixed(d: ir.Dim) -> int:
    if not isinstance(d, int):
        raise UnsupportedError(f"The dim {d} is not fixed, and only the first one may be so")
    return d
