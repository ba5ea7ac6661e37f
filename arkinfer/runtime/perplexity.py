"""How well a model predicts a text: sliding windows, every token scored once.

Knows no file and no tokenizer: token ids in, a sum of log-likelihoods out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from arkinfer.errors import InternalError, UsageError
from arkinfer.runtime.contract import Executable, FloatArray
from arkinfer.runtime.session import Session

_BLOCK = 64  # rows that are turned to float64 at a time; a whole chunk may be 600 MiB


@dataclass(frozen=True)
class Window:
    """A part of the text that is read from an empty cache.

    Attributes:
        start: its first token.
        score: the first token whose likelihood counts; those before it are context.
        end: one past its last token.
    """

    start: int
    score: int
    end: int


@dataclass(frozen=True)
class Score:
    """A text's likelihood.

    Attributes:
        nll: sum of -ln p(token | context) of the scored tokens, nats.
        tokens: how many were scored.
        windows: how many windows were read.
    """

    nll: float
    tokens: int
    windows: int

    @property
    def perplexity(self) -> float:
        return perplexity(self.nll, self.tokens)


def perplexity(nll: float, tokens: int) -> float:
    """exp(nll / tokens); infinity where that is beyond float64."""
    try:
        return math.exp(nll / tokens)
    except OverflowError:
        return math.inf


def windows(length: int, window: int, stride: int) -> list[Window]:
    """Windows of `window` tokens, `stride` apart, that score each of `length` tokens once.

    Every token is scored in the first window that holds it, so that all but those of the first
    window have at least `window - stride` tokens of context.
    Source: huggingface.co/docs/transformers/perplexity.

    >>> [(part.start, part.score, part.end) for part in windows(7, 4, 2)]
    [(0, 0, 4), (2, 4, 6), (4, 6, 7)]
    """
    if window < 1 or not 1 <= stride <= window:
        raise UsageError(
            f"A window of {window} tokens cannot move by {stride}",
            fix="Give a window of at least 1 token and a stride from 1 to the window",
        )
    result = [Window(0, 0, min(window, length))]
    while result[-1].end < length:
        last = result[-1]
        start = last.start + stride
        result.append(Window(start, last.end, min(start + window, length)))
    return result


def score_text(
    executable: Executable,
    tokens: Sequence[int],
    *,
    bos: int | None,
    window: int,
    stride: int,
    progress: Callable[[int, int], object] | None = None,
) -> Score:
    """Scores a text.

    With a BOS, each window is read after one, and every token of the text is scored. Without, a
    token with nothing before it in its window is not scored: the text's first one, and where the
    stride is the window, each window's.

    Args:
        executable: what predicts.
        tokens: the text, without a BOS.
        bos: what each window begins with; None: nothing.
        window: tokens of the text in one window.
        stride: tokens from one window's start to the next one's.
        progress: called with (scored, all) tokens after each window.

    Raises:
        UsageError: an impossible window or stride, or nothing to score.
    """
    lead = [] if bos is None else [bos]
    room = executable.max_context - len(lead)
    if window > room:
        raise UsageError(
            f"A window of {window} tokens does not fit",
            f"The context holds {executable.max_context} tokens"
            + (", one of them the BOS" if lead else ""),
            f"Give a window of at most {room} tokens",
        )
    if window + len(lead) < 2:
        raise UsageError(
            "Windows of 1 token score nothing",
            "There is no BOS, so that the first token of a window has nothing before it",
            "Give a window of at least 2 tokens",
        )
    if len(tokens) + len(lead) < 2:
        raise UsageError("The text has too few tokens to score", fix="Give a longer text")
    parts = windows(len(tokens), window, stride)
    session = Session(executable.new_state(min(window, len(tokens)) + len(lead)), executable.chunk)
    nll, count = 0.0, 0
    for part in parts:
        session.resume([])
        known = lead + list(tokens[part.start : part.score])
        targets = list(tokens[part.score : part.end])
        if not known:
            known, targets = targets[:1], targets[1:]
        if not targets:
            continue
        for logits, wanted in _predictions(session, known, targets):
            nll -= log_likelihood(logits, wanted)
        count += len(targets)
        if progress is not None:
            progress(part.end, len(tokens))
    return Score(nll, count, len(parts))


def _predictions(
    session: Session, known: list[int], targets: list[int]
) -> Iterator[tuple[FloatArray, list[int]]]:
    """Logits and the tokens that they should predict, in the order of `targets`."""
    yield session.extend(known)[None], targets[:1]
    done = 1
    for rows in session.rows(targets[:-1]):
        yield rows, targets[done : done + len(rows)]
        done += len(rows)


def log_likelihood(logits: FloatArray, tokens: Sequence[int]) -> float:
    """Sum of ln softmax(logits)[token], in float64.

    Args:
        logits: float32 [n, vocab].
        tokens: n token ids.

    Raises:
        InternalError: a logit is not a number.
    """
    total = 0.0
    for start in range(0, len(tokens), _BLOCK):
        block = logits[start : start + _BLOCK].astype(np.float64)
        best = block.max(axis=1, keepdims=True)
        if not np.isfinite(best).all():
            raise InternalError(
                "The model's output is not a number",
                "The backend or the quantized weights overflowed",
                'Check the file with "arkinfer verify"',
            )
        wanted = np.asarray(tokens[start : start + _BLOCK])
        chosen = block[np.arange(len(wanted)), wanted] - best[:, 0]
        total += float(chosen.sum() - np.log(np.exp(block - best).sum(axis=1)).sum())
    return total
