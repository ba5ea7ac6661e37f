"""Executes what a fusion replaces and what it puts there on random inputs, and compares.

Knows no particular fusion. Symbols get small sizes, fixed dims are real, and a proof is kept by
the text of both sides with canonical names, so that the layers of a model cost one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np

from arkinfer import ir
from arkinfer.errors import ArkError
from arkinfer.ir import (
    DTYPES,
    Derived,
    Function,
    Module,
    Node,
    Operand,
    QuantizedType,
    Sym,
    TensorType,
    Value,
    Weight,
)
from arkinfer.ir.types import symbols_of
from arkinfer.packing import QuantizedTensor, encode

TOLERANCE = 1e-5
"""Of the largest magnitude along the last axis, in float32."""

SMALLEST = 8
"""Size of the first symbol, the next gets one more: no two are equal, and every random integer
is a valid row of everything."""


def refutation(
    old: Sequence[Node],
    new: Sequence[Node],
    results: Mapping[Value, Value],
    weights: Mapping[str, Weight],
    inputs: Mapping[Value, Value] | None = None,
) -> str | None:
    """Why two subgraphs do not compute the same; None: they agree on random inputs.

    Args:
        old: nodes in execution order.
        new: likewise; they read what the old ones read.
        results: a value that the old nodes make -> what replaces it.
        weights: of the module, to know what a derived weight comes from.
        inputs: a value that the new nodes read -> what the old nodes read in its place, for an
            input that becomes a cache.
    """
    names = _Names(weights)
    names.read(old, new, inputs or {})
    before = names.function("before", old, list(results), {})
    after = names.function("after", new, list(results.values()), inputs or {})
    module = Module({"before": before, "after": after}, names.weights)
    return _difference(ir.print_module(module))


class _Names:
    """Canonical copies: inputs x0, x1 …, weights w0, w1 … in the order of their first use."""

    def __init__(self, declared: Mapping[str, Weight]) -> None:
        self.weights: dict[str, Weight] = {}
        self._declared = declared
        self._known: dict[str, Weight] = {}
        self._inputs: list[Value] = []
        self._symbols: list[str] = []

    def read(
        self, old: Sequence[Node], new: Sequence[Node], aliases: Mapping[Value, Value]
    ) -> None:
        nodes = [*old, *new]
        made = {value for node in nodes for value in node.results}
        free = [aliases.get(v, v) for node in nodes for v in node.values if v not in made]
        self._inputs = list(dict.fromkeys(free))
        types = [v.type for node in nodes for v in (*node.values, *node.results)]
        found = {s for kind in types for s in symbols_of(kind.shape)}
        for node in nodes:
            for value in node.attributes.values():
                parts = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
                found |= {name for p in parts if isinstance(p, Sym) for name, _ in p.terms}
        self._symbols = sorted(found)
        tables = _tables(nodes)
        for node in nodes:
            for weight in node.weights:
                self._weight(weight, weight.name in tables)

    def _weight(self, weight: Weight, is_table: bool) -> Weight:
        if weight.name not in self._known:
            source, kind = self._source(weight, is_table), weight.type
            if is_table:  # rows that no token reads prove nothing
                kind = _with_rows(kind, SMALLEST)
            named = Weight(f"w{len(self._known)}", kind, source)
            self._known[weight.name] = self.weights[named.name] = named
        return self._known[weight.name]

    def _source(self, weight: Weight, is_table: bool) -> Derived | None:
        """The rule of a weight; what is quantized by one is a random matrix, quantized."""
        if weight.source is None:
            return None
        if isinstance(weight.type, QuantizedType) and weight.source.rule != "concat":
            return None
        parts = [self._weight(self._declared[name], is_table) for name in weight.source.inputs]
        names = tuple(part.name for part in parts)
        return Derived(weight.source.rule, names, weight.source.attributes)

    def function(
        self,
        name: str,
        nodes: Sequence[Node],
        results: Sequence[Value],
        aliases: Mapping[Value, Value],
    ) -> Function:
        """A copy. An input keeps the type that this side has it in."""
        ours = {alias: value for value, alias in aliases.items()}
        copies: dict[Value, Value] = {}
        inputs: list[Value] = []
        for index, value in enumerate(self._inputs):
            copy = Value(ours.get(value, value).type, f"x{index}")
            copies[value] = copies[ours.get(value, value)] = copy
            inputs.append(copy)
        for symbol in self._symbols:  # so that every symbol is bound, whatever the inputs are
            inputs.append(Value(TensorType("i64", (ir.dim(symbol),)), f"length_{symbol}"))
        body: list[Node] = []
        for node in nodes:
            operands: list[Operand] = [
                self._known[o.name] if isinstance(o, Weight) else copies[o] for o in node.operands
            ]
            made = [Value(value.type) for value in node.results]
            copies.update(zip(node.results, made, strict=True))
            body.append(Node(node.op, operands, dict(node.attributes), made))
        outputs = [copies[value] for value in results]
        return Function(name, inputs, body, outputs, [f"y{i}" for i in range(len(outputs))])


def _tables(nodes: Iterable[Node]) -> set[str]:
    """Weights that only embeddings read."""
    tables: set[str] = set()
    others: set[str] = set()
    for node in nodes:
        is_embedding = node.op in ("nn.embedding", "quant.embedding")
        (tables if is_embedding else others).update(w.name for w in node.weights)
    return tables - others


def _with_rows(kind: TensorType | QuantizedType, rows: int) -> TensorType | QuantizedType:
    if isinstance(kind, QuantizedType):
        return QuantizedType(kind.scheme, (rows, kind.shape[1]))
    return TensorType(kind.dtype, (rows, *kind.shape[1:]))


@lru_cache(maxsize=1024)
def _difference(text: str) -> str | None:
    """Executes both functions of a module; None: they agree."""
    module = ir.parse_module(text)
    before, after = module.functions["before"], module.functions["after"]
    store = _Weights(module)
    try:
        ir.verify_module(module)
        with np.errstate(all="ignore"):
            expected = ir.run_function(before, _inputs(before), store)
            found = ir.run_function(after, _inputs(after), store)
    except (ArkError, ValueError, IndexError) as error:
        return f"it cannot be proven: executing it fails, {error}"
    for name, wanted in expected.items():
        got = found[name]
        if got.shape != wanted.shape:
            return f"the proof failed: {list(wanted.shape)} became {list(got.shape)}"
        bound = TOLERANCE * np.abs(wanted).max(axis=-1, keepdims=True, initial=0)
        excess = np.abs(got - wanted) - bound
        if not np.all(excess <= 0):  # false for NaN, too
            worst = float(np.nanmax(np.abs(got - wanted))) if not np.isnan(excess).all() else 0.0
            return f"the proof failed: executing both sides gives results {worst:.3g} apart"
    return None


def _inputs(function: Function) -> dict[str, Any]:
    """Normal floats, and integers below `SMALLEST`; the same for both functions.

    Rows are of magnitudes 1, 0.1, 0.01 and 0.001, so that an epsilon has something to do.
    """
    lengths = [v.name for v in function.inputs if v.name.startswith("length_")]
    symbols = {name.removeprefix("length_"): SMALLEST + i for i, name in enumerate(lengths)}
    drawn = ir.random_inputs(function, symbols, np.random.default_rng(7), high=SMALLEST)
    for array in drawn.values():
        if array.dtype.kind == "f" and array.ndim:
            steps = 10.0 ** -(np.arange(len(array)) % 4)
            array *= steps.reshape(-1, *[1] * (array.ndim - 1)).astype(array.dtype)
    return drawn


class _Weights:
    """Random weights; derived ones follow their rule."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._random = ir.RandomWeights(7)

    def load(self, weight: Weight) -> Any:
        if weight.source is None:
            if isinstance(weight.type, QuantizedType):
                return self._quantized(weight, weight.type)
            return self._random.load(weight)
        parts = [self.load(self._module.weights[name]) for name in weight.source.inputs]
        options = dict(weight.source.attributes)
        if weight.source.rule == "concat":
            quantized = isinstance(weight.type, QuantizedType)
            return QuantizedTensor.concatenate(parts) if quantized else np.concatenate(parts)
        if weight.source.rule == "scale":
            return parts[0].astype(np.float32) * np.float32(cast(float, options["by"]))
        return parts[0].astype(DTYPES[cast(TensorType, weight.type).dtype])

    def _quantized(self, weight: Weight, kind: QuantizedType) -> QuantizedTensor:
        """Any codes, so that every scheme can be had; about as large as the dense ones."""
        scheme, (rows, columns) = kind.scheme, kind.shape
        rng = np.random.default_rng([7, *weight.name.encode()])
        size = scheme.group_size(columns)
        groups, values = (rows, columns // size), 1 << scheme.bits
        codes = rng.integers(0, values, (*groups, size), dtype=np.uint8)
        scale = (rng.uniform(2, 4, groups) / values).astype(np.float32)
        least = -scale * np.float32(values // 2)
        return encode(
            scheme,
            codes,
            scale,
            zero=rng.integers(0, values, groups, dtype=np.uint8)
            if scheme.offset == "zero"
            else None,
            min=least if scheme.offset == "min" else None,
            order=rng.permutation(columns).astype(np.int32) if scheme.act_order else None,
        )
