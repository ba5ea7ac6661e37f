"""Our module computes what `transformers` does, and any way to cut a sequence gives the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from arkinfer.models.config import ModelConfig
from arkinfer.models.minicpm import CausalLM, causal_attend
from arkinfer.testing import FAMILY, family
from arkinfer.testing.torch_model import RandomCheckpoint, torch_model, torch_step

CONTEXT = 64


def llama(config: ModelConfig) -> transformers.LlamaForCausalLM:
    """The same weights in transformers' Llama, with the family's scalings folded into them."""
    rope: dict[str, Any] = {"rope_type": config.rope.kind, "rope_theta": config.rope.theta}
    if config.rope.kind == "longrope":
        rope |= {
            "short_factor": list(config.rope.short_factor),
            "long_factor": list(config.rope.long_factor),
            "original_max_position_embeddings": config.rope.original_max_position,
        }
        if config.rope.attention_factor is not None:
            rope["attention_factor"] = config.rope.attention_factor
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters=rope,
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    )
    weights = RandomCheckpoint(config)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    state = {
        name: torch.from_numpy(weights.read(name).astype(np.float32)) for name in weights.names()
    }
    state["lm_head.weight"] = state[head] / config.logit_divisor
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"] * config.embedding_scale
    for name in state:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            state[name] = state[name] * config.residual_scale
    model.load_state_dict(state)
    return model.eval()


def sequence(config: ModelConfig, length: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(length).integers(0, config.vocab_size, length)


@pytest.mark.parametrize("name", FAMILY)
def test_logits_equal_those_of_transformers(name: str) -> None:
    config = family(name)
    tokens = sequence(config, 40)
    ours, _ = torch_step(torch_model(config, RandomCheckpoint(config), CONTEXT), tokens)
    with torch.no_grad():
        theirs = llama(config)(torch.from_numpy(tokens)[None]).logits[0].numpy()
    assert theirs.std() > 0.2
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_within_the_original_length_the_short_table_applies() -> None:
    """The attention factor still follows from the lengths in the config."""
    config = family("longrope-long")
    assert config.rope_attention_factor > 1.2
    tokens = sequence(config, 12)
    ours, _ = torch_step(torch_model(config, RandomCheckpoint(config), 16), tokens)
    with torch.no_grad():
        theirs = llama(config)(torch.from_numpy(tokens)[None]).logits[0].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILY)
def test_any_chunking_gives_the_same(name: str) -> None:
    config = family(name)
    model = torch_model(config, RandomCheckpoint(config), CONTEXT)
    tokens = sequence(config, 24)
    whole, cache = torch_step(model, tokens)
    for chunks in ([1] * 24, [7, 1, 16], [23, 1]):
        parts, past, start = [], None, 0
        for length in chunks:
            logits, past = torch_step(model, tokens[start : start + length], None, past)
            parts.append(logits)
            start += length
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-4)
        assert past is not None
        for ours, theirs in zip(past, cache, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_rows_pick_logits() -> None:
    config = family("untied")
    model = torch_model(config, RandomCheckpoint(config))
    tokens = sequence(config, 9)
    whole, _ = torch_step(model, tokens)
    some, _ = torch_step(model, tokens, np.asarray([8, 0, 0]))
    np.testing.assert_allclose(some, whole[[8, 0, 0]], rtol=0, atol=1e-5)


def test_a_batch_without_a_cache_gives_the_same() -> None:
    """What the demo model is trained with."""
    config = family("longrope-short")
    model = torch_model(config, RandomCheckpoint(config), CONTEXT)
    batch = np.stack([sequence(config, 20), sequence(config, 21)[:20]])
    tokens = torch.from_numpy(batch)
    with torch.no_grad():
        hidden = model.model(tokens, torch.arange(20).expand(2, 20), causal_attend)
        together = model.head(hidden).numpy()
    for row in range(2):
        alone, _ = torch_step(model, batch[row])
        np.testing.assert_allclose(together[row], alone, rtol=0, atol=1e-4)


def test_parameter_names_are_those_of_hugging_face() -> None:
    for name in ("tied", "untied"):
        config = family(name)
        with torch.device("meta"):
            state = CausalLM(config).state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if config.tie_word_embeddings:
            assert shapes.pop("lm_head.weight") == shapes["model.embed_tokens.weight"]
        assert shapes == config.tensor_shapes()


def test_half_precision_follows_the_published_order_of_casts() -> None:
    """RMSNorm casts before it multiplies by its weight; logits are float32."""
    config = family("bfloat16")
    model = torch_model(config, RandomCheckpoint(config)).to(torch.bfloat16)
    x = torch.randn(5, config.hidden_size, generator=torch.Generator().manual_seed(0))
    x = x.to(torch.bfloat16)
    norm = model.model.norm
    wide = x.to(torch.float32)
    narrow = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)).to(torch.bfloat16)
    assert torch.equal(norm(x), norm.weight * narrow)
    assert model.head(x).dtype == torch.float32
