"""Checkpoints to test with: seeded, of any shape, written in bounded memory. Knows no torch module.

from arkinfer.testing import make_checkpoint, preset
make_checkpoint("minicpm4-8b", seed=0, path="big")          # 16.4 GB of bf16 in 4 shards
make_checkpoint(preset("tiny", num_hidden_layers=4), seed=1, path="small")
"""

from arkinfer.testing.checkpoint import make_checkpoint
from arkinfer.testing.presets import PRESETS, config_json, preset
from arkinfer.testing.tokenizer import make_tokenizer
from arkinfer.testing.weights import random_rows

__all__ = [
    "PRESETS",
    "config_json",
    "make_checkpoint",
    "make_tokenizer",
    "preset",
    "random_rows",
]
