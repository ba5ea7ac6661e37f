"""What a GGUF file's metadata says about tokens, checked. Knows no tensors and no tokenizer.json.

Two kinds are read: `llama`, a SentencePiece vocabulary whose pieces merge by score, and `gpt2`,
byte-level BPE with merges and a named way to split words.

Source: llama.cpp `src/llama-vocab.cpp` (`llama_vocab::impl::load`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.frontend.gguf import bpe

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of tokens, as `tokenizer.ggml.token_type` has them."""

LONGEST_TOKEN = 1 << 10
"""Characters of a token; runs of 256 equal characters occur."""

MOST_CHARACTERS = 8 << 20
"""Of all tokens together; 256,000 tokens have two million."""

_ENDS = frozenset(
    {"</s>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>",
     "<|end|>", "<end_of_turn>", "<eos>"}
)  # fmt: skip
"""Tokens that end an answer wherever a vocabulary has them, as llama.cpp takes it."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a file.

    Attributes:
        kind: "llama" or "gpt2".
        tokens: by id.
        types: of the tokens, int32 [tokens].
        scores: float32 [tokens]; "llama" only.
        merges: "left right"; "gpt2" only.
        pre: what splits words; "gpt2" only.
        ids: of bos, eos, unk and pad, as far as there are such.
        ends: every token that ends an answer.
        add_bos, add_eos: whether a text gets them.
        add_space: whether a text begins with a space; "llama" only.
    """

    kind: str
    tokens: list[str]
    types: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    merges: list[str]
    pre: str
    ids: Mapping[str, int]
    ends: tuple[int, ...]
    add_bos: bool
    add_eos: bool
    add_space: bool

    def of_type(self, *types: int) -> list[int]:
        """The ids of the tokens of these types, ascending."""
        return np.flatnonzero(np.isin(self.types, types)).tolist()


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """What the metadata says about tokens, checked.

    Raises:
        CheckpointError: tokens, types, scores or merges are missing or contradict each other.
        UnsupportedError: another kind of tokenizer, or an unknown way to split words.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in ("llama", "gpt2"):
        what = "no tokenizer" if kind is None else f'a tokenizer of the kind "{kind!s:.80}"'
        raise UnsupportedError(
            f"The GGUF file has {what}",
            "Supported are llama (SentencePiece) and gpt2 (byte-level BPE)",
            "Use a file with the tokenizer of the MiniCPM family or of a plain Llama.",
        )
    tokens = _texts(metadata, "tokens")
    types = _numbers(metadata, "token_type", len(tokens), NORMAL).astype(np.int32)
    merges, pre = [], ""
    scores = np.zeros(0, np.float32)
    if kind == "gpt2":
        pre = str(metadata.get("tokenizer.ggml.pre", "default"))
        bpe.splitter(pre)
        merges = _texts(metadata, "merges", named=False)
    else:
        scores = _numbers(metadata, "scores", len(tokens), None).astype(np.float32)
    ids = _ids(metadata, len(tokens), {"bos": 1, "eos": 2, "unk": 0} if kind == "llama" else {})
    control = np.isin(types, (CONTROL, USER_DEFINED))
    ends = {i for name in ("eos", "eot", "eom") if (i := ids.get(name)) is not None}
    ends |= {i for i in np.flatnonzero(control).tolist() if tokens[i] in _ENDS}
    spm_like = kind == "llama"
    return Vocabulary(
        kind, tokens, types, scores, merges, pre, ids, tuple(sorted(ends)),
        add_bos=_flag(metadata, "add_bos_token", spm_like or bpe.adds_bos(pre)),
        add_eos=_flag(metadata, "add_eos_token", False),
        add_space=_flag(metadata, "add_space_prefix", spm_like),
    )  # fmt: skip


def _texts(metadata: Mapping[str, Any], key: str, named: bool = True) -> list[str]:
    """An array of texts; as tokens they get names where they are empty, and are all different."""
    found = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not found:
        raise _incomplete(f"It has no tokenizer.ggml.{key}")
    texts = cast("list[str]", found)
    if sum(map(len, texts)) > MOST_CHARACTERS or max(map(len, texts)) > 2 * LONGEST_TOKEN:
        raise _incomplete(f"Its tokenizer.ggml.{key} is too long")
    if not named:
        return texts
    if max(map(len, texts)) > LONGEST_TOKEN:
        raise _incomplete("One of its tokens is too long")
    texts = [text or f"[EMPTY_{i}]" for i, text in enumerate(texts)]
    if len(set(texts)) != len(texts):
        raise _incomplete("Two of its tokens are the same text")
    return texts


def _numbers(
    metadata: Mapping[str, Any], key: str, count: int, default: int | None
) -> npt.NDArray[Any]:
    found = metadata.get(f"tokenizer.ggml.{key}")
    if found is None and default is not None:
        return np.full(count, default)
    if not isinstance(found, np.ndarray) or found.size != count:
        raise _incomplete(f"It has {count:,} tokens, and its tokenizer.ggml.{key} has not as many")
    if not np.isfinite(found).all():
        raise _incomplete(f"Its tokenizer.ggml.{key} holds what is no number")
    return found


def _ids(metadata: Mapping[str, Any], count: int, usual: Mapping[str, int]) -> dict[str, int]:
    """Ids of special tokens by name; one that names no token means: there is none."""
    ids: dict[str, int] = {}
    for name in ("bos", "eos", "unk", "pad", "eot", "eom"):
        long = {"unk": "unknown", "pad": "padding"}.get(name, name)
        value = metadata.get(f"tokenizer.ggml.{long}_token_id", usual.get(name))
        if type(value) is int and 0 <= value < count:
            ids[name] = value
    return ids


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    return bool(metadata.get(f"tokenizer.ggml.{key}", default))


def _incomplete(why: str) -> CheckpointError:
    return CheckpointError(
        "The tokenizer of the GGUF file cannot be used", why, "Convert the model again."
    )
