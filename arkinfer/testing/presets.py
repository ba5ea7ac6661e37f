"""Published model shapes by name, as dictionaries of config.json. Knows no weights.

`minicpm4-0.5b` and `minicpm4-8b` hold the published values; `bitcpm4-1b`, `minicpm4.1-8b` and
`minicpm5-1b` are inferred from parameter counts and model cards; `tiny` is ours.
"""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

from arkinfer.errors import UsageError, nearest
from arkinfer.models.config import ModelConfig

PRESETS = (
    "bitcpm4-1b",
    "minicpm4-0.5b",
    "minicpm4-8b",
    "minicpm4.1-8b",
    "minicpm5-1b",
    "tiny",
)


def preset(name: str, **changes: Any) -> dict[str, Any]:
    """The config.json of a named shape, with some keys changed.

    Raises:
        UsageError: no preset has that name.
    """
    if name not in PRESETS:
        raise UsageError(f'There is no preset "{name}"', "", nearest(name, PRESETS))
    text = (files("arkinfer.testing") / "configs" / f"{name}.json").read_text()
    return {**json.loads(text), **changes}


def config_json(config: ModelConfig) -> dict[str, Any]:
    """A config.json that `parse_config` reads as `config` (scalings up to rounding)."""
    raw: dict[str, Any] = {
        "architectures": [config.architecture],
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_theta": config.rope.theta,
        "rope_scaling": _rope_scaling(config),
        "hidden_act": "silu",
        "torch_dtype": config.torch_dtype,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
    }
    if config.architecture == "MiniCPMForCausalLM":
        raw["scale_emb"] = config.embedding_scale
        raw["scale_depth"] = config.residual_scale * math.sqrt(config.num_hidden_layers)
        raw["dim_model_base"] = config.hidden_size / config.logit_divisor
    if config.sparse is not None:
        raw["sparse_config"] = dict(config.sparse)
    return raw


def _rope_scaling(config: ModelConfig) -> dict[str, Any] | None:
    rope = config.rope
    if rope.kind == "default":
        return None
    scaling: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": list(rope.short_factor),
        "long_factor": list(rope.long_factor),
        "original_max_position_embeddings": rope.original_max_position,
    }
    if rope.attention_factor is not None:
        scaling["attention_factor"] = rope.attention_factor
    return scaling
