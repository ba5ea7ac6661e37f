"""Op by op against the IR's own meaning, with shapes that fit no vector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tvm.script.ir_builder import tirx as builder

from arkinfer import ir
from arkinfer.ir import CacheType, TensorType, Weight
from arkinfer.packing import QuantizedTensor
from arkinfer.targets import load_target
from arkinfer_tvm.build import build_library
from arkinfer_tvm.compiler import isas_of
from arkinfer_tvm.isa import ISAS
from arkinfer_tvm.kernels import Kernel
from arkinfer_tvm.library import Bound, Library, aligned
from arkinfer_tvm.lower import KernelTable, Lowering
from arkinfer_tvm.program import Program
from arkinfer_tvm.stored import Stored
from arkinfer_tvm.support import RULES, supports
from tests.backends.tvm.cases import CASES, Draft
from tests.backends.tvm.rounding import round_inputs

Array = np.ndarray[Any, Any]

SCALES = {"as they are": np.dtype(np.float32), "/bf16 scales": np.dtype(ml_dtypes.bfloat16)}
"""What scales are in cases whose name has that; else float16, which the streams hold exactly."""
LIMITS = ("T", "R")
SYMBOLS = {"T": 11, "S": 37, "R": 5}


def sizes(name: str) -> tuple[int, ...]:
    """The most rows of each program of a case: kernels are chosen by it."""
    return (1, 40, 100) if "linear" in name or "product" in name else (1, 40)


@dataclass
class Bench:
    """All cases, lowered, in one library."""

    functions: dict[str, ir.Function]
    programs: dict[str, list[Program]]
    """For steps of each of `sizes`."""
    kernels: list[Kernel]
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
        stored = Stored(store, ISAS[isa].arch, functions[name])
        programs[name] = [
            Lowering(functions[name], limits, stored, table).program()
            for limits in (dict.fromkeys(LIMITS, most) for most in sizes(name))
        ]
    library = Library(build_library(table.names, isa), "libcases.so", 2, 9)
    yield Bench(functions, programs, list(table.names), store, library)
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
        self.loaded: dict[str, Any] = {}

    def load(self, weight: Weight) -> Any:
        if weight.name not in self.loaded:
            self.loaded[weight.name] = self._draw(weight)
        return self.loaded[weight.name]

    def _draw(self, weight: Weight) -> Any:
        shape = tuple(int(str(d)) for d in weight.type.shape)
        drawn = np.random.default_rng([*weight.name.encode()]).standard_normal(shape, np.float32)
        if weight.name.endswith("_scale"):
            return np.abs(drawn) / 50 + np.float32(0.01)
        if isinstance(weight.type, TensorType):
            return drawn.astype(ir.DTYPES[weight.type.dtype])
        scales = np.dtype(np.float16)
        for suffix, dtype in SCALES.items():
            if suffix in weight.name:
                scales = dtype
        return self.quantized(drawn, weight.type.scheme, scales)

    @property
    def store(self) -> CaseStore:
        return self

    def rows(self, weight: Weight, start: int, stop: int) -> Any:
        whole = self.load(weight)
        if isinstance(whole, QuantizedTensor):
            return whole.rows(slice(start, stop))
        return whole[start:stop]

    def weight(self, weight: Weight) -> dict[str, str]:
        array = self.load(weight)
        return {"": self.tensor(weight.name, "", array.shape, [array])}

    def tensor(self, name: str, dtype: str, shape: tuple[int, ...], chunks: Iterable[Array]) -> str:
        found = np.concatenate(list(chunks))
        assert found.shape == shape
        assert dtype in ("", found.dtype.name)
        self.tensors[name] = aligned(shape, found.dtype)
        self.tensors[name][...] = found
        return name


def draw(function: ir.Function, symbols: dict[str, int], seed: int) -> dict[str, Array]:
    """Inputs in aligned memory."""
    rng = np.random.default_rng(seed)
    drawn = ir.random_inputs(function, symbols, rng, high=min(9, symbols["T"]))
    given: dict[str, Array] = {}
    for value in function.inputs:
        array = drawn[value.name]
        if value.name.endswith(".scale"):  # as `cache.append` makes them of such rows
            array = rng.uniform(0.005, 0.02, array.shape).astype(np.float32)
        elif array.dtype == np.int8:
            array = rng.integers(-127, 128, array.shape, np.int8)
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
    function = bench.functions[name]
    program = bench.programs[name][0 if count == 1 else -1 if count > 3 else 1]
    symbols = {**SYMBOLS, "T": count}
    if count == 1:
        symbols["R"] = 1
    given = draw(function, symbols, count)
    caches = stored(function, program, given, symbols["S"] + count)
    expected = ir.run_function(function, round_inputs(function, given, bench.store), bench.store)
    out = aligned(expected["out"].shape, expected["out"].dtype)
    out.view(np.uint8)[...] = 0xFF  # not a number
    bound = Bound(program, bench.library, bench.store.tensors)
    ports = [("out", out), *given.items()]
    bound.run(bound.arguments(caches), symbols, ports)
    kept = program.caches[0].dtype if program.caches else ""
    tolerance = {"bfloat16": PAIRED, "int8": BYTES}.get(kept, EXACT)
    tolerance = DIGITS if "two digits" in name else tolerance
    assert close(out, expected["out"], tolerance)
    grown = [v for n, v in expected.items() if n != "out"]
    for form, cache, wanted in zip(program.caches, caches, grown, strict=True):
        np.testing.assert_array_equal(form.read(cache, np.arange(len(wanted))), wanted)


def test_rows_of_zeros_and_of_tiny_and_huge_numbers(bench: Bench) -> None:
    """Scales by token are those of the reference, bit by bit, and nothing is not a number."""
    name = "attn.dense int8 by token, size 10"
    function, program = bench.functions[name], bench.programs[name][1]
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
    assert close(out, expected["out"], BYTES)


EXACT, BYTES, DIGITS, PAIRED = 1e-5, 1e-4, 1e-4, 6e-3
"""Of the largest number: the order of sums; queries and weights in 16 bits, too, where bytes are
multiplied; activations in two digits, of whose many codes some lie on a boundary; in bfloat16,
where there is an instruction for it."""


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
def test_every_finite_16_bit_number_is_widened_exactly(
    dtype: str, isa: str, quantized: Callable[..., QuantizedTensor]
) -> None:
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
    store = CaseStore(quantized)
    store.loaded["w"] = table
    stored = Stored(store, ISAS[isa].arch, function)
    program = Lowering(function, {"T": 1 << 16}, stored, names).program()
    library = Library(build_library(names.names, isa), "libwiden.so", 1, 1)
    bound = Bound(program, library, store.tensors)
    out, tokens = aligned((1 << 16, 1), np.float32), aligned((1 << 16,), np.int64)
    tokens[:] = np.arange(1 << 16)
    bound.run(bound.arguments([]), {"T": 1 << 16}, [("out", out), ("tokens", tokens)])
    library.close()
    np.testing.assert_array_equal(out.view(np.uint32), table.astype(np.float32).view(np.uint32))


def test_kernels_write_what_they_say(
    bench: Bench, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else, or calls that run side by side would spoil each other's data."""
    made: list[tuple[Any, str]] = []
    stored: set[str] = set()
    declare, store = builder.decl_buffer, builder.buffer_store

    def declared(*given: Any, data: Any, **named: Any) -> Any:
        made.append((declare(*given, data=data, **named), getattr(data, "name", "")))
        return made[-1][0]

    def watched(buffer: Any, *rest: Any) -> Any:
        stored.update(name for each, name in made if each.same_as(buffer))
        return store(buffer, *rest)

    monkeypatch.setattr(builder, "decl_buffer", declared)
    monkeypatch.setattr(builder, "buffer_store", watched)
    for kernel in bench.kernels:
        made.clear()
        stored.clear()
        kernel.function("watched", ISAS[isa])
        taken = set(kernel.parameters())
        assert stored & taken == taken.intersection(kernel.written), kernel
