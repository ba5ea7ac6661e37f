"""Byte-level BPE of GGUF files: the ways to split words that `tokenizer.ggml.pre` names.

Knows no metadata. A name is read if its patterns are known to be those of llama.cpp; export uses
the same table the other way round.

Source: `llm_tokenizer_bpe` of llama.cpp's `src/llama-vocab.cpp`; the tokenizer.json files of the
models that the names come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from arkinfer.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from arkinfer.frontend.gguf.vocabulary import Vocabulary

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _bytes(use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


_DIGITS = {"type": "Digits", "individual_digits": True}

_SPLITTERS: dict[str, dict[str, Any]] = {
    "gpt-2": _bytes(True),
    "smollm": _sequence(_DIGITS, _bytes(True)),
    "llama-bpe": _sequence(_split(_WORDS.replace("DIGITS", "{1,3}")), _bytes(False)),
    "smaug-bpe": _sequence(_split(_WORDS.replace("DIGITS", "{1,3}")), _bytes(False)),
    "qwen2": _sequence(_split(_WORDS.replace("DIGITS", "")), _bytes(False)),
    "minicpm5": _sequence(
        _split(r"\p{N}{1,3}"), _split(_WORDS.replace("DIGITS", "+")), _bytes(False)
    ),
    "default": _sequence(
        _split(r"[\p{P}\$\+<=>\^~\|]+"),
        _split(_GPT2),
        _split(r"\p{N}+"),
        _split("[0-9][0-9][0-9]"),
        _bytes(False),
    ),
}
"""Of names that mean the same, the one that is written comes first."""

_SAME = {
    "phi-2": "gpt-2",
    "starcoder": "smollm",
    "refact": "smollm",
    "command-r": "smollm",
    "codeshell": "smollm",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "dbrx": "smaug-bpe",
    "stablelm2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
}

_WHOLE_WORDS = ("llama-bpe", "minicpm5")
"""Those of which a word that is a token is that token, whatever the merges say."""


def splitter(name: str) -> dict[str, Any]:
    """The pre-tokenizer of a tokenizer.json that splits as `tokenizer.ggml.pre` = name says.

    Raises:
        UnsupportedError: another name.
    """
    known = _SAME.get(name, name)
    if known not in _SPLITTERS:
        raise UnsupportedError(
            f'The GGUF file splits words in the way "{name:.80}", which is not supported',
            f"It is the tokenizer.ggml.pre of its metadata; supported are {', '.join(_SPLITTERS)}",
            "Use a file with the tokenizer of the MiniCPM family or of a plain Llama.",
        )
    return _SPLITTERS[known]


def adds_bos(name: str) -> bool:
    """Whether a text gets a first token where the file does not say."""
    return _SAME.get(name, name) == "llama-bpe"


def parts(vocabulary: Vocabulary) -> dict[str, Any]:
    """Normalizer, pre-tokenizer, decoder and model of the tokenizer.json.

    Raises:
        CheckpointError: a merge is no pair of tokens that make a token.
    """
    ids = {text: i for i, text in enumerate(vocabulary.tokens)}
    pairs: list[list[str]] = []
    for merge in vocabulary.merges:
        left, _, right = merge[1:].partition(" ")
        left = merge[:1] + left
        if left not in ids or right not in ids or left + right not in ids:
            raise CheckpointError(
                "The tokenizer of the GGUF file cannot be used",
                f"Its merge {merge!r:.80} is no pair of tokens that make a token",
                "Convert the model again.",
            )
        pairs.append([left, right])
    return {
        "normalizer": None,
        "pre_tokenizer": splitter(vocabulary.pre),
        "decoder": _bytes(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": _SAME.get(vocabulary.pre, vocabulary.pre) in _WHOLE_WORDS,
            "vocab": ids,
            "merges": pairs,
        },
    }


def name_of(pre_tokenizer: Mapping[str, Any], ignore_merges: bool) -> str | None:
    """The `tokenizer.ggml.pre` of a tokenizer.json's pre-tokenizer; None: it has no name."""
    wanted = _steps(pre_tokenizer)
    for name, known in _SPLITTERS.items():
        if _steps(known) == wanted and (name in _WHOLE_WORDS) == ignore_merges:
            return name
    return None


def _steps(pre_tokenizer: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What of a pre-tokenizer decides where it splits."""
    inner = pre_tokenizer.get("pretokenizers")
    steps = cast("list[dict[str, Any]]", inner if isinstance(inner, list) else [pre_tokenizer])
    return [
        (step.get("type"), step.get("individual_digits"), step.get("add_prefix_space"),
         step.get("use_regex", True if step.get("type") == "ByteLevel" else None),
         repr(step.get("pattern")), step.get("behavior"), step.get("invert"))
        for step in steps
    ]  # fmt: skip
