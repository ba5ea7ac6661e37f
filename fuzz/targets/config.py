"""A checkpoint's folder: config.json, generation_config.json, tokenizer_config.json, the index."""

from __future__ import annotations

import json

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.frontend.checkpoint import open_checkpoint, open_config
from fuzz.files import DEMO, file, folder, refusing
from fuzz.structure import BREAK

DICTIONARY = ["rope_scaling", "longrope", "long_factor", "short_factor", "factor", "architectures",
              "MiniCPMForCausalLM", "LlamaForCausalLM", "eos_token_id", "num_hidden_layers",
              "original_max_position_embeddings", "rope_parameters", "chat_template", "weight_map",
              "1e999", "NaN", "-1", "null", "\\ud800", "99999999999999999999"]  # fmt: skip
IS_JSON = True
LENGTH = 8192
_FILES = ("config.json", "generation_config.json", "tokenizer_config.json",
          "model.safetensors.index.json")  # fmt: skip


def seeds() -> list[bytes]:
    """Up to four files, one after the other."""
    checkpoint = DEMO / "checkpoint"
    texts = [json.dumps(json.loads((checkpoint / f).read_bytes())).encode() for f in _FILES[:3]]
    small = json.dumps(
        {
            "architectures": ["MiniCPMForCausalLM"], "hidden_size": 4, "num_hidden_layers": 1,
            "num_attention_heads": 1, "intermediate_size": 4, "vocab_size": 4,
            "rope_scaling": {"rope_type": "longrope", "long_factor": [1.0, 2],
                             "short_factor": [1, 1], "original_max_position_embeddings": 32},
            "scale_emb": 12, "dim_model_base": 256, "scale_depth": 1.4, "eos_token_id": [2, 3],
        }
    ).encode()  # fmt: skip
    index = b'{"weight_map": {"model.norm.weight": "a.safetensors"}}'
    template = b'{"chat_template": [{"name": "default", "template": "x"}], "bos_token": "<s>"}'
    parts = [small, b'{"eos_token_id": 2}', template, index]
    return [BREAK.join(texts), BREAK.join(parts), small]


def one(data: bytes) -> None:
    for name, content in zip(_FILES, [*data.split(BREAK), b"{}", b"{}", b"{}"], strict=False):
        file(name, content)
    with refusing(CheckpointError, UnsupportedError):
        checkpoint = open_config(folder())
        assert checkpoint.config.num_parameters > 0
        checkpoint.source_digest()
        open_checkpoint(folder()).close()
