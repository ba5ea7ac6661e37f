"""The part of the model that a tensor belongs to, judged by its name. Knows no file."""

from __future__ import annotations

import re

# The first that matches names the group: "input_layernorm" and "q_norm" are norms before all else.
_GROUPS = {
    "norms": "norm",
    "head": "lm_head",
    "embedding": "embed",
    "attention": "attn|attention|[qkvo]_proj|qkv|cache_scales",
    "mlp": "mlp|ffn|(gate|up|down)_proj",
    "other": "",
}

GROUPS = ("embedding", "attention", "mlp", "norms", "head", "other")
"""All groups, in the order of the model."""


def group_of(tensor: str) -> str:
    """The group of a tensor.

    >>> group_of("model.layers.0.input_layernorm.weight"), group_of("lm_head.weight")
    ('norms', 'head')
    """
    return next(group for group, pattern in _GROUPS.items() if re.search(pattern, tensor.lower()))
