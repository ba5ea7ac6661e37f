"""What GGUF calls the tensors of a model, and in which order it has their rows. Reads nothing.

llama.cpp rotates neighbouring rows of q and k, a Hugging Face checkpoint the two halves of a head:
GGUF files have the rows 0, d/2, 1, d/2 + 1, … of each head of d rows.
Source: llama.cpp `gguf-py/gguf/tensor_mapping.py`; `LlamaModel.permute` of its converter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OURS = re.compile(r"blk\.(\d{1,4})\.(\w+)\.weight")
_THEIRS = re.compile(r"model\.layers\.(\d+)\.([\w.]+)\.weight")

ROPE_FREQS = "rope_freqs.weight"
ROPE_SHORT, ROPE_LONG = "rope_factors_short.weight", "rope_factors_long.weight"
ROPE_TENSORS = (ROPE_FREQS, ROPE_SHORT, ROPE_LONG)
"""Float tensors that belong to the config."""


def hugging_face_name(name: str) -> str | None:
    """
    >>> hugging_face_name("blk.7.attn_q.weight")
    'model.layers.7.self_attn.q_proj.weight'
    """
    match = _OURS.fullmatch(name)
    if match is None or match[2] not in _LAYER:
        return _WHOLE.get(name)
    return f"model.layers.{int(match[1])}.{_LAYER[match[2]]}.weight"


def gguf_name(name: str) -> str:
    """
    >>> gguf_name("model.layers.7.self_attn.q_proj.weight")
    'blk.7.attn_q.weight'
    """
    match = _THEIRS.fullmatch(name)
    if match is None:
        return next(ours for ours, theirs in _WHOLE.items() if theirs == name)
    return f"blk.{match[1]}.{next(o for o, t in _LAYER.items() if t == match[2])}.weight"


def is_rotated(name: str) -> bool:
    """Whether GGUF has the rows of this tensor (by its Hugging Face name) in another order."""
    return name.endswith((".self_attn.q_proj.weight", ".self_attn.k_proj.weight"))


Rows = Callable[[int, int], npt.NDArray[Any]]
"""Reads the rows [start, stop) of a tensor."""


def half_rows(read: Rows, head_dim: int, start: int, stop: int) -> npt.NDArray[Any]:
    """Rows [start, stop) in the order of a Hugging Face checkpoint, of a tensor in GGUF's.

    Reads the whole heads that they are in; what a row is made of does not matter.
    """
    first = start // head_dim * head_dim
    rows = read(first, -(-stop // head_dim) * head_dim)
    heads = rows.reshape(len(rows) // head_dim, head_dim // 2, 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)[start - first : stop - first]


def paired_rows(read: Rows, head_dim: int, start: int, stop: int) -> npt.NDArray[Any]:
    """The inverse of `half_rows`: rows [start, stop) in GGUF's order, of a tensor in the other."""
    first = start // head_dim * head_dim
    rows = read(first, -(-stop // head_dim) * head_dim)
    heads = rows.reshape(len(rows) // head_dim, 2, head_dim // 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)[start - first : stop - first]
