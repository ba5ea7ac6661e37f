"""Golden vectors on the device: what golden.json says, and how far an executable is from it.

Knows no backend and no tolerance; `arkinfer.compiler.golden` writes the entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.artifact import Artifact
from arkinfer.artifact.schema import Schema, problem
from arkinfer.errors import ArtifactError
from arkinfer.limits import parse_json
from arkinfer.runtime.contract import Executable, FloatArray, IntArray
from arkinfer.verify.fingerprint import PRINTS, Print

ENTRY = "golden.json"
FORMAT = 1
MAX_BYTES, MOST_VALUES = 8 << 20, 1_000_000
PIECES = 3
"""A long prompt is read in as many steps at least, so that its caches are appended to."""

Float64 = npt.NDArray[np.float64]

_NUMBER: Schema = {"type": "number"}
_ID: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TOKENS: Schema = {"type": "array", "items": _ID, "maxItems": 4096}
_ROW: Schema = {
    "type": "object",
    "required": ["position", "logsumexp", "spread", "ids", "logits"],
    "properties": {
        "position": _ID,
        "logsumexp": _NUMBER,
        "spread": {"type": "number", "minimum": 0},
        "ids": {"type": "array", "items": _ID, "maxItems": 256},
        "logits": {"type": "array", "items": _NUMBER, "maxItems": 256},
    },
}
_VALUE: Schema = {
    "type": "object",
    "required": ["value", "print"],
    "properties": {
        "value": {"type": "string"},
        "length": {"type": "number", "minimum": 0},
        "print": {"type": "array", "items": _NUMBER, "maxItems": PRINTS},
    },
}
SCHEMA: Schema = {
    "type": "object",
    "required": ["format", "prompts", "answers", "values"],
    "properties": {
        "format": {"type": "integer", "minimum": 1},
        "prompts": {"type": "object", "additionalProperties": _TOKENS},
        "answers": {
            "type": "array",
            "maxItems": 16,
            "items": {
                "type": "object",
                "required": ["weights", "prompt", "rows"],
                "properties": {
                    "weights": {"enum": ["reference", "source"]},
                    "prompt": {"type": "string"},
                    "rows": {"type": "array", "items": _ROW, "maxItems": 256},
                },
            },
        },
        "values": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": _VALUE, "maxItems": 20000},
        },
    },
}


@dataclass(frozen=True)
class Row:
    """What the model answers at one position.

    Attributes:
        position: of the prompt, from 0.
        ids: the best tokens, the best one first; int64 [n].
        logits: theirs, float64 [n].
        logsumexp: ln of the sum of exp of all logits.
        spread: the standard deviation of all logits.
    """

    position: int
    ids: IntArray
    logits: Float64
    logsumexp: float
    spread: float


@dataclass(frozen=True)
class Answer:
    """The rows of one prompt, with the weights as the artifact has them ("reference") or as the
    checkpoint has them ("source")."""

    weights: str
    prompt: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class KnownValue:
    """A value of a section's IR at the last position of the short prompt.

    Attributes:
        name: in the section's `module.ir`.
        length: Euclidean; None: passes may have rescaled it.
        prints: of its direction; see `arkinfer.verify.fingerprint`.
    """

    name: str
    length: float | None
    prints: Print


@dataclass(frozen=True)
class Golden:
    """golden.json, checked."""

    prompts: dict[str, IntArray]
    answers: tuple[Answer, ...]
    values: dict[str, tuple[KnownValue, ...]]


@dataclass(frozen=True)
class Distance:
    """How far an executable is from an answer; the worst of its rows.

    Attributes:
        error: root mean square difference of the logits, in standard deviations of all logits of
            the row: says as much of flat logits as of sharp ones.
        kl: Kullback-Leibler divergence in nats, of the best tokens and all others as one.
        rank: how much worse, in standard deviations, the token is by the answer that the
            executable finds best: 0 where they agree on the best one.
        agree: rows in which they agree on the best token.
        rows: rows that were compared.
    """

    error: float
    kl: float
    rank: float
    agree: int
    rows: int


def read_golden(artifact: Artifact, vocab_size: int) -> Golden | None:
    """The golden vectors of an artifact; None: it has none, as it is older than they are.

    Raises:
        ArtifactError: they are not what a build writes.
    """
    if ENTRY not in artifact:
        return None
    try:
        return _read(artifact.read(ENTRY), vocab_size, artifact.manifest["context"])
    except ValueError as error:
        raise ArtifactError(
            f'The golden vectors of "{artifact.path}" cannot be read',
            f"{error}",
            "Build the artifact again",
        ) from None


def _read(data: bytes, vocab_size: int, context: int) -> Golden:
    facts: Any = parse_json(data, most=MAX_BYTES, values=MOST_VALUES)
    if found := problem(facts, SCHEMA, ENTRY):
        raise ValueError(found)
    if facts["format"] != FORMAT:
        raise ValueError(f"{ENTRY} has the format {facts['format']}; this arkinfer knows {FORMAT}")
    prompts = {name: np.array(ids, np.int64) for name, ids in facts["prompts"].items()}
    for name, ids in prompts.items():
        if not 0 < len(ids) <= context or ids.max() >= vocab_size:
            raise ValueError(f'the prompt "{name}" does not fit the model')
    answers = tuple(
        Answer(a["weights"], a["prompt"], tuple(_row(r, prompts[a["prompt"]]) for r in a["rows"]))
        for a in facts["answers"]
        if a["prompt"] in prompts
    )
    if not answers or not all(answer.rows for answer in answers):
        raise ValueError(f"{ENTRY} has no answers")
    if any(row.ids.max() >= vocab_size for answer in answers for row in answer.rows):
        raise ValueError(f"{ENTRY} has a token that the model has not")
    values = {
        name: tuple(KnownValue(v["value"], v.get("length"), _print(v["print"])) for v in known)
        for name, known in facts["values"].items()
    }
    return Golden(prompts, answers, values)


def _row(facts: dict[str, Any], prompt: IntArray) -> Row:
    ids, logits = np.array(facts["ids"], np.int64), np.array(facts["logits"], np.float64)
    row = Row(facts["position"], ids, logits, float(facts["logsumexp"]), float(facts["spread"]))
    numbers = [*logits.tolist(), row.logsumexp, row.spread]
    if not len(ids) == len(logits) > 0 or len(set(ids.tolist())) != len(ids):
        raise ValueError(f"{ENTRY} has a row of tokens that do not fit their logits")
    if row.position >= len(prompt) or not all(map(math.isfinite, numbers)) or row.spread <= 0:
        raise ValueError(f"{ENTRY} has a row with a position or a number out of range")
    return row


def _print(numbers: list[float]) -> Print:
    if len(numbers) != PRINTS or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{ENTRY} has a fingerprint that is none")
    return tuple(map(float, numbers))


def replay(
    executable: Executable, tokens: IntArray, progress: Callable[[int], None] = lambda done: None
) -> FloatArray:
    """Teacher-forced logits of a prompt, float32 [len(tokens), vocab].

    The short prompt goes in one step where it fits, a longer one in several.

    Args:
        executable: what answers.
        tokens: int64 [T].
        progress: told how many tokens are done.
    """
    state = executable.new_state(len(tokens))
    size = min(executable.chunk, max(16, -(-len(tokens) // PIECES)))
    logits = np.empty((len(tokens), executable.vocab_size), np.float32)
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        logits[start : start + len(part)] = state.step(part, rows="all").logits
        progress(start + len(part))
    return logits


def compare(answer: Answer, logits: FloatArray) -> Distance:
    """How far the logits of a whole prompt are from what is known of some rows."""
    found = [_compare(row, logits[row.position].astype(np.float64)) for row in answer.rows]
    errors, divergences, ranks = zip(*found, strict=True)
    agree = sum(rank == 0 for rank in ranks)
    return Distance(_worst(errors), _worst(divergences), _worst(ranks), agree, len(found))


def _compare(row: Row, logits: Float64) -> tuple[float, float, float]:
    best = logits.max()
    total = best + np.log(np.exp(logits - best).sum())
    got = logits[row.ids]
    off = np.append(got - row.logits, total - row.logsumexp)
    error = float(np.sqrt(np.mean(off**2))) / row.spread
    p, q = np.exp(row.logits - row.logsumexp), np.exp(got - total)
    rest_p, rest_q = max(1 - p.sum(), 1e-9), max(1 - q.sum(), 1e-9)
    kl = float(np.sum(p * ((row.logits - row.logsumexp) - (got - total))))
    kl += float(rest_p * np.log(rest_p / rest_q))
    place = np.flatnonzero(row.ids == np.argmax(logits))
    worst = row.logits[-1] if place.size == 0 else row.logits[place[0]]
    rank = float(row.logits[0] - worst) / row.spread
    return error, max(kl, 0.0), rank if place.size else max(rank, 1e-9)


def _worst(numbers: tuple[float, ...]) -> float:
    """The largest; infinite when one is not a number."""
    return math.inf if any(map(math.isnan, numbers)) else max(numbers)
