"""The normalized shape of a MiniCPM-family model, read from a Hugging Face `config.json`.

Knows no torch and no tensors: `plan` works from this alone.
Source: `configuration_minicpm.py` of MiniCPM4-0.5B (defaults of absent keys) and `LlamaConfig`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError, UnsupportedError, nearest

ARCHITECTURES = ("LlamaForCausalLM", "MiniCPMForCausalLM")


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: `default`, or `longrope` with one factor per rotated pair."""

    theta: float = 10000.0
    kind: Literal["default", "longrope"] = "default"
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    original_max_position: int = 0
    attention_factor: float | None = None
    """Given explicitly by the config; None: computed from the lengths."""

    def factor(self, max_position: int) -> float:
        """What cos and sin are both multiplied by: sqrt(1 + ln(max/orig) / ln(orig)).

        Source: `MiniCPMLongRoPE` in MiniCPM4's modeling file.
        """
        if self.kind == "default":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        ratio = max_position / self.original_max_position
        if ratio <= 1.0:
            return 1.0
        return math.sqrt(1.0 + math.log(ratio) / math.log(self.original_max_position))

    def inv_freq(self, head_dim: int, context: int) -> npt.NDArray[np.float32]:
        """Angles per position, float32 [head_dim / 2].

        The long factors apply iff the configured context exceeds the original length: static,
        as in the published modeling file, where the table is built for the whole context.
        """
        exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        frequency = np.float32(self.theta) ** exponent
        if self.kind == "longrope":
            long = context > self.original_max_position
            frequency *= np.asarray(self.long_factor if long else self.short_factor, np.float32)
        return (np.float32(1.0) / frequency).astype(np.float32)


@dataclass(frozen=True)
class ModelConfig:
    """One decoder-only model of the family; scalings are 1 for a plain Llama."""

    architecture: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: Rope
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    torch_dtype: str = "bfloat16"
    bos_token_id: int | None = 1
    eos_token_ids: tuple[int, ...] = (2,)
    sparse: Mapping[str, Any] | None = field(default=None, hash=False)
    quantization: Mapping[str, Any] | None = field(default=None, hash=False)
    """What the checkpoint says of matrices that are quantized already, its method named."""

    @property
    def rope_attention_factor(self) -> float:
        return self.rope.factor(self.max_position_embeddings)

    @property
    def num_parameters(self) -> int:
        """Weights stored in the checkpoint (a tied head counts once)."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor a checkpoint must hold, by its Hugging Face name."""
        h, i, d = self.hidden_size, self.intermediate_size, self.head_dim
        q, kv = self.num_attention_heads * d, self.num_key_value_heads * d
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, h)}
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}"
            shapes |= {
                f"{prefix}.input_layernorm.weight": (h,),
                f"{prefix}.self_attn.q_proj.weight": (q, h),
                f"{prefix}.self_attn.k_proj.weight": (kv, h),
                f"{prefix}.self_attn.v_proj.weight": (kv, h),
                f"{prefix}.self_attn.o_proj.weight": (h, q),
                f"{prefix}.post_attention_layernorm.weight": (h,),
                f"{prefix}.mlp.gate_proj.weight": (i, h),
                f"{prefix}.mlp.up_proj.weight": (i, h),
                f"{prefix}.mlp.down_proj.weight": (h, i),
            }
        shapes["model.norm.weight"] = (h,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, h)
        return shapes


def parse_config(
    raw: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """A checked `ModelConfig` from the dictionaries of config.json and generation_config.json.

    Raises:
        UnsupportedError: an architecture, activation, bias or rope type that we do not run.
        CheckpointError: a key is missing or its value is impossible.
    """
    architecture = _architecture(raw)
    minicpm = architecture == "MiniCPMForCausalLM"
    _refuse_unsupported(raw)
    hidden, layers = _positive(raw, "hidden_size"), _positive(raw, "num_hidden_layers")
    heads = _positive(raw, "num_attention_heads")
    kv_heads = _positive(raw, "num_key_value_heads", default=heads)
    if raw.get("head_dim") is None and hidden % heads:
        raise _impossible("hidden_size", f"{hidden} is not a multiple of {heads} heads")
    head_dim = _positive(raw, "head_dim", default=hidden // heads)
    if heads % kv_heads:
        raise _impossible("num_key_value_heads", f"{kv_heads} does not divide {heads} heads")
    if head_dim % 2:
        raise _impossible("head_dim", f"{head_dim} is odd, so it cannot be rotated in pairs")
    max_position = _positive(raw, "max_position_embeddings", default=2048)
    eos = _token_ids(raw.get("eos_token_id", 2)) | _token_ids(
        (generation or {}).get("eos_token_id")
    )
    depth_scale = _number(raw, "scale_depth", 1.0) / math.sqrt(layers)
    return ModelConfig(
        architecture=architecture,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=_positive(raw, "intermediate_size"),
        vocab_size=_positive(raw, "vocab_size"),
        max_position_embeddings=max_position,
        rms_norm_eps=_number(raw, "rms_norm_eps", 1e-6),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", minicpm)),
        rope=_rope(raw, head_dim, max_position, minicpm),
        embedding_scale=_number(raw, "scale_emb", 1.0) if minicpm else 1.0,
        residual_scale=depth_scale if minicpm else 1.0,
        logit_divisor=hidden / _number(raw, "dim_model_base", 1.0) if minicpm else 1.0,
        torch_dtype=str(raw.get("torch_dtype") or raw.get("dtype") or "bfloat16"),
        bos_token_id=_bos(raw),
        eos_token_ids=tuple(sorted(eos)),
        sparse=_mapping(raw, "sparse_config") or None,
        quantization=_quantization(raw),
    )


def _architecture(raw: Mapping[str, Any]) -> str:
    names: Any = raw.get("architectures")
    if not isinstance(names, list) or not names:
        raise CheckpointError(
            'config.json names no "architectures"',
            "Without, the kind of model is unknown",
            f"Add one of: {', '.join(ARCHITECTURES)}.",
        )
    name = str(cast("list[Any]", names)[0])
    if name not in ARCHITECTURES:
        raise UnsupportedError(
            f'The architecture "{name}" is not supported',
            "Only the MiniCPM family and plain Llama models are",
            nearest(name, ARCHITECTURES),
        )
    return name


_WANTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "num_experts": (0,),
}
"""Keys that change the computation -> the values that we run."""


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    for key, values in _WANTED.items():
        if raw.get(key) is not None and not any(raw[key] == value for value in values):
            raise UnsupportedError(
                f"config.json has {key} = {raw[key]!r}, which is not supported",
                f"The family uses {key} = {values[0]!r}",
                "Use a checkpoint of the MiniCPM family or a plain Llama.",
            )


QUANT_METHODS = ("gptq", "awq", "compressed-tensors", "marlin", "mlx")
"""Values of `quant_method` whose weights `arkinfer.frontend.quantized` reads."""


def _quantization(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What config.json says of weights that are quantized already.

    MLX calls it `quantization` and names no method.
    """
    key = "quantization_config" if raw.get("quantization_config") else "quantization"
    facts = _mapping(raw, key)
    if not facts:
        return None
    method = str(facts.get("quant_method", "mlx" if "bits" in facts else "an unnamed method"))
    if method not in QUANT_METHODS:
        raise UnsupportedError(
            f"config.json says that the weights are quantized already, by {method}",
            f"Only these are read: bf16, fp16, fp32, {', '.join(QUANT_METHODS)}",
            "Use the unquantized checkpoint; `arkinfer build --quant` quantizes it.",
        )
    return {**facts, "quant_method": method}


def _rope(raw: Mapping[str, Any], head_dim: int, max_position: int, minicpm: bool) -> Rope:
    """Old `rope_theta` + `rope_scaling`, or transformers 5's `rope_parameters`."""
    scaling = _mapping(raw, "rope_parameters" if raw.get("rope_parameters") else "rope_scaling")
    theta = _number(scaling if scaling.get("rope_theta") else raw, "rope_theta", 10000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return Rope(theta=theta)
    if kind != "longrope":
        raise UnsupportedError(
            f'config.json has the rope type "{kind}", which is not supported',
            "",
            nearest(str(kind), ("default", "longrope")),
        )
    source = scaling if scaling.get("original_max_position_embeddings") else raw
    original = _positive(source, "original_max_position_embeddings", max_position)
    if original < 2:
        raise _impossible("original_max_position_embeddings", f"{original} is less than 2")
    attention_factor: float | None = None
    if scaling.get("attention_factor") is not None:
        attention_factor = _number(scaling, "attention_factor", 1.0)
    elif scaling.get("factor") is not None and not minicpm:
        # transformers prefers it to the ratio of the lengths; MiniCPM's modeling file ignores it
        ratio = max(1.0, _number(scaling, "factor", 1.0))
        attention_factor = math.sqrt(1.0 + math.log(ratio) / math.log(original))
    return Rope(
        theta=theta,
        kind="longrope",
        short_factor=_factors(scaling, "short_factor", head_dim // 2),
        long_factor=_factors(scaling, "long_factor", head_dim // 2),
        original_max_position=original,
        attention_factor=attention_factor,
    )


_SMALLEST, _LARGEST = 1e-30, 1e30
"""What float32 can multiply once and still hold."""


def _factors(scaling: Mapping[str, Any], key: str, count: int) -> tuple[float, ...]:
    values: Any = scaling.get(key)
    known = isinstance(values, list) and len(cast("list[Any]", values)) == count
    if not known or not all(
        isinstance(v, int | float) and _SMALLEST <= v <= _LARGEST for v in values
    ):
        raise _impossible(
            f"rope_scaling.{key}", f"It must list head_dim / 2 = {count} positive numbers"
        )
    return tuple(float(v) for v in values)


def _number(raw: Mapping[str, Any], key: str, default: float) -> float:
    """A positive number; the default where the key is absent or null."""
    value = raw.get(key)
    if value is None:
        return default
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not _SMALLEST <= value <= _LARGEST:
        raise _impossible(key, f"{value!r} is not a positive number")
    return float(value)


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A JSON object; empty where the key is absent or null."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _impossible(key, f"{value!r} is not a JSON object")
    return cast("Mapping[str, Any]", value)


def _is_token_id(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _ANY


def _bos(raw: Mapping[str, Any]) -> int | None:
    value = raw.get("bos_token_id", 1)
    if value is not None and not _is_token_id(value):
        raise _impossible("bos_token_id", f"{value!r} is not a token id")
    return value


def _token_ids(value: Any) -> set[int]:
    if value is None:
        return set()
    ids: list[Any] = value if isinstance(value, list) else [value]
    if not all(map(_is_token_id, ids)):
        raise _impossible("eos_token_id", f"{value!r} is neither a token id nor a list of them")
    return set(ids)


def _positive(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(
            f'config.json has no "{key}"',
            "The model's shape needs it",
            "Restore the full config.json.",
        )
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _impossible(key, f"{value!r} is not a positive whole number")
    if value > (most := _MOST.get(key, _ANY)):
        raise _impossible(key, f"{value} is beyond {most:,}, the most that arkinfer accepts")
    return value


_ANY = 1 << 24
_MOST = {
    "num_hidden_layers": 1024,
    "max_position_embeddings": 1 << 31,
    "original_max_position_embeddings": 1 << 31,
}
"""The most that a size can be, so that no config can ask for endless work; 2^24 for the others."""


def _impossible(key: str, why: str) -> CheckpointError:
    return CheckpointError(
        f'config.json has an impossible "{key}"', why, "Restore the config.json of the checkpoint."
    )
