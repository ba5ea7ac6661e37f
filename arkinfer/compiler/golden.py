"""Golden vectors: what the model answers, computed beside all passes and backends.

The graph as it was traced is interpreted on a built-in text, once with the checkpoint's weights
and once with these as the artifact has them. Knows no backend; `arkinfer.verify.golden` replays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.artifact import ArtifactWriter
from arkinfer.compiler.cache import Cache, arithmetic, code_of, key_of
from arkinfer.compiler.effective import EffectiveWeights, SourceWeights, Stored, places
from arkinfer.compiler.prepare import Prepared, used_weights
from arkinfer.compiler.text_pass import FewRows, text_tokens
from arkinfer.compiler.twins import Twin, twins
from arkinfer.compiler.weights import BLOCK, WeightStore, elements_per_row, rows_of
from arkinfer.errors import InternalError
from arkinfer.verify.fingerprint import fingerprint

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint

Array = npt.NDArray[Any]
OnDone = Callable[[int, int], None]

CODE = (
    "ir", "packing", "models", "frontend", "verify/fingerprint.py",
    *(f"compiler/{name}.py" for name in ("effective", "golden", "text_pass", "twins", "weights")),
)  # fmt: skip
"""Packages and files that golden vectors are computed by."""

FORMAT = 1
SHORT = 16
"""Tokens of the short prompt, all of which are compared; the long one goes on where it ends."""
LONG = 512
TYPICAL = 280
"""Tokens of the built-in text by a usual tokenizer."""
POSITIONS = 16
"""Of the long prompt, spread over it, the last one among them."""
TOP = 64
"""Logits that are kept of each position."""
WORK = 4e11
"""Multiplications that one pass may take: 52 tokens of an 8B model, half a minute."""


def kept_vectors(
    artifact: ArtifactWriter,
    checkpoint: Checkpoint,
    prepared: Prepared,
    cache: Cache,
    on_done: OnDone,
) -> bytes:
    """`golden_vectors`, from the cache where an earlier build had the same graph and weights."""
    graphs = [prepared.traced, *(lowered.module for lowered in prepared.lowered)]
    key = key_of(
        "golden",
        code_of(*CODE),
        arithmetic(),
        checkpoint.source_digest(),
        *(ir.print_module(graph) for graph in graphs),
        *(lowered.compiler.name for lowered in prepared.lowered),
        json.dumps(artifact.weight_digests()),
    )
    found = cache.get(key)
    if found is not None:
        return bytes(found)
    made = golden_vectors(artifact, checkpoint, prepared, on_done)
    cache.put(key, [made])
    return made


def golden_vectors(
    artifact: ArtifactWriter, checkpoint: Checkpoint, prepared: Prepared, on_done: OnDone
) -> bytes:
    """The entry golden.json.

    Args:
        artifact: being written, with all its weights.
        checkpoint: its tokenizer.
        prepared: the graph as traced, and as compiled.
        on_done: told how many multiplications are done, and how many there are.

    Raises:
        CheckpointError: the tokenizer is missing, or gives ids that the model has not.
    """
    from threadpoolctl import threadpool_limits

    module = prepared.module
    probe = Probe(prepared.traced)
    text = text_tokens(checkpoint, cast(int, module.attributes["vocab_size"]))
    long = text[: long_length(probe.work, prepared.context, len(text))]
    short = long[:SHORT]
    positions = chosen_positions(len(short), len(long))
    stored = Stored(artifact, WeightStore(module.weights, prepared.leaves))
    where = places(used_weights([module]), module.weights)
    effective = EffectiveWeights(prepared.leaves, stored, where)
    total = probe.work * (len(short) + len(long))
    wanted = {
        lowered.compiler.name: twins(lowered.module, probe.step) for lowered in prepared.lowered
    }
    seen = {value for found in wanted.values() for twin in found.values() for value in twin.values}
    watch = Watch(seen, len(short) - 1, positions)
    with threadpool_limits(limits=1, user_api="blas"):  # more add in another order: other bytes
        source = probe.run(
            short,
            chosen_positions(len(short), len(short)),
            SourceWeights(prepared.source),
            lambda done: on_done(done, total),
        )
        before = probe.work * len(short)
        reference = probe.run(
            long, positions, effective, lambda done: on_done(before + done, total), watch
        )
    split = len(short)
    answers = [
        _answer("reference", "short", positions[:split], reference[:split]),
        _answer("source", "short", positions[:split], source),
    ]
    if len(long) > split:
        answers.insert(1, _answer("reference", "long", positions[split:], reference[split:]))
    facts = {
        "format": FORMAT,
        "prompts": {"short": short, **({"long": long} if len(long) > split else {})},
        "answers": answers,
        "values": {
            name: [_value(value, twin, watch.rows) for value, twin in found.items()]
            for name, found in wanted.items()
        },
    }
    return json.dumps(facts, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def long_length(work: int, context: int, text: int) -> int:
    """Tokens of the long prompt.

    >>> long_length(7_600_000_000, 32768, 280), long_length(360_000_000, 8192, 280)
    (52, 280)
    """
    return max(1, min(LONG, context, text, max(SHORT, int(WORK / work))))


def chosen_positions(short: int, long: int) -> list[int]:
    """All of the short prompt, and some of the rest of the long one."""
    rest = np.linspace(short, long - 1, min(POSITIONS, long - short)).round().astype(int)
    return [*range(short), *rest.tolist()]


def predicted_bytes(values: int, vocab_size: int) -> int:
    """The size of the entry, for a long prompt of usual length.

    Args:
        values: that have fingerprints, over all sections.
        vocab_size: of the model.
    """
    row = TOP * (len(str(vocab_size)) + 8) + 70
    return (2 * SHORT + POSITIONS) * row + values * 112 + 6 * TYPICAL


@dataclass
class Watch:
    """Keeps what some values of a pass are at one position.

    Attributes:
        values: which ones.
        position: of the prompt.
        positions: those that have logits.
        rows: what was kept.
    """

    values: set[ir.Value]
    position: int
    positions: Sequence[int]

    def __post_init__(self) -> None:
        self.rows: dict[ir.Value, Array] = {}

    def __call__(self, node: ir.Node, results: list[Array]) -> None:
        for value, result in zip(node.results, results, strict=True):
            if value in self.values:
                few = value.type.shape[0] == ir.dim("R")
                row = list(self.positions).index(self.position) if few else self.position
                self.rows[value] = result[row].copy()


class Probe:
    """A traced module without its head, which is applied to some positions by blocks of rows.

    Attributes:
        step: the function.
        work: multiplications of one token, without those of attention and head.
    """

    def __init__(self, traced: ir.Module) -> None:
        own = ir.parse_module(ir.print_module(traced))
        self.step = own.functions["step"]
        logits = self.step.outputs[self.step.output_names.index("logits")]
        head = logits.producer
        if head is None or head.op != "nn.linear" or not head.weights:
            raise InternalError("The logits do not come from a linear")
        self._head = head.weights[0]
        self.step.nodes.remove(head)
        self.step.outputs, self.step.output_names = [head.values[0]], ["hidden"]
        linears = [w for n in self.step.nodes if n.op == "nn.linear" for w in n.weights]
        self.work = sum(rows_of(w) * elements_per_row(w) for w in linears)
        self._tables = {n.weights[0].name for n in self.step.nodes if n.op == "nn.embedding"}

    def run(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        weights: SourceWeights,
        on_done: Callable[[int], None],
        watch: Watch | None = None,
    ) -> npt.NDArray[np.float32]:
        """Teacher-forced logits of some positions, float32 [len(positions), vocab]."""
        ids, at = np.unique(np.asarray(tokens, np.int64), return_inverse=True)
        inputs: dict[str, Array] = {"tokens": at.reshape(-1), "rows": np.asarray(positions)}
        for value in self.step.inputs[2:]:
            inputs[value.name] = np.zeros((0, *cast("tuple[int, ...]", value.type.shape[1:])), "f4")
        done = 0

        def observe(node: ir.Node, results: list[Array]) -> None:
            nonlocal done
            if watch is not None:
                watch(node, results)
            if node.op == "nn.linear":
                done += len(tokens) * rows_of(node.weights[0]) * elements_per_row(node.weights[0])
                on_done(done)

        store = FewRows(weights, self._tables, ids)
        hidden = ir.run_function(self.step, inputs, store, observe=observe)["hidden"]
        return self._logits(hidden, weights)

    def _logits(self, hidden: Array, weights: SourceWeights) -> npt.NDArray[np.float32]:
        count = rows_of(self._head)
        logits = np.empty((len(hidden), count), np.float32)
        step = max(1, BLOCK // elements_per_row(self._head))
        for start in range(0, count, step):
            stop = min(start + step, count)
            logits[:, start:stop] = hidden @ weights.rows(self._head, start, stop).T
        return logits


def _answer(
    weights: str, prompt: str, positions: Sequence[int], logits: npt.NDArray[np.float32]
) -> dict[str, Any]:
    rows = [_row(at, row) for at, row in zip(positions, logits.astype(np.float64), strict=True)]
    return {"weights": weights, "prompt": prompt, "rows": rows}


def _row(position: int, logits: npt.NDArray[np.float64]) -> dict[str, Any]:
    top = np.argsort(-logits, kind="stable")[:TOP]
    best = logits[top[0]]
    return {
        "position": position,
        "logsumexp": _short(best + np.log(np.exp(logits - best).sum())),
        "spread": _short(logits.std()),
        "ids": top.tolist(),
        "logits": [_short(x) for x in logits[top].tolist()],
    }


def _value(name: str, twin: Twin, rows: Mapping[ir.Value, Array]) -> dict[str, Any]:
    length, prints = fingerprint(np.concatenate([rows[v].reshape(-1) for v in twin.values]))
    own = {"length": _short(length)} if twin.same_length else {}
    return {"value": name, **own, "print": [round(x, 4) for x in prints]}


def _short(number: float) -> float:
    """Six digits: what the order of additions does not change, but for the last one."""
    return float(f"{number:.6g}")
