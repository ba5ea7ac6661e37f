"""A recipe's TOML file."""

from __future__ import annotations

from arkinfer.errors import UsageError
from arkinfer.recipes import parse_recipe, recipe_names, recipe_text
from fuzz.files import refusing

DICTIONARY = ["summary", "models", "target", "quant", "embedding", "dtype", "context", "chunk",
              "kv", "requantize", "[overrides]", "[calibration]", "[gates]", "samples", "tokens",
              "seed", "max_kl", "max_ppl_ratio", "max_size", "int4-g128", "none", "nan", "inf",
              "-1", "name", "sha256", "true", "9223372036854775808", "1979-05-27"]  # fmt: skip
LENGTH = 2048
_WHOLE = b"""
summary = "x"
models = ["a/b"]
target = "cpu"
quant = "int4"
kv = "int8"
[overrides]
"model.layers.*.mlp.down_proj" = "int8-g32"
[calibration]
samples = 1
tokens = 16
seed = 2
[gates]
max_kl = 0.1
"""


def seeds() -> list[bytes]:
    """Some that come with arkinfer, and one that says all that can be said."""
    return [_WHOLE, *(recipe_text(name) for name in recipe_names()[::6])]


def one(data: bytes) -> None:
    with refusing(UsageError):
        parse_recipe("fuzzed", data)
