"""Reads a Hugging Face folder of the demo model into the torch module. Knows no training."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from safetensors.torch import load_file

from arkinfer.models.config import parse_config
from arkinfer.models.minicpm import CausalLM


def read_model(folder: Path) -> CausalLM:
    """The model in float32, ready for inference."""
    config = parse_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model = CausalLM(config)
    weights = {
        name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model.eval()


def read_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
