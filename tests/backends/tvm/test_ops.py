"""Op by op against the IR's own meaning, with shapes that fit no vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from arkinfer import ir
from arkinfer.ir import Builder, CacheType, TensorType, Value, Weight, dim
from arkinfer.ir.types import dtype_name
from arkinfer.packing import QuantizedTensor, parse_scheme
from arkinfer.targets import load_target
from arkinfer_tvm.build import build_library
from arkinfer_tvm.compiler import isas_of
from arkinfer_tvm.library import Bound, Library, aligned
from arkinfer_tvm.lower import KernelTable, Lowering
from arkinfer_tvm.program import Program
from arkinfer_tvm.support import RULES, supports

Array = np.ndarray[Any, Any]
Build = Callable[["Draft"], Value]

SCALES = {"/f16 scales": np.dtype(np.float16), "/bf16 scales": np.dtype(ml_dtypes.bfloat16)}
"""Suffixes of the names of cases whose scales are not float32."""
LIMITS = {"T": 40, "R": 40}
SYMBOLS = {"T": 11, "S": 37, "R": 5}


class Draft:
    """A function of one or two ops under construction."""

    def __init__(self) -> None:
        self.builder = Builder(ir.infer_types)
        self.inputs: list[Value] = []
        self.add = self.builder.add

    def tensor(self, name: str, *shape: int | str, dtype: str = "f32") -> Value:
        self.inputs.append(Value(TensorType(dtype, tuple(dim(d) for d in shape)), name))
        return self.inputs[-1]

    def cache(self, name: str, heads: int, size: int, dtype: str = "f32") -> Value:
        self.inputs.append(Value(CacheType(dtype, (dim("S"), heads, size)), name))
        return self.inputs[-1]


def matrix(name: str, rows: int, columns: int, kind: str = "f32") -> Weight:
    """A dense weight, or a quantized one where `kind` is a scheme's name."""
    if kind in ir.DTYPES:
        return Weight(name, TensorType(kind, (rows, columns)))
    return Weight(name, ir.QuantizedType(parse_scheme(kind), (rows, columns)))


def vector(name: str, size: int, dtype: str = "f32") -> Weight:
    return Weight(name, TensorType(dtype, (size,)))


def linear(rows: int, columns: int, kind: str) -> Build:
    op = "nn.linear" if kind in ir.DTYPES else "quant.linear"
    return lambda d: d.add(op, d.tensor("x", "T", columns), matrix("w", rows, columns, kind))


def embedding(rows: int, columns: int, kind: str, scale: float) -> Build:
    op = "nn.embedding" if kind in ir.DTYPES else "quant.embedding"
    return lambda d: d.add(
        op, d.tensor("tokens", "T", dtype="i64"), matrix("w", rows, columns, kind), scale=scale
    )


def norm(size: int, eps: float, dtype: str = "f32") -> Build:
    return lambda d: d.add(
        "nn.rms_norm", d.tensor("x", "T", size), vector("w", size, dtype), eps=eps
    )


def rope(heads: int, size: int, factor: float) -> Build:
    def build(d: Draft) -> Value:
        x, positions = d.tensor("x", "T", heads, size), d.tensor("positions", "T", dtype="i64")
        return d.add("nn.rope", x, positions, vector("inv_freq", size // 2), factor=factor)

    return build


def attention(
    heads: int, kv_heads: int, size: int, scale: float = 0.3, per: str = "", dtype: str = "f32"
) -> Build:
    """`per`: what int8 caches have scales for, "channel" or "token"; "": caches of `dtype`."""

    def build(d: Draft) -> Value:
        q, caches, scales = d.tensor("q", "T", heads, size), [], []
        for name in "kv":
            rows = d.tensor(name, "T", kv_heads, size)
            old = d.cache(f"{name}c", kv_heads, size, "i8" if per else dtype)
            if per == "token":
                kept = d.cache(f"{name}c.scale", kv_heads, 1)
                new, grown = d.builder.add_multi("cache.append", old, rows, kept)
                scales.append(grown)
            else:
                given = [matrix(f"{name}_scale", kv_heads, size)] if per else []
                new = d.add("cache.append", old, rows, *given)
                scales += given
            caches.append(new)
        return d.add("attn.dense", q, *caches, *scales, scale=scale)

    return build


def pair(op: str, *shape: int | str, **attributes: Any) -> Build:
    return lambda d: d.add(op, d.tensor("a", *shape), d.tensor("b", *shape), **attributes)


def sliced(op: str) -> Build:
    """An op on a slice that starts at no vector's boundary."""

    def build(d: Draft) -> Value:
        packed = d.add("tensor.reshape", d.tensor("x", "T", 30), shape=(dim("T"), 5, 6))
        part = d.add("tensor.slice", packed, axis=1, start=1, stop=4)
        if op == "nn.rope":
            positions = d.tensor("positions", "T", dtype="i64")
            return d.add(op, part, positions, vector("inv_freq", 3), factor=1.0)
        if op == "tensor.take":
            return d.add(op, part, d.tensor("rows", "R", dtype="i64"))
        if op == "cache.append":
            k, v = (d.add(op, d.cache(name, 3, 6), part) for name in ("kc", "vc"))
            return d.add("attn.dense", part, k, v, scale=1.0)
        if op == "nn.add":
            return d.add(op, part, part, scale=-0.5)
        flat = d.add("tensor.reshape", part, shape=(dim("T"), 18))
        if op == "nn.rms_norm":
            return d.add(op, flat, vector("w", 18), eps=1e-5)
        if op == "quant.linear":
            return d.add(op, flat, matrix("w", 5, 18, "int8-row"))
        assert op == "nn.linear"
        return d.add(op, flat, matrix("w", 5, 18))

    return build


CASES: dict[str, Build] = {
    **{
        f"nn.linear {rows}x{columns} {kind}": linear(rows, columns, kind)
        for rows, columns, kind in [
            (7, 48, "f32"), (1, 1, "f32"), (33, 10, "f32"), (5, 7, "bf16"), (64, 64, "bf16"),
            (9, 24, "f16"), (16, 256, "f16"),
        ]
    },
    **{
        f"quant.linear {rows}x{columns} {kind}": linear(rows, columns, kind)
        for rows, columns, kind in [
            (7, 64, "int4-g32"), (33, 256, "int4-g128"), (5, 48, "int4-g16"), (3, 24, "int4-g8"),
            (3, 12, "int4-g4"), (3, 6, "int4-g2"), (9, 96, "int4-row"), (5, 160, "int4-g32-asym"),
            (5, 96, "int4-g32-min"), (5, 96, "int4-g32-actorder"), (6, 56, "int8-row"),
            (6, 7, "int8-row"), (6, 96, "int8-g32-asym"), (6, 64, "int8-g16-min"),
            (6, 64, "int8-g32-actorder"), (5, 128, "int2-g64"), (5, 192, "int2-g64-asym"),
            (5, 12, "int2-g4"), (5, 64, "int2-row-min"), (2, 36, "int2-g12-asym-actorder"),
            (5, 96, "int3-g32"), (5, 72, "int3-g8-asym"), (5, 64, "int5-g32-min"),
            (5, 60, "int6-g20-asym"), (5, 256, "int6-row"), (3, 128, "int7-g64-asym-actorder"),
        ]
    },
    "quant.linear int4-g16-asym/f16 scales": linear(5, 48, "int4-g16-asym"),
    "quant.linear int4-g32-min/f16 scales": linear(5, 64, "int4-g32-min"),
    "quant.linear int8-row/bf16 scales": linear(5, 64, "int8-row"),
    "quant.embedding int4-g32/bf16 scales": embedding(9, 64, "int4-g32", 1.0),
    "quant.embedding int8-g16-min/f16 scales": embedding(9, 32, "int8-g16-min", 1.0),
    **{
        f"nn.embedding {kind}": embedding(rows, columns, kind, scale)
        for rows, columns, kind, scale in [
            (9, 20, "f32", 1.0), (9, 7, "bf16", 12.0), (9, 32, "f16", -3.0),
        ]
    },
    **{
        f"quant.embedding {kind}": embedding(11, columns, kind, 2.5)
        for columns, kind in [
            (64, "int4-g32"), (48, "int4-g16-asym"), (96, "int4-g32-min"), (40, "int8-row"),
            (64, "int8-g32-asym"), (12, "int2-g4"), (64, "int4-g32-actorder"), (14, "int4-row"),
            (48, "int3-g16-asym"), (40, "int5-g8-min"), (44, "int6-g4-asym"), (64, "int7-row"),
        ]
    },
    "nn.rms_norm 64": norm(64, 1e-5),
    "nn.rms_norm 10 large eps": norm(10, 0.5),
    "nn.rms_norm 48 bf16": norm(48, 1e-6, "bf16"),
    "nn.rope 3 heads of 16": rope(3, 16, 1.0),
    "nn.rope 1 head of 10, factor": rope(1, 10, 1.19),
    "nn.silu_mul 24": pair("nn.silu_mul", "T", 24),
    "nn.silu_mul 5": pair("nn.silu_mul", "T", 5),
    "nn.add 20": pair("nn.add", "T", 20, scale=0.25),
    "nn.add rank 3": pair("nn.add", "T", 3, 5, scale=1.0),
    "attn.dense group 4": attention(4, 1, 16),
    "attn.dense group 1, size 24": attention(3, 3, 24),
    "attn.dense group 3 of 2, size 10": attention(6, 2, 10),
    "attn.dense size 128, large scores": attention(2, 1, 128, scale=2.0),
    "attn.dense bf16": attention(4, 2, 16, dtype="bf16"),
    "attn.dense bf16, size 7": attention(3, 1, 7, dtype="bf16"),
    "attn.dense f16, size 64": attention(4, 2, 64, dtype="f16"),
    "attn.dense int8 cache": attention(4, 2, 16, 0.1, "channel"),
    "attn.dense int8 cache, size 10": attention(3, 1, 10, 0.1, "channel"),
    "attn.dense int8 by token": attention(4, 2, 16, 0.02, "token"),
    "attn.dense int8 by token, size 10": attention(3, 1, 10, 0.02, "token"),
    "attn.dense int8 by token, size 7": attention(6, 2, 7, 0.02, "token"),
    "attn.dense int8 by token, size 64": attention(4, 2, 64, 0.02, "token"),
    "attn.dense int8 by token, size 128": attention(2, 2, 128, 0.02, "token"),
    "tensor.take": lambda d: d.add(
        "tensor.take", d.tensor("x", "T", 12), d.tensor("rows", "R", dtype="i64")
    ),
    "tensor.arange": lambda d: (
        d.tensor("x", "T", 1), d.tensor("rows", "R", dtype="i64"),
        d.add("tensor.arange", start=dim("2*R"), stop=dim("2*R + T")),
    )[-1],
    **{
        f"{op} of a slice": sliced(op)
        for op in (
            "nn.rope", "tensor.take", "cache.append", "nn.add", "nn.rms_norm", "nn.linear",
            "quant.linear",
        )
    },
}  # fmt: skip


@dataclass
class Bench:
    """All cases, lowered, in one library."""

    functions: dict[str, ir.Function]
    programs: dict[str, Program]
    store: CaseStore
    library: Library


@pytest.fixture(scope="module")
def isa() -> str:
    """What the cases are compiled for; elsewhere they run on other processors."""
    return isas_of(load_target("cpu"))[0]


@pytest.fixture(scope="module")
def bench(quantized: Callable[..., QuantizedTensor], isa: str) -> Iterator[Bench]:
    store = CaseStore(quantized)
    table, functions, programs = KernelTable(), {}, {}
    for name, build in CASES.items():
        draft = Draft()
        output = build(draft)
        function = ir.Function("case", draft.inputs, draft.builder.nodes, [output], ["out"])
        appended = [v for n in function.nodes if n.op == "cache.append" for v in n.results]
        function.outputs += appended
        function.output_names += [f"cache{i}" for i in range(len(appended))]
        functions[name] = renamed(function, name)
        target = load_target("cpu")
        assert all(supports(node, target).level != "no" for node in function.nodes)
        lowering = Lowering(function, LIMITS, store.scales, store.parts, table)
        programs[name] = lowering.program()
    library = Library(build_library(table.names, isa), "libcases.so", 2, 9)
    yield Bench(functions, programs, store, library)
    library.close()


def renamed(function: ir.Function, name: str) -> ir.Function:
    """Weights of different cases must not share a name."""
    for node in function.nodes:
        node.operands = [
            Weight(f"{name}/{o.name}", o.type) if isinstance(o, Weight) else o
            for o in node.operands
        ]
    return function


class CaseStore:
    """Seeded weights, and their parts as aligned arrays by tensor name."""

    def __init__(self, quantized: Callable[..., QuantizedTensor]) -> None:
        self.quantized = quantized
        self.tensors: dict[str, Array] = {}

    def load(self, weight: Weight) -> Any:
        shape = tuple(int(str(d)) for d in weight.type.shape)
        drawn = np.random.default_rng([*weight.name.encode()]).standard_normal(shape, np.float32)
        if weight.name.endswith("_scale"):
            return np.abs(drawn) / 50 + np.float32(0.01)
        if isinstance(weight.type, TensorType):
            return drawn.astype(ir.DTYPES[weight.type.dtype])
        scales = np.dtype("float32")
        for suffix, dtype in SCALES.items():
            if suffix in weight.name:
                scales = dtype
        return self.quantized(drawn, weight.type.scheme, scales)

    def scales(self, weight: Weight) -> str:
        return dtype_name(self.load(weight).scale.dtype)

    def parts(self, weight: Weight) -> dict[str, str]:
        loaded = self.load(weight)
        parts = loaded.parts() if isinstance(loaded, QuantizedTensor) else {"": loaded}
        for part, array in parts.items():
            copy = aligned(array.shape, array.dtype)
            copy[...] = array
            self.tensors[f"{weight.name}.{part}"] = copy
        return {part: f"{weight.name}.{part}" for part in parts}


def draw(function: ir.Function, symbols: dict[str, int], seed: int) -> dict[str, Array]:
    """Inputs in aligned memory."""
    rng = np.random.default_rng(seed)
    drawn = ir.random_inputs(function, symbols, rng, high=min(9, symbols["T"]))
    given: dict[str, Array] = {}
    for value in function.inputs:
        array = drawn[value.name]
        given[value.name] = aligned(array.shape, array.dtype)
        given[value.name][...] = array
    return given


def stored(
    function: ir.Function, program: Program, given: dict[str, Array], tokens: int
) -> list[Array]:
    """The caches among the inputs as kernels take them, with room for so many tokens."""
    values = [v for v in function.inputs if isinstance(v.type, CacheType)]
    caches: list[Array] = []
    for value, form in zip(values, program.caches, strict=True):
        memory = aligned((form.bytes(tokens),), np.uint8)
        memory[...] = 0xFF  # not a number
        form.write(memory, np.arange(len(given[value.name])), given[value.name])
        caches.append(memory)
    return caches


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [1, 3, 11])
def test_op(bench: Bench, name: str, count: int) -> None:
    function, program = bench.functions[name], bench.programs[name]
    symbols = {**SYMBOLS, "T": count}
    given = draw(function, symbols, count)
    caches = stored(function, program, given, symbols["S"] + count)
    expected = ir.run_function(function, given, bench.store)
    out = aligned(expected["out"].shape, expected["out"].dtype)
    out.view(np.uint8)[...] = 0xFF  # not a number
    bound = Bound(program, bench.library, bench.store.tensors)
    ports = [("out", out), *given.items()]
    bound.run(bound.arguments(caches), symbols, ports)
    assert close(out, expected["out"], PAIRED if "bf16" in name else EXACT)
    grown = [v for n, v in expected.items() if n != "out"]
    for form, cache, wanted in zip(program.caches, caches, grown, strict=True):
        np.testing.assert_array_equal(form.read(cache, np.arange(len(wanted))), wanted)


def test_rows_of_zeros_and_of_tiny_and_huge_numbers(bench: Bench) -> None:
    """Scales by token are those of the reference, bit by bit, and nothing is not a number."""
    name = "attn.dense int8 by token, size 10"
    function, program = bench.functions[name], bench.programs[name]
    symbols = {**SYMBOLS, "T": 5}
    given = draw(function, symbols, 7)
    for cache in ("kc", "kc.scale", "vc", "vc.scale"):
        given[cache][...] = 1
    sizes = np.array([0, 1e-44, 1e-38, 1e-20, 1e18], np.float32)
    for rows in ("k", "v"):
        given[rows][...] = np.sign(given[rows]) * sizes[:, None, None]
    caches = stored(function, program, given, symbols["S"] + 5)
    expected = ir.run_function(function, given, bench.store)
    out = aligned(expected["out"].shape, np.float32)
    ports = [("out", out), *given.items()]
    bound = Bound(program, bench.library, bench.store.tensors)
    bound.run(bound.arguments(caches), symbols, ports)
    grown = list(expected.values())[1:]
    for form, cache, wanted in zip(program.caches, caches, grown, strict=True):
        np.testing.assert_array_equal(form.read(cache, np.arange(len(wanted))), wanted)
    assert np.isfinite(out).all()
    assert close(out, expected["out"])


EXACT, PAIRED = 1e-5, 6e-3
"""Of the largest number: the order of sums; queries and weights in bfloat16, too, where there is an
instruction for it."""


def close(got: Array, expected: Array, tolerance: float = EXACT) -> bool:
    if got.dtype != np.float32:
        return bool((got == expected).all())
    return bool(np.abs(got - expected).max() <= tolerance * np.abs(expected).max())


def test_every_rule_has_a_case() -> None:
    shown: set[str] = set()
    for build in CASES.values():
        draft = Draft()
        build(draft)
        shown |= {node.op for node in draft.builder.nodes}
    assert shown == set(RULES)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_every_finite_16_bit_number_is_widened_exactly(dtype: str, isa: str) -> None:
    kind = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}[dtype]
    numbers = np.arange(1 << 16, dtype=np.uint16).view(kind)
    numbers = np.where(np.isfinite(numbers.astype(np.float32)), numbers, kind.type(0))
    table = aligned((1 << 16, 1), kind)
    table[:, 0] = numbers
    draft = Draft()
    weight = Weight("w", TensorType(dtype, (1 << 16, 1)))
    output = draft.add("nn.embedding", draft.tensor("tokens", "T", dtype="i64"), weight, scale=1.0)
    function = ir.Function("case", draft.inputs, draft.builder.nodes, [output], ["out"])
    names = KernelTable()
    program = Lowering(
        function, {"T": 1 << 16}, lambda w: "f32", lambda w: {"": w.name}, names
    ).program()
    library = Library(build_library(names.names, isa), "libwiden.so", 1, 1)
    bound = Bound(program, library, {"w": table})
    out, tokens = aligned((1 << 16, 1), np.float32), aligned((1 << 16,), np.int64)
    tokens[:] = np.arange(1 << 16)
    bound.run(bound.arguments([]), {"T": 1 << 16}, [("out", out), ("tokens", tokens)])
    library.close()
    np.testing.assert_array_equal(out.view(np.uint32), table.astype(np.float32).view(np.uint32))
