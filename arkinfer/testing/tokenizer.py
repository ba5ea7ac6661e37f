"""A small real tokenizer with a MiniCPM4 chat template. Knows no weights.

Byte-level BPE learned from a few sentences by the plain algorithm, so that it depends on no
library version: the same arguments always give the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""MiniCPM4's, which has no thinking switch."""

_TEXT = """
A compiler reads a program and writes another program that does the same work on a machine.
The front end reads the source, the middle improves it, and the back end writes the code.
A model is a function of its tokens: every token becomes a vector, every layer adds to it,
and the last layer says how likely each next token is. The weights of a model are numbers that
were learned from text; the tokens of a prompt are the only thing that changes from run to run.
What is the capital of France? The capital of France is Paris, which lies on the river Seine.
How many days are there in a week? There are seven days in a week: Monday, Tuesday, Wednesday,
Thursday, Friday, Saturday and Sunday. The user asks, and the assistant answers the question.
Please write a short story about the sea. Once upon a time there was a small boat that wanted
to see the world. It went out in the morning, when the water was still and the wind was light,
and it came back in the evening with a song that nobody had heard before.
def main(): return 0; for i in range(10): print(i); if x is None: raise ValueError("no x")
"""

_MOST_MERGES = 640


def make_tokenizer(vocab_size: int, bos: int | None, eos: Sequence[int]) -> bytes:
    """A tokenizer.json whose ids are all below `vocab_size`.

    `<s>` is `bos`; `</s>` is the first and `<|im_end|>` the last of `eos`; `<unk>` and
    `<|im_start|>` take free ids. Words split as in GPT-2.

    Args:
        vocab_size: at least 272.
        bos: the config's bos_token_id.
        eos: the config's eos_token_id, one or more.
    """
    special = _special_tokens(vocab_size, bos, eos)
    free = iter(i for i in range(vocab_size) if i not in special.values())
    pieces = [*_byte_alphabet().values()]
    merges = _learned_merges()[: vocab_size - len(special) - len(pieces)]
    vocabulary = dict(special)
    for piece in [*pieces, *("".join(pair) for pair in merges)]:
        vocabulary[piece] = next(free)
    order = sorted(vocabulary, key=vocabulary.__getitem__)
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(special[text], text) for text in order if text in special],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": _post_processor(special),
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: vocabulary[text] for text in order},
            "merges": [list(pair) for pair in merges],
        },
    }
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def tokenizer_config(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer_config.json beside a tokenizer.json, with the MiniCPM4 chat template."""
    special = {token["content"] for token in tokenizer["added_tokens"]}
    config: dict[str, Any] = {
        "add_bos_token": "<s>" in special,
        "add_eos_token": False,
        "bos_token": "<s>" if "<s>" in special else None,
        "eos_token": "<|im_end|>" if "<|im_end|>" in special else "</s>",
        "unk_token": "<unk>" if "<unk>" in special else None,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    return config


def _special_tokens(vocab_size: int, bos: int | None, eos: Sequence[int]) -> dict[str, int]:
    special: dict[str, int] = {}
    if bos is not None:
        special["<s>"] = bos
    if eos:
        special["</s>"] = eos[0]
    if len(eos) > 1:
        special["<|im_end|>"] = eos[-1]
    for text, wanted in (("<unk>", 0), ("<|im_start|>", special.get("<|im_end|>", 3) + 1)):
        taken = set(special.values())
        fits = wanted < vocab_size and wanted not in taken
        special[text] = wanted if fits else min(set(range(vocab_size)) - taken)
    return special


def _added(token_id: int, text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": text, **flags, "special": True}


def _post_processor(special: Mapping[str, int]) -> dict[str, Any] | None:
    """Puts `<s>` in front, as `add_bos_token` says."""
    if "<s>" not in special:
        return None
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", 1)))
    token = {"id": "<s>", "ids": [special["<s>"]], "tokens": ["<s>"]}
    return {
        "type": "TemplateProcessing",
        "single": [begin, a],
        "pair": [begin, a, b],
        "special_tokens": {"<s>": token},
    }


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in alphabet]
    alphabet |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    return dict(sorted(alphabet.items()))


@lru_cache(maxsize=1)
def _learned_merges() -> list[tuple[str, str]]:
    """The most frequent pair first, ties by text: plain byte-pair encoding."""
    alphabet = _byte_alphabet()
    lines = (f" {word}" for word in _TEXT.split())
    words = Counter(tuple(alphabet[byte] for byte in word.encode()) for word in lines)
    merges: list[tuple[str, str]] = []
    while len(merges) < _MOST_MERGES:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, count in words.items():
            merged[_merge(word, best)] += count
        words = merged
    return merges


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    index = 0
    while index < len(word):
        if word[index : index + 2] == pair:
            out.append(pair[0] + pair[1])
            index += 2
        else:
            out.append(word[index])
            index += 1
    return tuple(out)
