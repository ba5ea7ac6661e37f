"""The published checkpoints of MiniCPM4, MiniCPM4.1 and BitCPM: what their config.json says.

Shapes of 0.5B and 8B are those of the published files. The other shapes follow from parameter
counts and model cards; what quantized repositories say of their weights was not seen, and is what
OpenBMB's tools write. The shape of BitCPM-CANN-3B is nowhere told: a stand-in of that size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from arkinfer.testing import preset


@dataclass(frozen=True)
class Published:
    """A checkpoint of the hub.

    Attributes:
        model: its id.
        config: its config.json; None: a GGUF file, which needs none.
        verified: whether all of it was seen.
    """

    model: str
    config: dict[str, Any] | None = field(repr=False)
    verified: bool = False


_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
_GPTQ |= {"static_groups": True, "lm_head": False, "checkpoint_format": "gptq"}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
_MLX = {"group_size": 64, "bits": 4}


def _llama(name: str, **changes: Any) -> dict[str, Any]:
    """Read without code of its own, so with the scalings folded into the weights."""
    tied = name != "minicpm4-8b"
    return preset(name, architectures=["LlamaForCausalLM"], tie_word_embeddings=tied, **changes)


_3B = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
       "num_attention_heads": 32, "num_key_value_heads": 8, "rope_scaling": None}  # fmt: skip

CHECKPOINTS = [
    Published("openbmb/MiniCPM4-0.5B", preset("minicpm4-0.5b"), verified=True),
    Published("openbmb/MiniCPM4-0.5B-QAT-Int4-unquantized", preset("minicpm4-0.5b")),
    Published(
        "openbmb/MiniCPM4-0.5B-QAT-Int4-GPTQ-format",
        preset("minicpm4-0.5b", quantization_config=_GPTQ),
    ),
    Published("openbmb/MiniCPM4-0.5B-QAT-Int4-GGUF", None),
    Published("openbmb/MiniCPM4-8B", preset("minicpm4-8b"), verified=True),
    Published("openbmb/MiniCPM4-MCP", preset("minicpm4-8b")),
    Published("openbmb/MiniCPM4-Survey", preset("minicpm4-8b")),
    Published("openbmb/InfLLM-V2-Short-Dense-Base", preset("minicpm4-8b")),
    Published("openbmb/InfLLM-V2-Long-Sparse-Base", preset("minicpm4-8b")),
    Published("openbmb/MiniCPM4-8B-marlin-cpmcu", preset("minicpm4-8b", quantization_config=_GPTQ)),
    Published("openbmb/MiniCPM4-8B-mlx", preset("minicpm4-8b", quantization=_MLX)),
    Published("openbmb/MiniCPM4.1-8B", preset("minicpm4.1-8b")),
    Published("openbmb/MiniCPM4.1-8B-GPTQ", preset("minicpm4.1-8b", quantization_config=_GPTQ)),
    Published("openbmb/MiniCPM-4.1-8B-Marlin", preset("minicpm4.1-8b", quantization_config=_GPTQ)),
    Published(
        "openbmb/MiniCPM4.1-8B-AutoAWQ",
        preset("minicpm4.1-8b", quantization_config=_AWQ),
    ),
    Published("openbmb/MiniCPM4.1-8B-MLX", preset("minicpm4.1-8b", quantization=_MLX)),
    Published("openbmb/MiniCPM4.1-8B-GGUF", None),
    Published("openbmb/BitCPM4-0.5B", preset("minicpm4-0.5b")),
    Published("openbmb/BitCPM4-1B", preset("bitcpm4-1b")),
    Published("openbmb/BitCPM4-0.5B-GGUF", None),
    Published("openbmb/BitCPM4-1B-GGUF", None),
    Published("openbmb/BitCPM-CANN-0.5B", _llama("minicpm4-0.5b")),
    Published("openbmb/BitCPM-CANN-1B", _llama("bitcpm4-1b")),
    Published("openbmb/BitCPM-CANN-3B", _llama("bitcpm4-1b", **_3B)),
    Published("openbmb/BitCPM-CANN-8B", _llama("minicpm4-8b")),
    *(Published(f"openbmb/BitCPM-CANN-{size}-gguf", None) for size in ("0.5B", "1B", "3B", "8B")),
]
"""Draft heads apart; and apart the latent weights of BitCPM-CANN, which only training makes ternary
(`-unquantized`), and which stand in no recipe."""
