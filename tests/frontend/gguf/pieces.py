"""A small SentencePiece vocabulary, and SentencePiece's own way to split by it, slowly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

TEXT = """
The quick brown fox jumps over the lazy dog, and the dog sleeps on. There and then they were
there; the other others gathered. aaaa aaaaa banana bananas ababab. 1234567890 3.14159 10,000
def f(x):    return x  # four spaces, two spaces
快速的棕色狐狸跳过懒狗。中文和英文 mixed 在一起。今天天气很好,今天很好。
Größe, naïve café, Ærøskøbing. 🙂🙃 🙂🙂 👩‍👩‍👧
"""

SPECIAL = ["<unk>", "<s>", "</s>"]
ADDED = ["<|im_end|>", "<|im_start|>", "<tool>"]


def spm_vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types as in a MiniCPM4 file: special, bytes, merged, characters, added.

    Merged pieces by frequency, with runs of spaces of one score and pieces that go over a space.
    """
    text = "▁" + TEXT.replace("\n", "").replace(" ", "▁")
    sequence, merged = list(text), []
    for _ in range(300):
        pairs = Counter(pairwise(sequence))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        merged.append("".join(best))
        out: list[str] = []
        for piece in sequence:
            if out and (out[-1], piece) == best:
                out[-1] += piece
            else:
                out.append(piece)
        sequence = out
    runs = ["▁" * count for count in (2, 4, 8, 5, 6, 3, 7)]
    merged = list(dict.fromkeys([*runs, *merged, "aa", "aaa", "aba"]))
    characters = sorted(set(text) - set("🙃Æ"))  # those two take bytes
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *characters, *ADDED]
    start = len(SPECIAL) + 256
    scores = [0.0] * start + [-float(i) for i in range(len(tokens) - start)]
    scores[start : start + len(runs)] = [-1e9] * len(runs)  # as in Llama's
    types = [2, 3, 3, *[6] * 256, *[1] * (len(merged) + len(characters)), 3, 3, 4]
    return tokens, scores, types


def spm_metadata() -> dict[str, Any]:
    """The keys of a file with this vocabulary."""
    tokens, scores, types = spm_vocabulary()
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
    }


def slow_split(text: str, scores: Mapping[str, float], ids: Mapping[str, int]) -> list[int]:
    """Merges the neighbours of the highest score, the leftmost of equals, until none is left."""
    symbols = list(text)
    while True:
        found = [
            (-scores[both], at)
            for at, (left, right) in enumerate(pairwise(symbols))
            if (both := left + right) in scores
        ]
        if not found:
            break
        _, at = min(found)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    out: list[int] = []
    for symbol in symbols:
        out += (
            [ids[symbol]]
            if symbol in scores
            else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
        )
    return out
