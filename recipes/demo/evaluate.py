"""Measures a checkpoint of the demo model; prints one JSON object. Changes nothing.

    python -m recipes.demo.evaluate FOLDER CORPUS [--cases 50]

Held-out perplexity (windows of 1024 after a BOS) against an interpolated unigram and bigram
model on the same tokens, retrieval accuracy by length, answers to fixed questions whose wording
is not in the training text, and how well questions on held-out names are answered.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
import torch

from arkinfer.models.minicpm import CausalLM
from recipes.demo import probes
from recipes.demo.checkpoint import read_model, read_tokenizer
from recipes.demo.mixture import read_documents
from recipes.demo.questions import HELD_OUT_PHRASINGS, PHRASINGS, Fact, all_facts, ask

FIXED_QUESTIONS = (
    "In a few words, what is the json module good for?",
    "Can you describe what a generator is?",
    "Could you describe what the random module offers?",
)
LENGTHS = (512, 1024, 2048, 4096, 8000)


def bigram_perplexity(
    train: npt.NDArray[np.int64], held: npt.NDArray[np.int64], vocabulary: int
) -> dict[str, float]:
    """Perplexity of l * P(t | previous) + (1 - l) * P(t), at the `l` that is best on `held`.

    The unigram is add-one smoothed. Choosing `l` on the held-out text favours this baseline.
    The first token of `held` is context only.
    """
    unigram = np.bincount(train, minlength=vocabulary) + 1.0
    unigram /= unigram.sum()
    keys, counts = np.unique(train[:-1] * vocabulary + train[1:], return_counts=True)
    context = np.bincount(train[:-1], minlength=vocabulary)
    wanted = held[:-1] * vocabulary + held[1:]
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    joint = np.where(keys[at] == wanted, counts[at], 0)
    conditional = joint / np.maximum(context[held[:-1]], 1)
    best = (math.inf, 0.0)
    for share in np.arange(0.05, 1.0, 0.05):
        mixed = share * conditional + (1 - share) * unigram[held[1:]]
        best = min(best, (float(np.exp(-np.log(mixed).mean())), float(share)))
    return {"perplexity": round(best[0], 3), "bigram_share": round(best[1], 2)}


def language(
    model: CausalLM, tokenizer: tokenizers.Tokenizer, documents: Sequence[dict[str, str]], held: str
) -> dict[str, Any]:
    """Held-out perplexity of the model and of the baseline, and by how much it is lower."""
    texts = tokenizer.encode_batch([d["text"] for d in documents], add_special_tokens=False)
    train = np.array([i for text in texts for i in text.ids], np.int64)
    ids = tokenizer.encode(held, add_special_tokens=False).ids
    ours = probes.perplexity(model, ids)
    baseline = bigram_perplexity(train, np.array(ids, np.int64), model.config.vocab_size)
    return {
        "tokens": len(ids),
        "characters": len(held),
        "perplexity": round(ours, 3),
        "bits_per_character": round(math.log2(ours) * len(ids) / len(held), 4),
        "baseline": baseline,
        "lower_by": round(1 - ours / baseline["perplexity"], 4),
    }


def answers(
    model: CausalLM, tokenizer: tokenizers.Tokenizer, training_text: str
) -> list[dict[str, Any]]:
    """Greedy answers to the fixed questions, not thinking and thinking."""
    return [
        {
            "question": question,
            "in_training_text": question in training_text,
            "answer": probes.answer(model, tokenizer, question),
            "thinking": probes.answer(model, tokenizer, question, thinking=None, most=160),
        }
        for question in FIXED_QUESTIONS
    ]


def overlap(answer: str, reference: str) -> float:
    """Share of the reference's words (as a set) that the answer has."""
    wanted = set(reference.lower().split())
    return len(wanted & set(answer.lower().split())) / max(1, len(wanted))


def phrasing_scores(
    model: CausalLM, tokenizer: tokenizers.Tokenizer, facts: Sequence[Fact], cases: int
) -> dict[str, float]:
    """Mean overlap with the documentation: known names in held-out wording, held-out names."""
    rng = np.random.default_rng(7)
    scores: dict[str, float] = {}
    for label, held_out in (("held_out_wording", False), ("held_out_names", True)):
        pool = [
            f for f in facts if f.held_out == held_out and f.kind in ("module", "callable", "term")
        ]
        weights = np.array([{"module": 8.0, "term": 8.0}.get(f.kind, 1.0) for f in pool])
        chosen = rng.choice(
            len(pool), min(cases, len(pool)), replace=False, p=weights / weights.sum()
        )
        total = 0.0
        for index in chosen:
            fact = pool[index]
            phrasing = str(rng.choice(PHRASINGS[fact.kind][-HELD_OUT_PHRASINGS:]))
            total += overlap(
                probes.answer(model, tokenizer, ask(fact, phrasing), most=100), fact.answer
            )
        scores[label] = round(total / len(chosen), 3)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = read_model(arguments.folder), read_tokenizer(arguments.folder)
    documents = read_documents(arguments.corpus / "train.jsonl")
    held = (arguments.corpus / "heldout.txt").read_text(encoding="utf-8")
    result: dict[str, Any] = {"language": language(model, tokenizer, documents, held)}
    result["retrieval"] = {
        str(length): probes.retrieval_accuracy(model, tokenizer, held, length, arguments.cases)
        for length in LENGTHS
    }
    training_text = "\n".join(d["text"] for d in documents)
    result["answers"] = answers(model, tokenizer, training_text)
    result["questions"] = phrasing_scores(model, tokenizer, all_facts(documents), arguments.cases)
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
