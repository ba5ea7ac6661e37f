"""Small configs that span what the family varies: for parity and conformance tests.

Knows no weights. Every config is small enough to run through the numpy reference in moments.
"""

from __future__ import annotations

from typing import Any

from arkinfer.models.config import ModelConfig, parse_config


def _factors(count: int, last: float) -> list[float]:
    """A LongRoPE table that rises from 1 to `last`."""
    return [round(1.0 + (last - 1.0) * i / (count - 1), 4) for i in range(count)]


def _longrope(head_dim: int, original: int, **extra: Any) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": _factors(head_dim // 2, 4.0),
        "long_factor": _factors(head_dim // 2, 30.0),
        "original_max_position_embeddings": original,
        **extra,
    }


def _minicpm(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["MiniCPMForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": [2, 90],
        "dim_model_base": 64,
        "hidden_act": "silu",
        "hidden_size": 128,
        "intermediate_size": 192,
        "max_position_embeddings": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "torch_dtype": "float32",
        "vocab_size": 97,
        **changes,
    }


def _llama(**changes: Any) -> dict[str, Any]:
    raw = _minicpm(architectures=["LlamaForCausalLM"], **changes)
    return {k: v for k, v in raw.items() if k not in ("scale_emb", "scale_depth", "dim_model_base")}


FAMILY: dict[str, dict[str, Any]] = {
    "tied": _minicpm(num_hidden_layers=2),
    "untied": _minicpm(num_hidden_layers=2, tie_word_embeddings=False, rms_norm_eps=1e-6),
    "longrope-short": _minicpm(rope_scaling=_longrope(64, 64)),
    "longrope-long": _minicpm(num_hidden_layers=3, rope_scaling=_longrope(64, 16)),
    "longrope-given-factor": _minicpm(rope_scaling=_longrope(64, 16, attention_factor=1.25)),
    "group-1": _minicpm(num_key_value_heads=4),
    "group-8": _minicpm(num_attention_heads=8, num_key_value_heads=1, head_dim=16),
    "group-16": _minicpm(num_attention_heads=32, num_key_value_heads=2, head_dim=16),
    "head-128": _minicpm(num_attention_heads=2, num_key_value_heads=1, head_dim=128),
    "head-not-hidden": _minicpm(hidden_size=96, num_attention_heads=4, head_dim=64),
    "odd-sizes": _minicpm(hidden_size=72, intermediate_size=100, dim_model_base=24, vocab_size=61),
    "bfloat16": _minicpm(torch_dtype="bfloat16"),
    "llama-untied": _llama(
        num_hidden_layers=2, tie_word_embeddings=False, rope_theta=5e6, head_dim=48
    ),
    "llama-tied": _llama(tie_word_embeddings=True),
}
"""config.json by what is special about it. Contexts are 64 tokens."""


def family(name: str, **changes: Any) -> ModelConfig:
    """The parsed config of one of `FAMILY`, with some keys changed."""
    return parse_config({**FAMILY[name], **changes})
