"""A SentencePiece vocabulary with scores as the BPE of a tokenizer.json. Knows no metadata.

SentencePiece merges the two neighbours whose union has the highest score, the leftmost ones of
equals; BPE merges the pair of the lowest rank. With every way to halve every piece as a merge,
in the order of the scores, both take the same steps as long as scores differ.

Source: `llm_tokenizer_spm_session` of llama.cpp; Kudo and Richardson, arXiv 1808.06226.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby, islice
from typing import Any

from arkinfer.errors import CheckpointError
from arkinfer.frontend.gguf.vocabulary import NORMAL, UNUSED, Vocabulary

MOST_MERGES = 700_000
"""Llama 2 has 61,249 and Gemma 580,604."""

SPACE = "▁"
"""What stands for a space in pieces (U+2581)."""


def parts(vocabulary: Vocabulary) -> dict[str, Any]:
    """Normalizer, pre-tokenizer, decoder and model of the tokenizer.json."""
    pieces = vocabulary.of_type(NORMAL, UNUSED)  # what merging can make
    scores = {vocabulary.tokens[i]: float(vocabulary.scores[i]) for i in pieces}
    unknown = vocabulary.ids.get("unk")
    prepend = [{"type": "Prepend", "prepend": SPACE}] if vocabulary.add_space else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*prepend, _replace(" ", SPACE)],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                _replace(SPACE, " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *(strip if vocabulary.add_space else []),
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else vocabulary.tokens[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(vocabulary.tokens)},
            "merges": merges(scores),
        },
    }


def merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to halve a piece into two pieces, the highest score of the union first.

    Raises:
        CheckpointError: there are more than `MOST_MERGES`.

    >>> merges({"a": 0, "b": 0, "ab": -1, "aba": -2})
    [('a', 'b'), ('ab', 'a')]
    """
    found: list[tuple[str, str]] = []
    ordered = sorted(scores, key=lambda piece: (-scores[piece], piece))
    for _, equals in groupby(ordered, key=scores.__getitem__):
        # Of equals the longest left half first: what merging from the left has at hand. Runs of
        # spaces have one score in Llama's vocabularies.
        pairs = (
            (piece[:at], piece[at:])
            for piece in equals
            for at in range(1, len(piece))
            if piece[:at] in scores and piece[at:] in scores
        )
        few = islice(pairs, MOST_MERGES + 1 - len(found))
        found += sorted(few, key=lambda pair: (-len(pair[0]), -len(pair[1])))
        if len(found) > MOST_MERGES:
            raise CheckpointError(
                "The tokenizer of the GGUF file cannot be used",
                f"Its pieces can be halved in more than {MOST_MERGES:,} ways",
                "Convert the model again.",
            )
    return found


def scores_of(
    pieces: Collection[str], ranked: Sequence[tuple[str, str]]
) -> tuple[dict[str, float], int]:
    """Scores by which SentencePiece merges as BPE does by a list of merges; undoes `merges`.

    Args:
        pieces: the tokens that merging can make or begins with.
        ranked: the merges, the first one first.

    Returns:
        The score of every piece, the lowest for those that no merge makes; and the number of
        merges that the scores do not give, or give in another place.
    """
    last = {left + right: place for place, (left, right) in enumerate(ranked)}
    groups: dict[str, int] = {}
    group = end = -1
    for place, (left, right) in enumerate(ranked):
        # Pieces whose merges stand among each other's have one score.
        group += place > end
        end = max(end, last[left + right])
        groups.setdefault(left + right, group)
    scores = {piece: -float(groups.get(piece, group + 1) + 1) for piece in pieces}
    again = merges(scores)
    moved = sum(ours != theirs for ours, theirs in zip(again, ranked, strict=False))
    return scores, moved + abs(len(again) - len(ranked))


def _replace(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}
