"""How differently two artifacts answer the same tokens on this device. Knows no weights.

The second model is judged by the first: Kullback-Leibler divergence, whether they find the same
next token best, and where their greedy answers part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from arkinfer.errors import ArkError, InternalError
from arkinfer.runtime.contract import FloatArray
from arkinfer.runtime.engine import Engine, load
from arkinfer.verify.golden import read_golden

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact

ANSWER = 32
"""Tokens of a greedy answer."""

PROMPTS = {
    "prose": "The library is open every day but Sunday. Anyone may read there, and members may "
    "take home as many as five books for three weeks. A book that somebody else is waiting for "
    "has to be returned in time.",
    "code": "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)\n",
}
"""Read by both models where the first artifact has no golden vectors."""

LONGEST = 512
"""Tokens of a prompt that are compared: the logits of all of them are held at once."""

_ROWS = 64  # logits that are turned to float64 at a time


@dataclass(frozen=True)
class PromptDifference:
    """How the two differ on one prompt.

    Attributes:
        name: of the prompt.
        tokens: of the prompt.
        kl: D(first || second) in nats after each token.
        agree: positions where both find the same next token best.
        parts_at: the first token of the greedy answer that differs, from 0; None: none does.
        answers: both answers as text, from the token before they part.
    """

    name: str
    tokens: int
    kl: tuple[float, ...]
    agree: int
    parts_at: int | None
    answers: tuple[str, str]


@dataclass(frozen=True)
class Behaviour:
    """How differently two artifacts answer.

    Attributes:
        backends: whose sections ran.
        prompts: what was found on each prompt; () when they were not compared.
        why: why they were not compared; "" when they were.
    """

    backends: tuple[str, str] | None
    prompts: tuple[PromptDifference, ...]
    why: str = ""

    @property
    def tokens(self) -> int:
        return sum(prompt.tokens for prompt in self.prompts)

    @property
    def mean_kl(self) -> float:
        return float(np.mean([value for prompt in self.prompts for value in prompt.kl]))

    @property
    def agreement(self) -> float:
        """The share of positions where both find the same next token best."""
        return sum(prompt.agree for prompt in self.prompts) / self.tokens


@dataclass(frozen=True)
class _Said:
    """What one model said: logits [tokens, vocab] and the greedy answer, by prompt."""

    backend: str
    logits: dict[str, FloatArray]
    answers: dict[str, list[int]]


def compare_behaviour(
    a: Artifact,
    b: Artifact,
    *,
    backend: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Behaviour:
    """Runs both artifacts, one after the other, on the same tokens.

    Args:
        a: an open artifact.
        b: another one.
        backend: whose sections; None: each file's first.
        threads: see `load`.
        progress: called with (done, all) runs of a prompt.
    """
    texts = [_bytes(artifact, "tokenizer.json") for artifact in (a, b)]
    if texts[0] != texts[1]:
        return Behaviour(None, (), "their tokenizers differ, so that no tokens mean the same")
    if texts[0] is None:
        return Behaviour(None, (), "they have no tokenizer")
    prompts: dict[str, list[int]] = {}
    said: list[_Said] = []
    for index, artifact in enumerate((a, b)):
        try:
            with load(artifact.path, backend=backend, threads=threads) as engine:
                prompts = prompts or _prompts(engine, a, min(_context(a), _context(b)))
                said.append(_run(engine, prompts, index, progress))
                decode = engine.tokenizer.decode
                if index:
                    found = [_differ(name, said[0], said[1], decode) for name in prompts]
                    return Behaviour((said[0].backend, said[1].backend), tuple(found))
        except ArkError as error:
            which = ("first", "second")[index]
            return Behaviour(None, (), f"the {which} one does not run here: {error}")
    raise InternalError("two artifacts were run, and nothing came of it")


def _context(artifact: Artifact) -> int:
    return artifact.manifest["context"]


def _bytes(artifact: Artifact, entry: str) -> bytes | None:
    return artifact.read(entry) if entry in artifact else None


def _prompts(engine: Engine, artifact: Artifact, context: int) -> dict[str, list[int]]:
    """Token ids by name: the golden prompts, short enough that both can answer."""
    room = max(1, min(LONGEST, context - ANSWER))
    golden = read_golden(artifact, engine.vocab_size)
    if golden is not None:
        return {name: ids[:room].tolist() for name, ids in golden.prompts.items()}
    return {name: engine.tokenizer.encode(text)[:room] for name, text in PROMPTS.items()}


def _run(
    engine: Engine,
    prompts: dict[str, list[int]],
    index: int,
    progress: Callable[[int, int], object] | None,
) -> _Said:
    logits: dict[str, FloatArray] = {}
    answers: dict[str, list[int]] = {}
    for number, (name, ids) in enumerate(prompts.items(), start=1):
        logits[name] = engine.logits(ids)
        room = min(ANSWER, engine.context - len(ids))
        answers[name] = _greedy(engine, ids, logits[name][-1], room)
        if progress is not None:
            progress(index * len(prompts) + number, 2 * len(prompts))
    return _Said(engine.backend, logits, answers)


def _greedy(engine: Engine, ids: Sequence[int], last: FloatArray, room: int) -> list[int]:
    """The best next tokens, without the stops and penalties of a generation."""
    state = engine.executable.new_state(len(ids) + room)
    chunk = engine.executable.chunk
    for start in range(0, len(ids), chunk):
        state.step(np.asarray(ids[start : start + chunk], np.int64), rows="none")
    answer: list[int] = []
    while len(answer) < room:
        answer.append(int(np.argmax(last)))
        if len(answer) < room:
            last = state.step(np.asarray(answer[-1:], np.int64)).logits[-1]
    return answer


def _differ(
    name: str, a: _Said, b: _Said, decode: Callable[[Sequence[int]], str]
) -> PromptDifference:
    first, second = a.logits[name], b.logits[name]
    pair = a.answers[name], b.answers[name]
    parts_at = next((i for i, (x, y) in enumerate(zip(*pair, strict=False)) if x != y), None)
    start = max(0, (parts_at or 0) - 1)
    return PromptDifference(
        name=name,
        tokens=len(first),
        kl=divergences(first, second),
        agree=int((first.argmax(axis=1) == second.argmax(axis=1)).sum()),
        parts_at=parts_at,
        answers=(decode(pair[0][start:]), decode(pair[1][start:])),
    )


def divergences(a: FloatArray, b: FloatArray) -> tuple[float, ...]:
    """D(softmax(a) || softmax(b)) in nats by row, in float64; infinite where b is no number."""
    result: list[float] = []
    for start in range(0, len(a), _ROWS):
        p, q = (_log_softmax(x[start : start + _ROWS].astype(np.float64)) for x in (a, b))
        with np.errstate(invalid="ignore", over="ignore"):
            rows = (np.exp(p) * (p - q)).sum(axis=1)
        result += [max(0.0, float(row)) if np.isfinite(row) else np.inf for row in rows]
    return tuple(result)


def _log_softmax(x: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> FloatArray:
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = x - x.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
