"""Executes a function of the IR with the ops' own `ref`: slow, and the meaning of everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

import numpy as np

from arkinfer.errors import InternalError
from arkinfer.ir.core import Attribute, Function, Node, Value, Weight
from arkinfer.ir.ops import op_class
from arkinfer.ir.ops.base import Array, Data, wide
from arkinfer.ir.tree import Tree, run_in_tree
from arkinfer.ir.types import (
    DTYPES,
    FLOATS,
    CacheType,
    QuantizedType,
    Sym,
    TensorType,
    Type,
    evaluate,
)

Observer: TypeAlias = Callable[[Node, list[Array]], None]


class WeightStore(Protocol):
    """Where the numbers of a weight come from."""

    def load(self, weight: Weight) -> Data:
        """The whole weight: an array of its type's dtype and shape, or a QuantizedTensor."""
        ...


def run_function(
    function: Function,
    inputs: Mapping[str, Array],
    store: WeightStore,
    *,
    dtype: Any = np.float32,
    observe: Observer | None = None,
    tree: Tree | None = None,
) -> dict[str, Array]:
    """The outputs by name.

    Args:
        function: a verified function.
        inputs: by name; shapes bind the symbols.
        store: gives weights; each is loaded when a node needs it and dropped after.
        dtype: what floats are computed in: float32, or float64 as an oracle. Caches in bf16 and
            f16 are rounded all the same: that is what they mean.
        observe: called after every node with its results.
        tree: what the tokens of the step are, if they do not follow one another; for a function
            that has no `tree.obstacle`.

    Raises:
        InternalError: an input is missing, or its shape contradicts its type.
    """
    environment: dict[Value, Array] = {}
    symbols = bind_symbols(function, inputs)
    for value in function.inputs:
        given = inputs[value.name]
        environment[value] = given.astype(dtype) if _is_wide(value.type) else given
    last_use = _last_uses(function)
    for index, node in enumerate(function.nodes):
        operands: list[Data] = []
        for operand in node.operands:
            if isinstance(operand, Value):
                operands.append(environment[operand])
            else:
                operands.append(load_wide(operand, store))
        kinds = [value.type for value in node.results]
        results = run_op(node.op, operands, node.attributes, symbols, kinds, dtype=dtype, tree=tree)
        environment.update(zip(node.results, results, strict=True))
        if observe is not None:
            observe(node, [environment[value] for value in node.results])
        for value in last_use.get(index, ()):
            del environment[value]
    return {
        name: environment[value]
        for name, value in zip(function.output_names, function.outputs, strict=True)
    }


def run_op(
    op: str,
    operands: Sequence[Data],
    attributes: Mapping[str, Attribute],
    symbols: Mapping[str, int],
    kinds: Sequence[Type],
    *,
    dtype: Any = np.float32,
    tree: Tree | None = None,
) -> list[Array]:
    """The results of one op, floats in `dtype`.

    Args:
        op: its name.
        operands: what it reads.
        attributes: all of them; symbols in them are bound by `symbols`.
        kinds: the types of the results.
        dtype, tree: as of `run_function`.
    """
    bound = {name: _bound(value, symbols) for name, value in attributes.items()}
    results = None if tree is None else run_in_tree(op, operands, bound, tree)
    if results is None:
        results = op_class(op).ref(operands, bound)
    return [
        result.astype(dtype, copy=False) if _is_wide(kind) else result
        for kind, result in zip(kinds, results, strict=True)
    ]


def load_wide(weight: Weight, store: WeightStore) -> Data:
    """A weight as ops read it: floats in at least 32 bits."""
    loaded = store.load(weight)
    return wide(loaded) if isinstance(loaded, np.ndarray) else loaded


def bind_symbols(function: Function, inputs: Mapping[str, Array]) -> dict[str, int]:
    """The value of every symbol, from the shapes of the inputs."""
    symbols: dict[str, int] = {}
    for value in function.inputs:
        if value.name not in inputs:
            raise InternalError(f"@{function.name} needs the input {value.name}")
        given = inputs[value.name]
        if given.ndim != len(value.type.shape):
            raise InternalError(f"{value.name} is {value.type}, not of shape {given.shape}")
        for d, size in zip(value.type.shape, given.shape, strict=True):
            if isinstance(d, Sym) and len(d.terms) == 1 and d.terms[0][1] == 1 and not d.constant:
                symbols.setdefault(d.terms[0][0], size)
    for value in function.inputs:
        shape = tuple(evaluate(d, symbols) for d in value.type.shape)
        if shape != inputs[value.name].shape:
            raise InternalError(
                f"{value.name} is {value.type} with {symbols}, not of shape "
                f"{inputs[value.name].shape}"
            )
    return symbols


def _bound(attribute: Attribute, symbols: Mapping[str, int]) -> Any:
    if isinstance(attribute, tuple):
        return tuple(_bound(cast(Attribute, item), symbols) for item in attribute)
    return evaluate(attribute, symbols) if isinstance(attribute, Sym) else attribute


def _is_wide(kind: Type) -> bool:
    """Whether its numbers are in what floats are computed in; a narrow cache stays as it is."""
    if isinstance(kind, CacheType):
        return kind.dtype == "f32"
    return getattr(kind, "dtype", "") in FLOATS


def _last_uses(function: Function) -> dict[int, list[Value]]:
    """Which values die after which node; outputs never do."""
    last: dict[Value, int] = {}
    for index, node in enumerate(function.nodes):
        for value in [*node.values, *node.results]:
            last[value] = index
    dying: dict[int, list[Value]] = {}
    for value, index in last.items():
        if value not in function.outputs:
            dying.setdefault(index, []).append(value)
    return dying


def random_inputs(
    function: Function, symbols: Mapping[str, int], rng: np.random.Generator, *, high: int = 8
) -> dict[str, Array]:
    """Normal floats and integers in [0, high) of every input's shape."""
    return {v.name: _random(v, symbols, rng, high) for v in function.inputs}


def _random(value: Value, symbols: Mapping[str, int], rng: np.random.Generator, high: int) -> Array:
    shape = tuple(evaluate(d, symbols) for d in value.type.shape)
    if isinstance(value.type, QuantizedType):
        raise InternalError(f"%{value.name} is {value.type}, which only a weight can be")
    dtype = DTYPES[value.type.dtype]
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, high, shape, dtype=dtype)
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)


class RandomWeights:
    """A store of seeded random weights, for proofs and tests; the same name, the same numbers."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def load(self, weight: Weight) -> Data:
        if not isinstance(weight.type, TensorType):
            raise InternalError(f"@{weight.name} is quantized; random weights are not")
        key = [self._seed, *weight.name.encode()]
        shape = tuple(evaluate(d, {}) for d in weight.type.shape)
        drawn = np.random.default_rng(key).standard_normal(shape, dtype=np.float32)
        return drawn.astype(DTYPES[weight.type.dtype])
