"""Trains the demo model's tokenizer: a byte-level BPE of 4096 tokens. Knows no model.

Digits stand alone, so that a number is copied digit by digit; no normalization, so that decoding
gives the text back byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from recipes.demo.chatformat import SPECIAL
from recipes.demo.questions import all_facts, training_question
from recipes.demo.retrieval import retrieval

SIZE = 4096


def train_tokenizer(texts: Iterable[str], size: int = SIZE) -> tokenizers.Tokenizer:
    """A tokenizer whose first ids are `SPECIAL` and whose post-processor adds one BOS."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def save(tokenizer: tokenizers.Tokenizer, path: Path) -> None:
    tokenizer.save(str(path), pretty=False)


def load_or_train(
    path: Path, documents: Sequence[Mapping[str, str]], seed: int
) -> tokenizers.Tokenizer:
    """The tokenizer at `path`; trained on the documents and on retrieval lines if missing."""
    if not path.exists():
        rng = np.random.default_rng([seed, 0])
        lists = [retrieval("", 24, 8, rng) for _ in range(400)]
        tasks = ["\n".join([made.passage, *(q for q, _ in made.questions)]) for made in lists]
        chats = [training_question(fact, rng) for fact in all_facts(documents)]
        texts = [document["text"] for document in documents]
        save(train_tokenizer([*texts, *tasks, *chats]), path)
    return tokenizers.Tokenizer.from_file(str(path))
