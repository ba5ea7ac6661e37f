"""Writes GGUF files as llama.cpp's converter does, with the `gguf` package: what import must read.

Independent of our own reader and exporter: names, keys and the order of rows are written down here
once more, from `conversion/minicpm.py`, `conversion/llama.py` and `conversion/base.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from arkinfer.frontend.checkpoint import Checkpoint
from arkinfer.models.config import parse_config

Raw = Callable[[str, npt.NDArray[np.float32]], tuple[npt.NDArray[Any], int]]
"""A tensor's Hugging Face name, its rows in GGUF's order -> what is stored, and its type."""

_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def add_config(writer: gguf.GGUFWriter, raw: Mapping[str, Any], scales: bool = True) -> None:
    """The keys of a model's shape.

    Args:
        writer: of the file.
        raw: config.json, which names head_dim and every MiniCPM scale.
        scales: False leaves out MiniCPM's scales, as converters did until 2024.
    """
    writer.add_block_count(raw["num_hidden_layers"])
    writer.add_context_length(raw["max_position_embeddings"])
    writer.add_embedding_length(raw["hidden_size"])
    writer.add_feed_forward_length(raw["intermediate_size"])
    writer.add_head_count(raw["num_attention_heads"])
    writer.add_head_count_kv(raw["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(raw["rms_norm_eps"])
    writer.add_vocab_size(raw["vocab_size"])
    if "rope_theta" in raw:
        writer.add_rope_freq_base(raw["rope_theta"])
    dim = raw.get("head_dim", raw["hidden_size"] // raw["num_attention_heads"])
    if "head_dim" in raw:
        writer.add_key_length(dim)
        writer.add_value_length(dim)
    writer.add_rope_dimension_count(dim)
    scaling = raw.get("rope_scaling")
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        for kind in ("long", "short"):
            factors = np.array(scaling[f"{kind}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{kind}.weight", factors)
        if (factor := parse_config(raw).rope_attention_factor) != 1:
            writer.add_rope_scaling_attn_factors(factor)
    if raw["architectures"] == ["MiniCPMForCausalLM"] and scales:
        writer.add_embedding_scale(float(raw["scale_emb"]))
        writer.add_residual_scale(raw["scale_depth"] / raw["num_hidden_layers"] ** 0.5)
        writer.add_logit_scale(raw["hidden_size"] / raw["dim_model_base"])


def add_bpe(writer: gguf.GGUFWriter, facts: Mapping[str, Any], pre: str, size: int) -> None:
    """A byte-level tokenizer.json."""
    vocab: dict[str, int] = facts["model"]["vocab"]
    special = {token["content"] for token in facts["added_tokens"]}
    texts = {i: text for text, i in vocab.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([texts.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types(
        [3 if texts.get(i) in special else 1 if i in texts else 5 for i in range(size)]
    )
    writer.add_token_merges([" ".join(pair) for pair in facts["model"]["merges"]])
    writer.add_bos_token_id(vocab["<s>"])
    writer.add_eos_token_id(vocab["<|im_end|>"])
    writer.add_unk_token_id(vocab["<unk>"])
    writer.add_add_bos_token(True)


def convert(
    checkpoint: Checkpoint,
    file: Path,
    store: Raw,
    *,
    pre: str = "smollm",
    scales: bool = True,
    more: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> Path:
    """A whole model, its tensors stored as `store` says; one-dimensional ones in float32."""
    raw = checkpoint.raw_config
    names = {"MiniCPMForCausalLM": "minicpm", "LlamaForCausalLM": "llama"}
    writer = gguf.GGUFWriter(file, names[raw["architectures"][0]])
    more(writer)
    add_config(writer, raw, scales)
    if pre:
        add_bpe(writer, checkpoint.tokenizer_facts, pre, raw["vocab_size"])
        writer.add_chat_template(checkpoint.chat_template or "")
    for name in checkpoint.names():
        rows = checkpoint.read(name).astype(np.float32)
        heads = {"q": "num_attention_heads", "k": "num_key_value_heads"}
        if match := re.search(r"\.([qk])_proj\.", name):
            count = raw[heads[match[1]]]
            rows = rows.reshape(count, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
        data, kind = (rows, 0) if rows.ndim == 1 else store(name, rows)
        writer.add_tensor(gguf_name(name), data, raw_dtype=gguf.GGMLQuantizationType(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def gguf_name(name: str) -> str:
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    return f"blk.{match[1]}.{_NAMES[match[2]]}.weight" if match else whole[name]


def quantized(kind: int) -> Raw:
    """Stores every matrix in one type, by ggml's own Python routines."""

    def store(name: str, rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], int]:
        return gguf.quants.quantize(rows, gguf.GGMLQuantizationType(kind)), kind

    return store
