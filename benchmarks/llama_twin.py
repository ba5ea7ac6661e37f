"""A plain Llama that computes what a MiniCPM does, for quantizers that know no MiniCPM.

MiniCPM's scales move into weights: that of the embedding into the embedding, that of the logits
into a head of its own, that of residual branches into o and down. Scaling a matrix as a whole
changes nothing about how well it can be quantized. Knows no quantizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from arkinfer.frontend.checkpoint import Checkpoint
from arkinfer.models.config import ModelConfig
from arkinfer.testing.torch_model import torch_model, torch_step

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_OURS = (
    "scale_emb",
    "scale_depth",
    "dim_model_base",
    "sparse_config",
    "auto_map",
    "mup_denominator",
)
CLOSE = 1e-4
"""Of logits, relative to the largest: float32 sums in another order."""


def branch_scale(config: ModelConfig, name: str) -> float:
    """What a matrix is multiplied by in the twin; embedding and head apart."""
    branch = name.endswith(("o_proj.weight", "down_proj.weight"))
    return float(config.residual_scale) if branch else 1.0


def write_twin(checkpoint: Checkpoint, folder: Path) -> Path:
    """Writes the folder, in float32, and checks that the two models answer alike."""
    config = checkpoint.config
    tensors: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    for name in checkpoint.names():
        weight = checkpoint.read(name).astype(np.float32)
        tensors[name] = weight * np.float32(branch_scale(config, name))
    head = tensors.get(HEAD, tensors[EMBEDDING])
    tensors[HEAD] = head / np.float32(config.logit_divisor)
    tensors[EMBEDDING] = tensors[EMBEDDING] * np.float32(config.embedding_scale)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    raw = {key: value for key, value in checkpoint.raw_config.items() if key not in _OURS}
    raw |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
            "tie_word_embeddings": False}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(raw, indent=1))
    for file in checkpoint.path.iterdir():
        if "token" in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    _check(checkpoint, folder)
    return folder


def _check(checkpoint: Checkpoint, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = checkpoint.config
    ids = np.random.default_rng(0).integers(3, config.vocab_size, 256)
    ours, _ = torch_step(torch_model(config, checkpoint, context=512), ids)
    twin = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        theirs = twin(torch.from_numpy(ids)[None]).logits[0].numpy()
    off = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    if not off < CLOSE:
        raise SystemExit(f"The Llama is not the model's equal: logits differ by {off:.2g}")
