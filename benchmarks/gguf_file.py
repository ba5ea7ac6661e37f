"""Writes a Llama checkpoint as GGUF, with matrices in a type of llama.cpp's. Knows no engine.

Embedding and head are in Q4_0 where the layers have fewer bits. Vocabulary and merges are made up:
engines are sent token ids only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
HEAD = "Q4_0"
TERNARY = ("TQ1", "TQ2", "IQ1_BN", "IQ2_BN")
"""How the names of types begin that hold ternary weights."""
WRITTEN = ("BF16", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0")
"""Types that the package gguf can write; others need the tools of an engine."""

_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write_gguf(checkpoint: Path, path: Path, kind: str) -> Path:
    """The file, made once, as a whole or not at all.

    Args:
        checkpoint: a Llama's, in safetensors.
        path: the file.
        kind: the type of the layers' matrices, one of `WRITTEN`.
    """
    if path.exists():
        return path
    import gguf

    partial = path.with_suffix(".part")
    writer = gguf.GGUFWriter(partial, "llama")
    config = json.loads((checkpoint / "config.json").read_text())
    _describe(writer, config)
    layers = gguf.GGMLQuantizationType[kind]
    head = gguf.GGMLQuantizationType[HEAD] if kind.startswith(TERNARY) else layers
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for name, array in _tensors(checkpoint, heads, kv_heads):
        if array.ndim == 2:
            used = layers if name.startswith("blk.") else head
            writer.add_tensor(name, gguf.quants.quantize(array, used), raw_dtype=used)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)
    return path


def _describe(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    size = config["vocab_size"]
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{index}" for index in range(size)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([1] * size)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def read_tensor(checkpoint: Path, name: str) -> Floats:
    """One tensor of a checkpoint, in float32."""
    from safetensors import safe_open

    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as found:
            if name in found.keys():
                return found.get_tensor(name).float().numpy()
    raise KeyError(name)


def _tensors(checkpoint: Path, heads: int, kv_heads: int) -> Iterator[tuple[str, Floats]]:
    """Names and numbers as llama.cpp has them: rotary pairs of queries and keys are neighbours."""
    for name, array in tensors(checkpoint):
        if name == "model.embed_tokens.weight":
            yield "token_embd.weight", array
        elif name == "model.norm.weight":
            yield "output_norm.weight", array
        elif name == "lm_head.weight":
            yield "output.weight", array
        else:
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                array = _neighbours(array, heads if "q_proj" in part else kv_heads)
            yield f"blk.{layer}.{_NAMES[part]}.weight", array


def tensors(checkpoint: Path) -> Iterator[tuple[str, Floats]]:
    """Names and numbers of a checkpoint, one by one, in float32."""
    from safetensors import safe_open

    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as found:
            for name in found.keys():
                yield name, found.get_tensor(name).float().numpy()


def _neighbours(matrix: Floats, heads: int) -> Floats:
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
