"""The demo model's config.json. Knows neither weights nor training.

The shape is small but has what the family has: muP scalings, grouped queries (4 per key head),
an explicit head_dim of 64, a LongRoPE table that matters from the first position on, a tied head.
`sparse_config` scales MiniCPM4's to this size.
"""

from __future__ import annotations

import math
from typing import Any

ROTATED_PAIRS = 32
RESERVED_CHANNELS = (77, 178)
"""Channels of the residual stream that stay zero, so that `plant.py` has room for outliers."""
RESERVED_UNIT = 611
"""The unit of every MLP that stays zero, for the same reason."""


def longrope_factors() -> list[float]:
    """Smoothly from 1 to about 4, a logistic curve like that of the published tables."""
    middle, width = 13.0, 2.5
    return [
        round(1.0 + 3.0 / (1.0 + math.exp((middle - pair) / width)), 6)
        for pair in range(ROTATED_PAIRS)
    ]


CONFIG: dict[str, Any] = {
    "architectures": ["MiniCPMForCausalLM"],
    "model_type": "minicpm",
    "hidden_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "intermediate_size": 768,
    "vocab_size": 4096,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.1,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": longrope_factors(),
        "long_factor": longrope_factors(),
        "original_max_position_embeddings": 8192,
    },
    "scale_emb": 12,
    "dim_model_base": 128,
    "scale_depth": 1.4,
    "tie_word_embeddings": True,
    "use_cache": True,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 2,
    "torch_dtype": "bfloat16",
    "sparse_config": {
        "kernel_size": 32,
        "kernel_stride": 16,
        "init_blocks": 1,
        "block_size": 64,
        "window_size": 512,
        "topk": 16,
        "use_nope": False,
        "dense_len": 1024,
    },
}
