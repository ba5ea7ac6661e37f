"""Measures how much of a model quantization takes: both are run on one text, token by token.

The graph as it was traced is computed in three streams: with the checkpoint's weights; with the
weights as the artifact has them; and, in each layer anew, with those on the input of the first.
The third says what a layer's own matrices cost. Knows no backend and no method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.compiler.effective import SourceWeights
from arkinfer.compiler.text_pass import FewRows
from arkinfer.compiler.weights import BLOCK, elements_per_row, rows_of
from arkinfer.quality.layers import Layered, Stream, first_values, layered, run
from arkinfer.quality.report import LayerError, Quality

Floats: TypeAlias = npt.NDArray[np.float64]
Array: TypeAlias = npt.NDArray[Any]

LEAST, MOST = 32, 512
"""Tokens that are read, if the text has as many."""
WORK = 1e11
"""Multiplications of one stream that are a reason to read fewer."""
_ROWS = 128
"""Tokens whose logits are in memory at a time, twice."""

SOURCE, STORED = 0, 1


def token_count(work: int, available: int) -> int:
    """How many tokens of a text are read.

    Args:
        work: multiplications with matrices for one token.
        available: tokens of the text, and what the model's context holds.

    >>> token_count(360_000_000, 4000), token_count(7_600_000_000, 4000), token_count(10**6, 200)
    (277, 32, 200)
    """
    return min(available, MOST, max(LEAST, int(WORK / work)))


def measure(
    traced: ir.Module,
    source: SourceWeights,
    stored: SourceWeights,
    tokens: Sequence[int],
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Quality:
    """What the model loses on a text.

    Args:
        traced: as `frontend.trace` gives it.
        source: the checkpoint's weights.
        stored: the same as the artifact has them.
        tokens: what is read, from an empty cache; at least two.
        on_done: told how many multiplications are done, and how many there are.
    """
    from threadpoolctl import threadpool_limits

    parts = layered(ir.parse_module(ir.print_module(traced)))
    ids, places = np.unique(np.asarray(tokens, np.int64), return_inverse=True)
    tables = {w.name for n in parts.before.nodes if n.op == "nn.embedding" for w in n.weights}
    stores = [FewRows(weights, tables, ids) for weights in (source, stored)]
    with threadpool_limits(limits=1, user_api="blas"):  # more add in another order: other bytes
        hidden, layers = _layers(parts, stores, places.reshape(-1), on_done)
        scores = _Scores(np.asarray(tokens, np.int64))
        for start in range(0, len(tokens), _ROWS):
            rows = slice(start, start + _ROWS)
            few = [h[rows] for h in hidden]
            exact, found = _logits(parts.head, source, few[0]), _logits(parts.head, stored, few[1])
            scores.add(start, exact, found)
    return scores.quality(layers)


def work_of(traced: ir.Module) -> int:
    """Multiplications with matrices for one token, the head's apart."""
    step = traced.functions["step"]
    linears = [node.weights[0] for node in step.nodes if node.op == "nn.linear" and node.weights]
    return sum(rows_of(w) * elements_per_row(w) for w in linears[:-1])  # the last is the head


def _layers(
    parts: Layered,
    stores: Sequence[ir.WeightStore],
    tokens: Array,
    on_done: Callable[[int, int], None],
) -> tuple[list[Array], list[LayerError]]:
    """What the head multiplies, of both models, and the errors of all layers."""
    values, symbols = first_values(parts, tokens)
    streams = [Stream(SOURCE, values), Stream(STORED, dict(values))]
    run(parts.before, streams, stores, symbols)
    linears = [n for part in parts.layers for n in part.nodes if n.op == "nn.linear"]
    total = 3 * len(tokens) * sum(map(_size, linears))
    done = 0

    def count(node: ir.Node) -> None:
        nonlocal done
        if node.op == "nn.linear":
            done += 3 * len(tokens) * _size(node)
            on_done(done, total)

    errors: list[LayerError] = []
    for part in parts.layers:
        probe = streams[SOURCE].fork(STORED)
        run(part, [*streams, probe], stores, symbols, count)
        exact, own, whole = (each.values[part.result] for each in (streams[0], probe, streams[1]))
        errors.append(LayerError(part.path, _distance(own, exact), _distance(whole, exact)))
    run(parts.after, streams, stores, symbols)
    return [stream.values[parts.after.result] for stream in streams], errors


def _size(node: ir.Node) -> int:
    return rows_of(node.weights[0]) * elements_per_row(node.weights[0])


def _distance(found: Array, exact: Array) -> float:
    """|found - exact| / |exact| of a row, the mean over all rows."""
    apart = np.linalg.norm(found.astype(np.float64) - exact, axis=-1)
    length = np.linalg.norm(exact.astype(np.float64), axis=-1)
    return float(np.mean(apart / np.maximum(length, 1e-30)))


def _logits(head: ir.Weight, weights: SourceWeights, hidden: Array) -> Array:
    """[rows, V], a block of the head's rows at a time."""
    count = rows_of(head)
    found = np.empty((len(hidden), count), np.float32)
    step = max(1, BLOCK // elements_per_row(head))
    for start in range(0, count, step):
        stop = min(start + step, count)
        found[:, start:stop] = hidden @ weights.rows(head, start, stop).T
    return found


class _Scores:
    """What is kept of the logits of both models, position by position."""

    def __init__(self, tokens: npt.NDArray[np.int64]) -> None:
        self._next = tokens[1:]
        self._kl: list[float] = []
        self._agree = 0
        self._likelihood = [0.0, 0.0]

    def add(self, start: int, source: Array, stored: Array) -> None:
        for row, (a, b) in enumerate(zip(source, stored, strict=True)):
            p, q = _log_softmax(a), _log_softmax(b)
            self._kl.append(max(0.0, float(np.exp(p) @ (p - q))))
            self._agree += int(a.argmax() == b.argmax())
            if start + row < len(self._next):
                token = self._next[start + row]
                self._likelihood[SOURCE] += float(p[token])
                self._likelihood[STORED] += float(q[token])

    def quality(self, layers: Sequence[LayerError]) -> Quality:
        kl, count = np.asarray(self._kl), len(self._next)
        perplexities = [float(np.exp(-total / count)) for total in self._likelihood]
        return Quality(
            tokens=len(kl),
            source_perplexity=perplexities[SOURCE],
            perplexity=perplexities[STORED],
            mean_kl=float(kl.mean()),
            p99_kl=float(np.quantile(kl, 0.99)),
            same_top1=self._agree / len(kl),
            layers=tuple(layers),
        )


def _log_softmax(logits: Array) -> Floats:
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return wide - np.log(np.exp(wide).sum())
