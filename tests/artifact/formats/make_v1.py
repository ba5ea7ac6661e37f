"""Wrote v1.ark, the artifact of format 1 that every later arkinfer has to read.

The file is never written again: it is the witness of what format 1 was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

from arkinfer.artifact import ArtifactWriter, Section

TOKENIZER = {
    "added_tokens": [{"id": 2, "content": "</s>"}, {"id": 7, "content": "<|im_end|>"}],
    "model": {"vocab": {"<s>": 1, "</s>": 2, "a": 3, "b": 4}},
}


def write(path: Path) -> Path:
    """Writes the artifact; numbers are chosen by hand, so that no generator's change matters."""
    codes = np.arange(32, dtype=np.uint8).reshape(4, 1, 8)
    scale = np.array([[0.5], [0.25], [-1.5], [3.0]], np.float32)
    embedding = (np.arange(32).reshape(8, 4) / 4 - 4).astype(ml_dtypes.bfloat16)
    with ArtifactWriter(path) as writer:
        writer.add_bytes("ir.txt", b"module {\n}\n")
        writer.add_bytes("tokenizer.json", json.dumps(TOKENIZER).encode())
        writer.add_tensor("model.embed_tokens.weight", "bfloat16", (8, 4), [embedding])
        writer.add_tensor("model.layers.0.mlp.up_proj.weight.codes", "uint8", (4, 1, 8), [codes])
        writer.add_tensor("model.layers.0.mlp.up_proj.weight.scale", "float32", (4, 1), [scale])
        writer.add_tensor("model.norm.weight", "float32", (4,), [np.ones(4, np.float32)])
        writer.add_bytes("backends/reference/plan.json", b'{"fast": true}\n')
        tensors = ("model.embed_tokens.weight", "model.norm.weight")
        writer.add_section(Section("reference", {"chunk": 16}, {"numpy": ">=1.26"}, tensors))
        return writer.commit(
            {
                "arkinfer": "0.1.0",
                "model": {
                    "name": "tiny",
                    "architecture": "MiniCPMForCausalLM",
                    "parameters": 100,
                    "vocab_size": 8,
                },
                "context": 64,
                "quant": "int8-row",
                "dtype": "bf16",
                "target": {"name": "cpu"},
                "tokens": {"bos": 1, "stop": [2, 7], "stop_strings": ["\n\n"]},
                "generation": {"temperature": 0.8, "top_p": 0.9},
                "source": {"files": {"config.json": "0" * 64}},
            }
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
