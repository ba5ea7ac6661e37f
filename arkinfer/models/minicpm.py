"""The torch modules of the MiniCPM family, which also cover a plain Llama.

Written to be traced: `forward` takes one sequence with an explicit cache and knows neither
batches nor sampling. The blocks accept leading batch dimensions and any `Attend`, so that a
training script can use them, too. Parameter names are the Hugging Face names.
Source: `modeling_minicpm.py` of MiniCPM4-0.5B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arkinfer.models.config import ModelConfig

Attend: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [..., T, H, D], k [..., T, Hkv, D], v [..., T, Hkv, D]) -> [..., T, H, D]."""


class RMSNorm(nn.Module):
    """y = w * x / sqrt(mean(x^2) + eps), over the last dimension, mean in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        variance = (wide * wide).mean(-1, keepdim=True)
        return self.weight * (wide * torch.rsqrt(variance + self.eps)).to(x.dtype)


class RotaryEmbedding(nn.Module):
    """cos and sin of every position, float32 [..., T, D]; half ("neox") layout."""

    inv_freq: Tensor

    def __init__(self, config: ModelConfig, context: int) -> None:
        super().__init__()
        table = torch.tensor(config.rope.inv_freq(config.head_dim, context).tolist())
        self.register_buffer("inv_freq", table.to(torch.float32), persistent=False)
        self.factor = config.rope_attention_factor

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.unsqueeze(-1).to(torch.float32) * self.inv_freq
        angles = torch.cat((angles, angles), -1)
        return torch.cos(angles) * self.factor, torch.sin(angles) * self.factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (i, i + D/2) of x [..., T, H, D] in float32."""
    half = x.shape[-1] // 2
    wide = x.to(torch.float32)
    turned = torch.cat((-wide[..., half:], wide[..., :half]), -1)
    return (wide * cos.unsqueeze(-2) + turned * sin.unsqueeze(-2)).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(self, layer: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        return self.o_proj(self.mix(layer, x, cos, sin, attend))

    def mix(self, layer: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """What `o_proj` reads: [..., T, H * D]."""
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim))
        k = self.k_proj(x).unflatten(-1, (-1, self.head_dim))
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        return attend(layer, rotate(q, cos, sin), rotate(k, cos, sin), v).flatten(-2)


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gated(x))

    def gated(self, x: Tensor) -> Tensor:
        """What `down_proj` reads: [..., T, intermediate]."""
        return F.silu(self.gate_proj(x)) * self.up_proj(x)


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, layer: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        mixed = self.self_attn(layer, self.input_layernorm(x), cos, sin, attend)
        x = x + mixed * self.residual_scale
        return x + self.mlp(self.post_attention_layernorm(x)) * self.residual_scale


class Decoder(nn.Module):
    """Embedding, layers and final norm: the `model.` part of the names."""

    def __init__(self, config: ModelConfig, context: int) -> None:
        super().__init__()
        self.embedding_scale = config.embedding_scale
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = RotaryEmbedding(config, context)

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """The residual stream before the final norm: [..., T, hidden]."""
        x = self.embed_tokens(tokens) * self.embedding_scale
        cos, sin = self.rotary(positions)
        for index, layer in enumerate(self.layers):
            x = layer(index, x, cos, sin, attend)
        return x


class CausalLM(nn.Module):
    """The whole model. `context` (default: the config's maximum) chooses the LongRoPE table."""

    def __init__(self, config: ModelConfig, context: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config, context or config.max_position_embeddings)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def head(self, hidden: Tensor) -> Tensor:
        """Logits float32 [..., V] of the residual stream [..., hidden]."""
        normed = self.model.norm(hidden) / self.config.logit_divisor
        return self.lm_head(normed).to(torch.float32)

    def forward(
        self, tokens: Tensor, rows: Tensor, past: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """One step of one sequence.

        Args:
            tokens: int64 [T], T >= 1.
            rows: int64 [R], the rows of `tokens` whose logits are wanted.
            past: per layer, keys and values [S, Hkv, D] of the S tokens before.

        Returns:
            logits float32 [R, V], and per layer the keys and values [S + T, Hkv, D].
        """
        seen, fresh = past[0][0].shape[0], tokens.shape[0]
        positions = torch.arange(seen, seen + fresh, device=tokens.device)
        keys = torch.arange(seen + fresh, device=tokens.device)
        mask = keys.unsqueeze(0) <= positions.unsqueeze(1)
        present: list[tuple[Tensor, Tensor]] = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            k, v = torch.cat((past[layer][0], k)), torch.cat((past[layer][1], v))
            present.append((k, v))
            return cached_attention(q, k, v, mask)

        hidden = self.model(tokens, positions, attend)
        return self.head(hidden.index_select(0, rows)), present


def cached_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v with grouped heads: q [T, H, D], k and v [L, Hkv, D]."""
    mixed = F.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), attn_mask=mask, enable_gqa=True
    )
    return mixed.transpose(0, 1)


def causal_attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`Attend` without a cache, batched: every tensor [..., T, heads, D]."""
    del layer
    mixed = F.scaled_dot_product_attention(
        q.transpose(-3, -2),
        k.transpose(-3, -2),
        v.transpose(-3, -2),
        is_causal=True,
        enable_gqa=True,
    )
    return mixed.transpose(-3, -2)
