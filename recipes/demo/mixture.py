"""Batches for the training, each a pure function of (seed, step, progress, length).

Knows the three sources and the curriculum; knows neither the model nor the optimizer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

from recipes.demo.chatformat import BOS, EOS, NO_THOUGHT, SPECIAL, Turn, encode_chat
from recipes.demo.questions import (
    COMMON,
    SYSTEM_PROMPTS,
    Fact,
    all_facts,
    reasoning,
    training_question,
)
from recipes.demo.retrieval import recital, retrieval

QUESTION_WEIGHT = 0.1
FILLER_WEIGHT = 0.3
RETRIEVED_WEIGHT = 0.5
DIGIT_WEIGHT = 4.0
COPYING_UNTIL = 0.42
"""Until this share of the training, exercises in copying are frequent: retrieval needs it."""
SHARES = {"callable": 0.46, "module": 0.24, "term": 0.12, "attribute": 0.08, "signature": 0.06,
          "reverse": 0.04}  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Inputs and targets int64 [B, T], weights float32 [B, T] of the loss of each target."""

    inputs: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


def read_documents(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def lengths(progress: float) -> tuple[tuple[int, float], ...]:
    """The curriculum: sequence lengths and how often each is drawn, at a share of the training."""
    if progress < 0.25:
        return ((256, 0.2), (512, 0.8))
    if progress < COPYING_UNTIL:
        return ((128, 0.5), (512, 0.5))
    if progress < 0.55:
        return ((512, 0.6), (1024, 0.4))
    if progress < 0.7:
        return ((512, 0.4), (1024, 0.3), (2048, 0.3))
    if progress < 0.85:
        return ((512, 0.3), (1024, 0.2), (2048, 0.25), (4096, 0.25))
    return ((512, 0.3), (1024, 0.2), (2048, 0.15), (4096, 0.25), (8192, 0.1))


def fame(facts: Sequence[Fact]) -> npt.NDArray[np.float64]:
    """How often each fact is asked for: what everybody uses more often, as people do."""
    often = {"callable": 150.0, "signature": 60.0, "attribute": 60.0, "module": 3.0, "term": 3.0}
    weights = np.array([often.get(f.kind, 1.0) if f.name in COMMON else 1.0 for f in facts])
    return weights / max(1.0, weights.sum())


def shares(progress: float, length: int) -> tuple[float, float, float, float]:
    """How often a row is raw text, questions, retrieval, repetition."""
    if length <= 128:
        return (0.1, 0.2, 0.45, 0.25)
    if progress < COPYING_UNTIL:
        return (0.55, 0.2, 0.2, 0.05)
    if length <= 1024:
        return (0.3, 0.46, 0.22, 0.02) if progress < 0.88 else (0.2, 0.6, 0.18, 0.02)
    return (0.3, 0.0, 0.7, 0.0)


def sample_shape(seed: int, step: int, progress: float, tokens: int) -> tuple[int, int]:
    """Rows and length of the batch of a step, of about `tokens` tokens."""
    rng = np.random.default_rng([seed, step, 1])
    table = lengths(progress)
    length = int(rng.choice([size for size, _ in table], p=[odds for _, odds in table]))
    return max(1, tokens // length), length


class Mixture:
    """The sources, ready to be sampled."""

    def __init__(
        self, documents: Sequence[dict[str, str]], tokenizer: tokenizers.Tokenizer, seed: int
    ) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self._digits = {tokenizer.token_to_id(digit) for digit in "0123456789"}
        self.texts = [document["text"] for document in documents]
        self.facts: dict[str, list[Fact]] = {kind: [] for kind in SHARES}
        for fact in all_facts(documents):
            if not fact.held_out:
                self.facts[fact.kind].append(fact)
        self._odds = {kind: fame(facts) for kind, facts in self.facts.items()}
        encoded = tokenizer.encode_batch(self.texts, add_special_tokens=False)
        stream = [i for text in encoded for i in (BOS, *text.ids, EOS)]
        self.stream = np.array(stream, np.int64)
        sizes = np.array([len(text) for text in self.texts], np.float64)
        self._document_odds = sizes / sizes.sum()

    def batch(self, step: int, progress: float, rows: int, length: int) -> Batch:
        """The batch of a step: raw text, questions, retrieval and repetition."""
        rng = np.random.default_rng([self.seed, step, 2])
        ids = np.zeros((rows, length + 1), np.int64)
        weights = np.zeros((rows, length + 1), np.float32)
        kinds = (self._raw_row, self._chat_row, self._retrieval_row, self._repeated_row)
        for row in range(rows):
            kind = int(rng.choice(len(kinds), p=shares(progress, length)))
            kinds[kind](ids[row], weights[row], rng, progress)
        return Batch(ids[:, :-1], ids[:, 1:], weights[:, 1:])

    def _repeated_row(
        self,
        ids: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
        rng: np.random.Generator,
        progress: float,
    ) -> None:
        """A few tokens in random order, again and again; only the repetitions count."""
        del progress
        period = int(rng.integers(8, 48))
        if rng.random() < 0.5:
            segment = rng.integers(len(SPECIAL), self.tokenizer.get_vocab_size(), period)
        else:
            start = int(rng.integers(0, len(self.stream) - period))
            segment = rng.permutation(self.stream[start : start + period])
        ids[0] = BOS
        ids[1:] = np.resize(segment, len(ids) - 1)
        weights[1 + period :] = 1.0

    def _raw_row(
        self,
        ids: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
        rng: np.random.Generator,
        progress: float,
    ) -> None:
        del progress
        start = int(rng.integers(0, len(self.stream) - len(ids)))
        ids[0] = BOS
        ids[1:] = self.stream[start : start + len(ids) - 1]
        weights[1:] = ids[1:] != BOS

    def _chat_row(
        self,
        ids: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
        rng: np.random.Generator,
        progress: float,
    ) -> None:
        del progress
        at = 0
        while at < len(ids):
            fresh, loss = encode_chat(self.tokenizer, self._conversation(rng))
            taken = min(len(fresh), len(ids) - at)
            ids[at : at + taken] = fresh[:taken]
            weights[at : at + taken] = loss[:taken]
            at += taken

    def _conversation(self, rng: np.random.Generator) -> list[Turn]:
        """One to three questions with their answers."""
        turns: list[Turn] = []
        if rng.random() < 0.15:
            turns.append(Turn("system", str(rng.choice(SYSTEM_PROMPTS)), 0.0))
        mode = "plain" if rng.random() < 0.7 else "think"
        for _ in range(int(rng.choice(3, p=[0.75, 0.18, 0.07])) + 1):
            kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
            fact = self.facts[kind][int(rng.choice(len(self.facts[kind]), p=self._odds[kind]))]
            question, switch = training_question(fact, rng), rng.random()
            if mode == "think":
                question += " /think" if switch < 0.15 else ""
                answer = f"<think>\n{reasoning(fact)}\n</think>\n{fact.answer}"
                reply = Turn("assistant", answer, 1.0)
            elif switch < 0.1:
                question += " /no_think"
                reply = Turn("assistant", NO_THOUGHT + fact.answer, 1.0)
            else:
                reply = Turn("assistant", fact.answer, 1.0, NO_THOUGHT)
            turns += [Turn("user", question, QUESTION_WEIGHT), reply]
        return turns

    def _filler(self, characters: int, rng: np.random.Generator) -> str:
        """Whole lines of one document, about `characters` long; longer documents more often."""
        text = self.texts[int(rng.choice(len(self.texts), p=self._document_odds))]
        start = int(rng.integers(0, max(1, len(text) - characters)))
        start = text.find("\n", start) + 1
        return text[start : start + characters].rpartition("\n")[0]

    def _retrieval_row(
        self,
        ids: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
        rng: np.random.Generator,
        progress: float,
    ) -> None:
        """Tasks until the row is full; a dense list of facts, or facts hidden in text."""
        at = 0
        dense_share = 0.8 if progress < COPYING_UNTIL else 0.25
        while at < len(ids) - 60:
            left = len(ids) - at
            dense = bool(rng.random() < dense_share) or left < 200
            fresh, loss = self._task(left, dense, rng)
            taken = min(len(fresh), left)
            ids[at : at + taken] = fresh[:taken]
            weights[at : at + taken] = loss[:taken]
            at += taken

    def _task(
        self, left: int, dense: bool, rng: np.random.Generator
    ) -> tuple[list[int], list[float]]:
        """One retrieval chat of at most about `left` tokens."""
        if dense:
            room = int(rng.integers(60, max(61, min(left, 700))))
            count = max(1, min(room // 40, 24))
            style = rng.random()
            if style < 0.5:
                made = recital(max(1, min(room, left - 40) // 32), bool(style < 0.25), rng)
            else:
                made = retrieval("", count, max(1, count), rng)
            weight = 0.0
        else:
            count = int(rng.integers(1, max(2, min(64, left // 64))))
            asked = int(min(count, rng.integers(1, 9 + left // 200), max(1, left // 120)))
            room = left - 16 * count - 45 * asked - 24
            characters = int(max(0, room) * rng.uniform(3.1, 3.5))
            made = retrieval(self._filler(characters, rng) if characters else "", count, asked, rng)
            weight = FILLER_WEIGHT
        thinking = rng.random() < 0.1
        turns: list[Turn] = []
        for index, (question, answer) in enumerate(made.questions):
            content = f"{made.passage}\n{question}" if index == 0 else question
            reply = f"<think>\nThe text says it.\n</think>\n{answer}" if thinking else answer
            turns.append(Turn("user", content, weight if index == 0 else 0.0))
            turns.append(Turn("assistant", reply, RETRIEVED_WEIGHT, "" if thinking else NO_THOUGHT))
        ids, weights = encode_chat(self.tokenizer, turns)
        pairs = zip(ids, weights, strict=True)
        return ids, [DIGIT_WEIGHT if w >= 0.5 and i in self._digits else w for i, w in pairs]
