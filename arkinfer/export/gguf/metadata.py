"""The metadata that llama.cpp wants of a model: its shape, its scales and its tokenizer.

Knows no tensors. Source: llama.cpp `conversion/base.py`, `conversion/minicpm.py`,
`src/llama-vocab.cpp`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np

from arkinfer.errors import UnsupportedError
from arkinfer.export.gguf.writer import Value
from arkinfer.frontend.gguf import bpe, spm
from arkinfer.frontend.gguf.config import ARCHITECTURES
from arkinfer.frontend.gguf.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from arkinfer.models.config import ModelConfig
from arkinfer.runtime.chat import special_tokens
from arkinfer.runtime.stop import vocabulary
from arkinfer.runtime.tokens import token_facts

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Settings(Protocol):
    """What is needed of a checkpoint; `arkinfer.frontend.checkpoint.Checkpoint` is one."""

    config: ModelConfig
    raw_config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer_config: dict[str, Any]
    chat_template: str | None

    @property
    def name(self) -> str: ...
    @property
    def tokenizer_facts(self) -> dict[str, Any]: ...


def architecture(config: ModelConfig) -> str:
    """What GGUF calls it: `minicpm` or `llama`."""
    return next(ours for ours, theirs in ARCHITECTURES.items() if theirs == config.architecture)


def model_keys(checkpoint: Settings, file_type: int) -> dict[str, Value]:
    """What the file is, and the model's shape.

    Args:
        checkpoint: of which the file is made.
        file_type: the number of ggml's `general.file_type`.
    """
    config = checkpoint.config
    name = architecture(config)
    keys: dict[str, Value] = {
        "context_length": np.uint32(config.max_position_embeddings),
        "embedding_length": np.uint32(config.hidden_size),
        "block_count": np.uint32(config.num_hidden_layers),
        "feed_forward_length": np.uint32(config.intermediate_size),
        "attention.head_count": np.uint32(config.num_attention_heads),
        "attention.head_count_kv": np.uint32(config.num_key_value_heads),
        "attention.key_length": np.uint32(config.head_dim),
        "attention.value_length": np.uint32(config.head_dim),
        "attention.layer_norm_rms_epsilon": np.float32(config.rms_norm_eps),
        "rope.dimension_count": np.uint32(config.head_dim),
        "rope.freq_base": np.float32(config.rope.theta),
        "vocab_size": np.uint32(config.vocab_size),
    }
    if config.rope.kind == "longrope":
        original = np.uint32(config.rope.original_max_position)
        keys["rope.scaling.type"] = "longrope"
        keys["rope.scaling.original_context_length"] = original
        keys["rope.scaling.attn_factor"] = np.float32(config.rope_attention_factor)
    if name == "minicpm":
        keys["embedding_scale"] = np.float32(config.embedding_scale)
        keys["residual_scale"] = np.float32(config.residual_scale)
        keys["logit_scale"] = np.float32(config.logit_divisor)
    general: dict[str, Value] = {
        "general.architecture": name,
        "general.type": "model",
        "general.name": checkpoint.name,
        "general.file_type": np.uint32(file_type),
        "general.quantization_version": np.uint32(2),
    }
    return general | {f"{name}.{key}": value for key, value in keys.items()}


def tokenizer_keys(checkpoint: Settings) -> tuple[dict[str, Value], list[str]]:
    """The tokenizer and the chat template; and sentences about what cannot be said in GGUF.

    Raises:
        UnsupportedError: llama.cpp has no tokenizer of this kind.
    """
    facts = checkpoint.tokenizer_facts
    model = cast("dict[str, Any]", facts.get("model") or {})
    if model.get("type") != "BPE":
        raise _unsupported(f"it is of the kind {model.get('type')!r:.40}, and not BPE")
    tokens, types = _tokens(checkpoint, facts)
    notes: list[str] = []
    if model.get("byte_fallback"):
        keys = _spm(facts, model, tokens, types, notes)
    else:
        keys = _bpe(facts, model, notes)
    keys |= {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        **_special(checkpoint, facts),
    }
    if checkpoint.chat_template is not None:
        keys["tokenizer.chat_template"] = checkpoint.chat_template
    return keys, notes


def _tokens(checkpoint: Settings, facts: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """The text and the type of every id of the embedding; those without a token are unused."""
    size = checkpoint.config.vocab_size
    ids = vocabulary(facts)
    if max(ids.values()) >= size:
        raise _unsupported(f"it has the token {max(ids.values())}, and the model {size:,} of them")
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [UNUSED] * size
    unknown = facts["model"].get("unk_token")
    fallback = bool(facts["model"].get("byte_fallback"))
    for text, i in ids.items():
        tokens[i] = text
        types[i] = BYTE if fallback and _BYTE.fullmatch(text) else NORMAL
    for added in facts.get("added_tokens") or ():
        types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    if unknown in ids:
        types[ids[unknown]] = UNKNOWN
    return tokens, types


def _spm(
    facts: Mapping[str, Any],
    model: Mapping[str, Any],
    tokens: list[str],
    types: list[int],
    notes: list[str],
) -> dict[str, Value]:
    """A SentencePiece vocabulary, whose scores follow from the merges."""
    steps = facts.get("normalizer") or {}
    spaced = facts.get("pre_tokenizer") or {}
    kinds = {step["type"]: step for step in steps.get("normalizers") or [steps] if "type" in step}
    metaspace = spaced.get("type") == "Metaspace"
    if not metaspace and (spaced or not kinds.keys() <= {"Prepend", "Replace"}):
        raise _unsupported("it changes texts or splits them in a way of its own")
    adds_space = spaced.get("prepend_scheme", "always") != "never" if metaspace else (
        "Prepend" in kinds
    )  # fmt: skip
    pieces = [text for text, kind in zip(tokens, types, strict=True) if kind == NORMAL]
    known = set(pieces)
    ranked = [pair for pair in _merges(model) if pair[0] + pair[1] in known]
    scores, wrong = spm.scores_of(pieces, ranked)
    if wrong:
        notes.append(
            f"{wrong:,} of {len(ranked):,} merges of the tokenizer do not follow from scores, as "
            "GGUF has them: llama.cpp may split some texts in another way."
        )
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": np.array([scores.get(t, -1000.0) for t in tokens], np.float32),
        "tokenizer.ggml.add_space_prefix": adds_space,
    }


def _bpe(facts: Mapping[str, Any], model: Mapping[str, Any], notes: list[str]) -> dict[str, Value]:
    """Byte-level BPE."""
    name = bpe.name_of(facts.get("pre_tokenizer") or {}, bool(model.get("ignore_merges")))
    if name is None:
        raise _unsupported("llama.cpp has no name for the way in which it splits words")
    if facts.get("normalizer"):
        notes.append(
            "The tokenizer normalizes texts, which GGUF cannot say: llama.cpp may split some in "
            "another way."
        )
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in _merges(model)],
    }


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merges as pairs; older files have "left right"."""
    pairs: list[tuple[str, str]] = []
    for merge in model.get("merges") or ():
        left, right = merge if isinstance(merge, list) else merge.split(" ", 1)
        pairs.append((left, right))
    return pairs


def _special(checkpoint: Settings, facts: Mapping[str, Any]) -> dict[str, Value]:
    """Ids of the tokens that begin, end and pad texts, and whether a text gets the first one."""
    ids = vocabulary(facts)
    found = token_facts(
        checkpoint.raw_config, checkpoint.generation, checkpoint.tokenizer_config, facts,
        checkpoint.chat_template,
    )  # fmt: skip
    texts = special_tokens(checkpoint.tokenizer_config)
    ends = [i for i in (ids.get(texts.get("eos_token", "")), *found["stop"]) if i is not None]
    numbers = {
        "bos": found["bos"] if found["bos"] is not None else ids.get(texts.get("bos_token", "")),
        "eos": ends[0] if ends else None,
        "eot": next((i for i in ends if i != ends[0]), None),
        "unknown": ids.get(texts.get("unk_token", "")),
        "padding": ids.get(texts.get("pad_token", "")),
    }
    keys: dict[str, Value] = {
        f"tokenizer.ggml.{name}_token_id": np.uint32(i)
        for name, i in numbers.items()
        if i is not None
    }
    return keys | {
        "tokenizer.ggml.add_bos_token": found["bos"] is not None,
        "tokenizer.ggml.add_eos_token": bool(checkpoint.tokenizer_config.get("add_eos_token")),
    }


def _unsupported(why: str) -> UnsupportedError:
    return UnsupportedError(
        "The tokenizer cannot be written as GGUF",
        why[:1].upper() + why[1:],
        "Export in another format, such as gptq or compressed-tensors",
    )
