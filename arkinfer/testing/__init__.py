"""Checkpoints to test with: seeded, of any shape, written in bounded memory.

Importing this imports no torch; `arkinfer.testing.torch_model` does. Examples:

>>> from arkinfer.testing import make_checkpoint, preset
>>> make_checkpoint("minicpm4-8b", 0, "big")  # doctest: +SKIP
>>> make_checkpoint(preset("tiny", num_hidden_layers=4), 1, "small")  # doctest: +SKIP
"""

from arkinfer.testing.checkpoint import make_checkpoint
from arkinfer.testing.family import FAMILY, family
from arkinfer.testing.presets import PRESETS, config_json, preset
from arkinfer.testing.tokenizer import make_tokenizer
from arkinfer.testing.weights import random_rows

__all__ = [
    "FAMILY",
    "PRESETS",
    "config_json",
    "family",
    "make_checkpoint",
    "make_tokenizer",
    "preset",
    "random_rows",
]
