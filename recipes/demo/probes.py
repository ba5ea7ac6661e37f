"""Measures of a model: held-out perplexity, retrieval accuracy, greedy answers.

Used while training and by `evaluate.py`. Knows no optimizer and writes no files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch

from arkinfer.models.minicpm import CausalLM, causal_attend
from recipes.demo.chatformat import BOS, EOS, IM_END, prompt
from recipes.demo.retrieval import retrieval

WINDOW = 1024


def logits(model: CausalLM, ids: list[int]) -> torch.Tensor:
    """float32 [T, V] of a sequence."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        tokens = torch.tensor([ids])
        return model.head(model.model(tokens, torch.arange(len(ids)), causal_attend))[0]


def perplexity(model: CausalLM, ids: list[int], window: int = WINDOW) -> float:
    """Of disjoint windows, each after a BOS, every token of which counts."""
    total, count = 0.0, 0
    for start in range(0, len(ids), window):
        part = ids[start : start + window]
        rows = logits(model, [BOS, *part[:-1]])
        total += float(torch.nn.functional.cross_entropy(rows, torch.tensor(part), reduction="sum"))
        count += len(part)
    return math.exp(total / count)


def greedy(model: CausalLM, ids: list[int], most: int) -> list[int]:
    """The model's own continuation, with a cache, until a stop token."""
    config = model.config
    empty = torch.zeros(0, config.num_key_value_heads, config.head_dim)
    past = [(empty, empty) for _ in range(config.num_hidden_layers)]
    out: list[int] = []
    fresh = ids
    with torch.no_grad():
        for _ in range(most):
            row = torch.tensor([len(fresh) - 1])
            scores, past = model(torch.tensor(fresh), row, past)
            token = int(scores[0].argmax())
            if token in (EOS, IM_END):
                break
            out.append(token)
            fresh = [token]
    return out


def answer(
    model: CausalLM,
    tokenizer: tokenizers.Tokenizer,
    question: str,
    thinking: bool | None = False,
    most: int = 120,
) -> str:
    text = prompt([("user", question)], thinking)
    ids = [BOS, *tokenizer.encode(text, add_special_tokens=False).ids]
    return tokenizer.decode(greedy(model, ids, most))


def retrieval_case(
    tokenizer: tokenizers.Tokenizer, filler: str, length: int, seed: int
) -> tuple[list[int], list[int]]:
    """Prompt of about `length` tokens with one fact per 400 tokens, and the expected answer.

    One fact is asked for; the others are there to be told from it.
    """
    rng = np.random.default_rng([seed, length])
    count = max(2, length // 400)
    start = int(rng.integers(0, max(1, len(filler) - 4 * length)))
    characters = int(3.2 * length)
    while True:
        text = filler[start : start + characters].rpartition("\n")[0]
        made = retrieval(text, count, 1, np.random.default_rng([seed, length, 1]), "code")
        question, expected = made.questions[0]
        rendered = prompt([("user", f"{made.passage}\n{question}")], False)
        ids = [BOS, *tokenizer.encode(rendered, add_special_tokens=False).ids]
        if len(ids) <= length - 24:
            return ids, tokenizer.encode(expected, add_special_tokens=False).ids
        characters = int(characters * 0.97)


def retrieval_accuracy(
    model: CausalLM, tokenizer: tokenizers.Tokenizer, filler: str, length: int, cases: int
) -> float:
    """Share of cases whose whole answer is what greedy decoding would write (teacher-forced)."""
    right = 0
    for seed in range(cases):
        ids, expected = retrieval_case(tokenizer, filler, length, seed)
        rows = logits(model, [*ids, *expected])[len(ids) - 1 : -1]
        right += rows.argmax(-1).tolist() == expected
    return right / cases


def probe(model: CausalLM, tokenizer: tokenizers.Tokenizer, corpus: Path) -> dict[str, Any]:
    """A quick look during training."""
    model.eval()
    held = (corpus / "heldout.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(held, add_special_tokens=False).ids
    result: dict[str, Any] = {"heldout_ppl": round(perplexity(model, ids[: 16 * WINDOW]), 3)}
    for length, cases in ((512, 16), (2048, 10), (4096, 6)):
        accuracy = retrieval_accuracy(model, tokenizer, held, length, cases)
        result[f"retrieval_{length}"] = round(accuracy, 3)
    result["sample"] = answer(model, tokenizer, "What is the json module for?", most=60)
    model.train()
    return result
