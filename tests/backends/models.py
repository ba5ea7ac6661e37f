"""The models of the conformance suite: each shows one op in one variation, or a whole model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.backends.lab import Model

LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i / 16 for i in range(16)],
    "long_factor": [1.0 + i for i in range(16)],
    "original_max_position_embeddings": 40,
}
LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}

DENSE = [
    Model("nn.linear float32"),
    Model("nn.linear float16", dtype="float16"),
    Model("nn.linear bfloat16", dtype="bfloat16"),
    Model("nn.linear untied head", {"tie_word_embeddings": False}),
    Model("nn.embedding unscaled, nn.add unscaled", LLAMA),
    Model("nn.add scaled down", {"scale_depth": 0.3}),
    Model("nn.rms_norm large eps", {"rms_norm_eps": 0.05}),
    Model("nn.silu_mul wide", {"intermediate_size": 608}),
    Model("nn.rope large base", {"rope_theta": 5e6}),
    Model("nn.rope short factors", {"rope_scaling": LONGROPE}, context=40),
    Model("nn.rope long factors", {"rope_scaling": LONGROPE}, context=48),
    Model("nn.rope given factor", {"rope_scaling": {**LONGROPE, "attention_factor": 1.5}}),
    Model("attn.dense group 1", {"num_key_value_heads": 4}),
    Model("attn.dense group 3 of 2", {"num_attention_heads": 6}),
    Model("attn.dense group 8", {"num_attention_heads": 8, "num_key_value_heads": 1}),
    Model("attn.dense group 16", {
        "num_attention_heads": 16, "num_key_value_heads": 1, "head_dim": 16}),
    Model("attn.dense head 64", {"head_dim": 64}),
    Model("attn.dense head 128", {"head_dim": 128, "num_attention_heads": 2}),
]  # fmt: skip

QUANT_LINEAR = [
    Model(f"quant.linear {scheme}", linear=scheme)
    for scheme in (
        "int4-g16", "int4-g32", "int4-g64", "int4-g128", "int4-row",
        "int4-g32-asym", "int4-g128-asym", "int4-g32-min", "int4-g32-actorder",
        "int8-g32", "int8-g128", "int8-row", "int8-g32-asym", "int8-row-asym",
        "int2-g64", "int2-g128", "int2-g64-asym", "int3-g32", "int5-g32", "int6-g64-asym",
    )
]  # fmt: skip

EXACT = [
    Model(f"quant.linear {scheme}, activations as they are", linear=scheme, activations="f32")
    for scheme in ("int2-row", "int2-g64-asym", "int4-g32-asym", "int4-g32-actorder", "int8-row")
]

QUANT_EMBEDDING = [
    *(
        Model(f"quant.embedding {scheme}", embedding=scheme)
        for scheme in (
            "int4-g32", "int4-g128-asym", "int4-row", "int4-g32-min", "int8-g32", "int8-row",
            "int8-g32-asym", "int2-g64", "int3-g32",
        )
    ),
    Model("quant.embedding untied", {"tie_word_embeddings": False}, embedding="int4-g32"),
]  # fmt: skip

CACHED = [
    Model("cache.append int8", cache="channel"),
    Model("cache.append int8 by token", cache="token"),
    Model("attn.dense int8, group 8", {
        "num_attention_heads": 8, "num_key_value_heads": 1, "scale_depth": 4.0}, cache="channel"),
    Model("attn.dense int8 by token, group 8", {
        "num_attention_heads": 8, "num_key_value_heads": 1, "scale_depth": 4.0}, cache="token"),
    Model("attn.dense int8 by token, head 64", {"head_dim": 64}, cache="token"),
    Model("attn.dense int8 by token, head 128", {
        "head_dim": 128, "num_attention_heads": 2}, cache="token"),
    Model("cache.append bf16", cache="bf16"),
    Model("cache.append f16", cache="f16"),
    Model("attn.dense bf16, group 8", {
        "num_attention_heads": 8, "num_key_value_heads": 1, "scale_depth": 4.0}, cache="bf16"),
    Model("attn.dense f16, head 64", {"head_dim": 64}, cache="f16"),
    Model("attn.dense bf16, head 128", {
        "head_dim": 128, "num_attention_heads": 2}, cache="bf16"),
]  # fmt: skip

THREE = {"num_hidden_layers": 3, "rope_scaling": LONGROPE}
INT4 = Model("three layers int4", THREE, linear="int4-g32", embedding="int8-g32", dtype="bfloat16")

WHOLE = [
    Model("three layers", THREE),
    INT4,
    replace(INT4, name="three layers int4, int8 cache", cache="channel"),
    replace(INT4, name="three layers int4, int8 cache by token", cache="token"),
    replace(INT4, name="three layers int4, bf16 cache", cache="bf16"),
    replace(INT4, name="three layers int4, f16 cache", cache="f16"),
    replace(INT4, name="three layers int4, activations as they are", activations="f32"),
    Model("llama int8", LLAMA, linear="int8-row", embedding="int8-row", dtype="bfloat16"),
]

DEEP = Model("deep", {"max_position_embeddings": 512, "vocab_size": 61}, context=400, chunk=160)
"""Tokens enough for kernels to go over their caches in several blocks."""

EVERY = (*DENSE, *QUANT_LINEAR, *EXACT, *QUANT_EMBEDDING, *CACHED, *WHOLE)
MODELS = {m.name: m for m in EVERY}
