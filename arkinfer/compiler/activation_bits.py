"""Which products need more than 8 bits of their input: measured, one by one, on a small text.

Beside a channel that is much larger than others, the inputs that share its scale keep a few bits
only. That costs nothing where the matrix has weights for that channel as for others, and most of
the product where these are as much smaller. So the product is measured, not its input alone. Knows
no backend and no file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.compiler.cache import Cache, arithmetic, code_of, key_of
from arkinfer.compiler.options import ACTIVATIONS
from arkinfer.compiler.text_pass import over_text, text_tokens, unquantized
from arkinfer.compiler.weights import Leaves, WeightStore, elements_per_row, rows_of
from arkinfer.errors import InternalError
from arkinfer.packing import QuantizedTensor

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint

Array = npt.NDArray[np.float32]

INT8, INT16 = "int8", "int16"

CODE = (
    "ir", "packing",
    *(f"compiler/{name}.py" for name in ("activation_bits", "text_pass", "weights")),
)  # fmt: skip
"""Packages and files that errors are computed by."""

LIMIT = 0.02
"""The largest error with 8 bits that is let pass.

Measured on the demo model, in groups of 128, whatever the weights are rounded to: 0.3 to 1.5 % (the
largest in `down_proj`, whose input has outliers of its own), which costs a mean KL divergence of
0.0006; with massive activations on its first token the same, since these are one row of many. With
channels that are 8 to 32 times as large as the others (`recipes/demo/plant.py`): 4 to 16 % behind
norms, 0.7 to 5 % elsewhere, and a KL of 0.03, of which 0.0013 is left with this limit. Normally
distributed inputs have 0.7 %, those of `down_proj` in random models 1.4 %."""

BLOCK_OF_INPUTS = 128
"""The most inputs that share a scale, where the matrix has longer groups."""

LEAST, MOST = 32, 256
"""Tokens that are run, if the text has as many."""
WORK = 2.5e10
"""Multiplications that are a reason to run fewer."""
ROWS = 32
"""Of them, spread evenly, those whose products are measured."""


@dataclass(frozen=True)
class Product:
    """What was found about one product.

    Attributes:
        matrix: the name of its weight.
        error: |(round(x) - x) W| / |x W| with 8 bits, a mean over rows of x; 1 at most.
        activations: what it takes, as a user calls it, on a backend that has a choice.
    """

    matrix: str
    error: float
    activations: str


def token_count(work: int, available: int) -> int:
    """How many tokens of a text are run.

    Args:
        work: multiplications with matrices for one token.
        available: tokens of the text, and what the model's context holds.

    >>> token_count(5_400_000, 4000), token_count(360_000_000, 4000), token_count(10**10, 4000)
    (256, 69, 32)
    """
    return min(available, MOST, max(LEAST, int(WORK / max(1, work))))


def work_of(module: ir.Module) -> int:
    """Multiplications with matrices for one token, the head's apart."""
    linears = [n.weights[0] for n in module.nodes() if n.op.endswith(".linear")]
    return sum(rows_of(w) * elements_per_row(w) for w in linears[:-1])  # the last is the head


def measured(
    module: ir.Module,
    leaves: Leaves,
    checkpoint: Checkpoint,
    facts: Mapping[str, str | int],
    cache: Cache,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Product, ...]:
    """What was found about each product with a quantized matrix, in order of execution.

    Args:
        module: fused and quantized, its caches float; attributes `context` and `vocab_size`.
        leaves: the build's.
        checkpoint: its tokenizer; its digest stands for the numbers.
        facts: what `leaves` depend on beyond it.
        cache: may have the answer.
        on_progress: told how many of how many matrices were worked through.

    Raises:
        CheckpointError: the tokenizer is missing, or gives ids that the model has not; or weights
            cannot be read.
    """
    text = text_tokens(checkpoint, cast(int, module.attributes["vocab_size"]))
    available = min(len(text), cast(int, module.attributes["context"]))
    tokens = text[: token_count(work_of(module), available)]
    key = key_of(
        "calibrations",
        code_of(*CODE),
        arithmetic(),
        checkpoint.source_digest(),
        ir.print_module(module),
        json.dumps(facts),
        repr(tokens),
    )
    kept = cache.get(key)
    errors: dict[str, float]
    if kept is not None:
        errors = json.loads(bytes(kept))
    else:
        errors = rounding_errors(module, leaves, tokens, on_progress)
        cache.put(key, [json.dumps(errors).encode()])
    more = needy(module, errors)
    return tuple(Product(m, error, INT16 if m in more else INT8) for m, error in errors.items())


def needy(module: ir.Module, errors: Mapping[str, float]) -> set[str]:
    """The matrices whose products want 16 bits.

    All that multiply one value count alike, by the largest error: it is rounded once for them all,
    and what is fused, as gate and up, must want the same.
    """
    largest: dict[ir.Value, float] = {}
    for node in _products(module):
        error = errors.get(node.weights[0].name, 0.0)
        largest[node.values[0]] = max(error, largest.get(node.values[0], 0.0))
    return {n.weights[0].name for n in _products(module) if largest[n.values[0]] > LIMIT}


def set_bits(module: ir.Module, matrices: Collection[str]) -> bool:
    """Asks for 16 bits at the products with these matrices; says whether there are any."""
    found = [node for node in _products(module) if node.weights[0].name in matrices]
    for node in found:
        node.attributes["activations"] = ACTIVATIONS[INT16]
    return bool(found)


def _products(module: ir.Module) -> list[ir.Node]:
    return [node for node in module.functions["step"].nodes if node.op == "quant.linear"]


# --- measuring ---


def rounding_errors(
    module: ir.Module,
    leaves: Leaves,
    tokens: Sequence[int],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """The errors of all products with quantized matrices over some tokens; of a module as of
    `measured`."""
    probe = unquantized(module)
    step = probe.functions["step"]
    stored, dense = WeightStore(module.weights, leaves), _Wide(WeightStore(probe.weights, leaves))
    pairs = zip(module.functions["step"].nodes, step.nodes, strict=True)
    asked = {
        twin: _Rounding.of(node.weights[0], stored)
        for node, twin in pairs
        if node.op == "quant.linear"
    }
    head = _without_head(step)
    rows = np.linspace(0, len(tokens) - 1, min(ROWS, len(tokens))).round().astype(np.int64)
    watch = _Watch(asked, dense, rows)
    with np.errstate(all="ignore"):  # what is not finite, whoever quantizes it will name
        outputs = over_text(
            step, tokens, dense, rows.tolist(), observe=watch, on_progress=on_progress
        )
        if head in asked:
            x, how = outputs["hidden"], asked[head]
            lost = how.lost(x)
            pairs = [(lost @ block.T, x @ block.T) for block in dense.blocks(head.weights[0])]
            watch.note(how, *(np.concatenate(parts, axis=1) for parts in zip(*pairs, strict=True)))
    return watch.errors


def _without_head(step: ir.Function) -> ir.Node:
    """Takes the product that gives the logits off, whose matrix is by far the largest."""
    logits = step.outputs[step.output_names.index("logits")]
    head = logits.producer
    if head is None or head.op != "nn.linear" or not head.weights:
        raise InternalError("The logits do not come from a linear")
    step.nodes.remove(head)
    step.outputs, step.output_names = [head.values[0]], ["hidden"]
    return head


@dataclass(frozen=True)
class _Rounding:
    """How the input of a product is rounded to 8 bits.

    Attributes:
        matrix: the name of its weight.
        group: of the weight.
        order: of the inputs in groups, int [K]; None: as they are.
    """

    matrix: str
    group: int
    order: npt.NDArray[Any] | None

    @classmethod
    def of(cls, weight: ir.Weight, store: WeightStore) -> _Rounding:
        scheme = cast(ir.QuantizedType, weight.type).scheme
        order = None
        if scheme.act_order:
            order = cast(QuantizedTensor, store.rows(weight, 0, 1)).order
        return cls(weight.name, scheme.group_size(elements_per_row(weight)), order)

    def lost(self, x: Array) -> Array:
        """What is lost of each number, [rows, K]. Parts of long groups are about as long as those
        that backends choose."""
        given = x if self.order is None else x[:, self.order]
        groups = given.reshape(-1, self.group)
        lost = np.empty_like(groups)
        share = -(-self.group // -(-self.group // BLOCK_OF_INPUTS))
        for start in range(0, self.group, share):
            part = groups[:, start : start + share]
            scale = np.maximum(np.abs(part).max(axis=1, keepdims=True) / 127, np.float32(2.0**-120))
            lost[:, start : start + share] = np.rint(part / scale) * scale - part
        found = np.empty_like(x)
        found[:, slice(None) if self.order is None else self.order] = lost.reshape(x.shape)
        return found


class _Watch:
    """Measures each product as soon as it was computed.

    Args:
        asked: the products that are measured.
        store: what they are computed with.
        rows: of the inputs.

    Attributes:
        errors: by matrix; see `Product`.
    """

    def __init__(self, asked: Mapping[ir.Node, _Rounding], store: _Wide, rows: Any) -> None:
        self._asked, self._store, self._rows = asked, store, rows
        self._users = Counter(node.values[0] for node in asked)
        self._inputs: dict[ir.Value, Array] = {}
        self.errors: dict[str, float] = {}

    def __call__(self, node: ir.Node, results: list[Array]) -> None:
        matrix, self._store.last = self._store.last, None
        if node in self._asked and matrix is not None:
            value, how = node.values[0], self._asked[node]
            self.note(
                how, how.lost(self._inputs[value]) @ matrix.T, self._few(node.result, results[0])
            )
            self._users[value] -= 1
            if not self._users[value]:
                del self._inputs[value]
        for value, result in zip(node.results, results, strict=True):
            if self._users[value]:
                self._inputs[value] = self._few(value, result)

    def _few(self, value: ir.Value, numbers: Array) -> Array:
        """The rows that are measured; behind `rows`, no others are left."""
        return numbers if value.type.shape[0] == ir.dim("R") else numbers[self._rows]

    def note(self, how: _Rounding, lost: Array, product: Array) -> None:
        """Takes what a product loses, and the product, [rows, N]."""
        length = np.linalg.norm(product.astype(np.float64), axis=1)
        error = np.linalg.norm(lost.astype(np.float64), axis=1) / np.maximum(length, 1e-30)
        mean = np.minimum(np.nan_to_num(error, nan=1.0), 1.0).mean()
        known = self.errors.get(how.matrix, 0.0)
        self.errors[how.matrix] = max(known, float(f"{mean:.3g}"))


class _Wide:
    """Dense matrices in float32, made by blocks.

    Attributes:
        last: the matrix that was loaded last, until somebody takes it away.
    """

    def __init__(self, store: WeightStore) -> None:
        self._store = store
        self.last: Array | None = None

    def load(self, weight: ir.Weight) -> Any:
        if len(weight.type.shape) != 2:
            return self._store.load(weight)
        whole = np.empty(cast("tuple[int, int]", weight.type.shape), np.float32)
        start = 0
        for block in self.blocks(weight):
            whole[start : start + len(block)] = block
            start += len(block)
        self.last = whole
        return whole

    def rows(self, weight: ir.Weight, start: int, stop: int) -> Any:
        return self._store.rows(weight, start, stop)

    def blocks(self, weight: ir.Weight) -> Iterator[Array]:
        for block in self._store.blocks(weight):
            yield cast(Array, block).astype(np.float32)
