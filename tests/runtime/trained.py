"""Tokenizers of the two families, trained on a few lines, as tokenizer.json texts."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>", "<|im_start|>", "<|tool_call|>"]
BOS, EOS, IM_END, IM_START = 1, 2, 3, 4

TEXT = [
    "The quick brown fox jumps over the lazy dog. Why? Because it can, and it does so daily!",
    "user assistant system think What is a list in Python? A list is a mutable sequence type.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))  # 3\n",
    "你好，世界。今天天气很好。 Grüße aus Köln: café, naïve, Ελλάδα, Россия.",
    "🙂 👍🏽 👩‍👩‍👧 emoji and <html> tags, \tand 12345 numbers",
] * 3


@cache
def byte_level() -> str:
    """Byte-level BPE as GPT-2 and Llama 3 have it; its post-processor would add a BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, 420, pre_tokenizers.ByteLevel.alphabet())
    return _with_bos(tokenizer)


@cache
def sentencepiece() -> str:
    """BPE with byte fallback as MiniCPM4 and Llama 2 have it: "▁" put in front by a normalizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    _train(tokenizer, 300, [])
    return _with_bytes(_with_bos(tokenizer))


@cache
def metaspace() -> str:
    """The newer spelling of the same: a Metaspace pre-tokenizer and decoder."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    )
    _train(tokenizer, 300, [])
    return _with_bytes(_with_bos(tokenizer))


FAMILIES = {"byte_level": byte_level, "sentencepiece": sentencepiece, "metaspace": metaspace}


def _train(tokenizer: Tokenizer, size: int, alphabet: list[str]) -> None:
    tokenizer.train_from_iterator(
        TEXT,
        BpeTrainer(
            vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.enable_truncation(7)  # published files have such leftovers
    tokenizer.enable_padding(length=9)


def _with_bos(tokenizer: Tokenizer) -> str:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return tokenizer.to_str()


def _with_bytes(source: str) -> str:
    """Adds the 256 byte tokens to the vocabulary, which no trainer does."""
    raw: dict[str, Any] = json.loads(source)
    vocab = raw["model"]["vocab"]
    # The emoji and the Greek are left to the bytes.
    gone = {t for t in vocab if any(c >= "\u0370" and c not in "▁你好，世界。" for c in t)}
    raw["model"]["merges"] = [m for m in raw["model"]["merges"] if not {*m, "".join(m)} & gone]
    kept = [t for t in vocab if t not in gone]
    names = kept + [f"<0x{byte:02X}>" for byte in range(256)]
    raw["model"]["vocab"] = {name: i for i, name in enumerate(names)}
    return json.dumps(raw, ensure_ascii=False)
