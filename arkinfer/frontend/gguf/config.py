"""The metadata of a GGUF file as a Hugging Face config.json. Knows no tensors and no tokens.

What the file leaves out means what llama.cpp makes of it, with one exception: of old MiniCPM files
without `minicpm.logit_scale` it multiplies the logits where the model divides them.

Source: llama.cpp `src/llama-model.cpp` (`load_hparams`), `src/models/minicpm.cpp`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.frontend.gguf.tensors import ROPE_FREQS, ROPE_LONG, ROPE_SHORT

ARCHITECTURES = {"minicpm": "MiniCPMForCausalLM", "llama": "LlamaForCausalLM"}
"""What GGUF calls an architecture -> what Hugging Face does."""

OLD_EMBEDDING_SCALE, OLD_DEPTH_SCALE, OLD_BASE = 12.0, 1.4, 256.0
"""Of MiniCPM files that were made before GGUF had keys for them: those of all such models."""


class Factors(Protocol):
    """Reads a small float tensor of the file by its GGUF name; None: there is none."""

    def __call__(self, name: str) -> list[float] | None: ...


def architecture(metadata: Mapping[str, Any]) -> str:
    """`minicpm` or `llama`.

    Raises:
        CheckpointError: the file does not say what it holds.
        UnsupportedError: another architecture.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise CheckpointError(
            "The GGUF file does not say what kind of model it holds",
            "Its metadata has no general.architecture",
            "Convert the model again.",
        )
    if name not in ARCHITECTURES:
        raise UnsupportedError(
            f'The GGUF file holds a model of the architecture "{name}"',
            f"Supported are {' and '.join(ARCHITECTURES)}",
            "Use a model of the MiniCPM family or a plain Llama.",
        )
    return name


def config_json(
    metadata: Mapping[str, Any], factors: Factors, *, tied: bool, vocabulary: int, dtype: str
) -> dict[str, Any]:
    """A config.json without token ids, for `arkinfer.models.config.parse_config` to check.

    Args:
        metadata: of the file.
        factors: reads `rope_freqs.weight` and its like.
        tied: the file has no `output.weight`.
        vocabulary: rows of `token_embd.weight`.
        dtype: of the tensors that are not quantized.

    Raises:
        CheckpointError: a key is missing or has a value of the wrong kind.
        UnsupportedError: another architecture, experts, layers that differ, or a kind of rotary
            embedding that we do not run.
    """
    name = architecture(metadata)
    keys = _Keys(metadata, name)
    _refuse_unsupported(keys)
    hidden, layers = keys.whole("embedding_length"), keys.whole("block_count")
    heads = keys.whole("attention.head_count")
    if hidden < 1 or layers < 1 or heads < 1:
        raise keys.impossible("block_count", "A model has layers, heads and a width")
    head_dim = keys.whole("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := keys.whole(key, head_dim)) != head_dim:
            raise UnsupportedError(
                f"The GGUF file has {name}.{key} = {found}",
                f"Its heads have {head_dim} numbers, and all of them must be used",
                "Use a model of the MiniCPM family or a plain Llama.",
            )
    context = keys.whole("context_length")
    raw: dict[str, Any] = {
        "architectures": [ARCHITECTURES[name]],
        "model_type": name,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": keys.whole("feed_forward_length"),
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "hidden_act": "silu",
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": keys.number("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(keys, factors, context),
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
    }
    if name == "minicpm":
        raw |= {
            "scale_emb": keys.number("embedding_scale", OLD_EMBEDDING_SCALE),
            "scale_depth": _depth_scale(keys, layers),
            "dim_model_base": _base(keys, hidden),
        }
    return raw


class _Keys:
    """The keys of one architecture, each checked for its kind."""

    def __init__(self, metadata: Mapping[str, Any], prefix: str) -> None:
        self._metadata, self.prefix = metadata, prefix

    def get(self, key: str) -> Any:
        return self._metadata.get(f"{self.prefix}.{key}")

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number; of one per layer, that of all layers."""
        value = self.get(key)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if isinstance(value, np.ndarray):
            raise UnsupportedError(
                f"The GGUF file has {self.prefix}.{key} for every layer, and they differ",
                "Layers must be alike",
                "Use a model of the MiniCPM family or a plain Llama.",
            )
        value = default if value is None else value
        if value is None:
            raise self.impossible(key, "It is missing")
        if type(value) is not int:
            raise self.impossible(key, f"{value!r:.80} is not a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A float as its shortest decimal, so that 1e-5 of a float32 is 1e-05 again."""
        value = self.get(key)
        value = default if value is None else value
        if value is None:
            raise self.impossible(key, "It is missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.impossible(key, f"{value!r:.80} is not a number")
        return shortest(value)

    def impossible(self, key: str, why: str) -> CheckpointError:
        return CheckpointError(
            f'The GGUF file has an impossible "{self.prefix}.{key}"', why, "Convert it again."
        )


def shortest(value: float) -> float:
    """The shortest decimal that a float32 stands for.

    >>> shortest(float(np.float32(0.1)))
    0.1
    """
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    return float(str(narrow)) if float(narrow) == value else value


def _refuse_unsupported(keys: _Keys) -> None:
    for key, wanted in (("expert_count", 0), ("attention.sliding_window", 0)):
        if keys.whole(key, wanted) != wanted:
            raise UnsupportedError(
                f"The GGUF file has {keys.prefix}.{key} = {keys.whole(key)}",
                "Such models are not supported",
                "Use a model of the MiniCPM family or a plain Llama.",
            )


def _rope_scaling(keys: _Keys, factors: Factors, context: int) -> dict[str, Any] | None:
    kind = keys.get("rope.scaling.type")
    scale = keys.get("rope.scaling.factor") or keys.get("rope.scale_linear") or 1.0
    if kind in (None, "none", "linear") and scale in (0, 1):
        frequencies = factors(ROPE_FREQS)
        if frequencies is None:
            return None
        # One factor per pair, whatever the length: what Llama 3's rule gives, worked out.
        return _longrope(frequencies, frequencies, context, 1.0)
    if kind == "longrope":
        short, long = factors(ROPE_SHORT), factors(ROPE_LONG)
        if short is None or long is None:
            raise keys.impossible("rope.scaling.type", "longrope needs factors, and there are none")
        original = keys.whole("rope.scaling.original_context_length", context)
        return _longrope(short, long, original, keys.number("rope.scaling.attn_factor", 1.0))
    raise UnsupportedError(
        f"The GGUF file scales the rotary embedding by {kind or 'linear'!r}",
        "Supported are none and longrope",
        "Use a model of the MiniCPM family or a plain Llama.",
    )


def _longrope(
    short: list[float], long: list[float], original: int, attention: float
) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": original,
        "attention_factor": attention,
    }


def _depth_scale(keys: _Keys, layers: int) -> float:
    """MiniCPM's scale_depth, of which the file has the quotient by the root of the depth."""
    stored = keys.number("residual_scale", 0.0) or OLD_DEPTH_SCALE / math.sqrt(layers)
    scale = stored * math.sqrt(layers)
    plain = float(f"{scale:.6g}")  # 1.4 and not 1.40000001, if that gives the number of the file
    same = np.float32(plain / math.sqrt(layers)) == np.float32(stored)
    return plain if same else scale


def _base(keys: _Keys, hidden: int) -> float:
    """MiniCPM's dim_model_base; the file has hidden_size / dim_model_base."""
    divisor = keys.number("logit_scale", hidden / OLD_BASE)
    if divisor == 0:
        raise keys.impossible("logit_scale", "0 is not a divisor")
    return hidden / divisor
