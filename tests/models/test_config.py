"""config.json read as published code reads it, and refused where we would compute otherwise."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import ArkError, CheckpointError, UnsupportedError
from arkinfer.models.config import ModelConfig, Rope, parse_config
from arkinfer.testing import FAMILY, PRESETS, preset


def test_the_published_half_billion_model() -> None:
    config = parse_config(preset("minicpm4-0.5b"))
    assert config.head_dim == 64
    assert config.num_attention_heads // config.num_key_value_heads == 8
    assert config.tie_word_embeddings  # the key is absent
    assert config.rope.theta == 10000.0  # the key is absent
    assert config.residual_scale == pytest.approx(0.285774, abs=1e-6)
    assert config.logit_divisor == 4.0
    assert config.embedding_scale == 12.0
    assert config.rope_attention_factor == 1.0
    assert config.eos_token_ids == (2, 73440)


def test_the_published_eight_billion_model() -> None:
    config = parse_config(preset("minicpm4-8b"))
    assert (config.head_dim, config.rms_norm_eps) == (128, 1e-6)
    assert not config.tie_word_embeddings
    assert config.residual_scale == pytest.approx(0.247487, abs=1e-6)
    assert config.logit_divisor == 16.0


def test_a_plain_llama_has_no_scalings() -> None:
    config = parse_config(preset("minicpm5-1b"))
    assert (config.embedding_scale, config.residual_scale, config.logit_divisor) == (1, 1, 1)
    assert config.head_dim * config.num_attention_heads != config.hidden_size
    assert config.rope.theta == 5e6
    assert config.rope.kind == "default"
    raw = preset("minicpm5-1b", scale_emb=12, scale_depth=1.4, dim_model_base=256)
    assert parse_config(raw) == config  # a Llama does not know these keys
    del raw["tie_word_embeddings"]
    assert not parse_config(raw).tie_word_embeddings


def test_new_and_old_spellings_of_rope() -> None:
    old = preset("tiny")
    scaling = old.pop("rope_scaling")
    new = {**old, "rope_parameters": {**scaling, "rope_theta": 10000.0}}
    assert parse_config(new) == parse_config(preset("tiny"))
    kind = scaling.pop("rope_type")
    assert parse_config({**old, "rope_scaling": {**scaling, "type": kind}}) == parse_config(new)
    original = scaling.pop("original_max_position_embeddings")
    outside = {**old, "rope_scaling": {**scaling, "type": kind}}
    assert parse_config(outside).rope.original_max_position == 2048
    outside["original_max_position_embeddings"] = original
    assert parse_config(outside) == parse_config(new)


def test_the_attention_factor() -> None:
    raw = preset("tiny")  # 2048 from 1024
    assert parse_config(raw).rope_attention_factor == math.sqrt(1 + math.log(2) / math.log(1024))
    raw["rope_scaling"]["factor"] = 4.0
    assert parse_config(raw).rope.attention_factor is None  # MiniCPM's code ignores it
    llama = {**raw, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    expected = math.sqrt(1 + math.log(4) / math.log(1024))
    assert parse_config(llama).rope_attention_factor == expected
    raw["rope_scaling"]["attention_factor"] = 1.5
    assert parse_config(raw).rope_attention_factor == 1.5
    shorter = preset("tiny", max_position_embeddings=512)
    assert parse_config(shorter).rope_attention_factor == 1.0


def test_angles() -> None:
    rope = Rope(theta=100.0, kind="longrope", short_factor=(1.0, 2.0), long_factor=(4.0, 8.0))
    rope = Rope(**{**rope.__dict__, "original_max_position": 8})
    np.testing.assert_allclose(rope.inv_freq(4, 8), [1.0, 1 / 20])
    np.testing.assert_allclose(rope.inv_freq(4, 9), [1 / 4, 1 / 80])
    assert rope.inv_freq(4, 9).dtype == np.float32
    np.testing.assert_allclose(Rope(theta=100.0).inv_freq(4, 99), [1.0, 0.1])


def test_end_tokens() -> None:
    raw = preset("tiny", eos_token_id=2)
    assert parse_config(raw).eos_token_ids == (2,)
    assert parse_config(raw, {"eos_token_id": [5, 2]}).eos_token_ids == (2, 5)
    raw["eos_token_id"] = None
    assert parse_config(raw).eos_token_ids == ()


@pytest.mark.parametrize("name", [*PRESETS, *FAMILY])
def test_parameters_are_counted(name: str) -> None:
    config = parse_config(preset(name) if name in PRESETS else FAMILY[name])
    h, d = config.hidden_size, config.head_dim
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    layer = heads * d * h + 3 * h * config.intermediate_size + 2 * h
    tables = config.vocab_size * h * (1 if config.tie_word_embeddings else 2)
    assert config.num_parameters == config.num_hidden_layers * layer + tables + h


def refusal(kind: type[ArkError], **changes: Any) -> str:
    raw = {key: value for key, value in preset("tiny", **changes).items() if value != "absent"}
    with pytest.raises(kind) as caught:
        parse_config(raw)
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"architectures": ["LamaForCausalLM"]},
            'The architecture "LamaForCausalLM" is not supported. Only the MiniCPM family and '
            'plain Llama models are. Did you mean "LlamaForCausalLM"? Known: LlamaForCausalLM, '
            "MiniCPMForCausalLM.",
        ),
        (
            {"hidden_act": "gelu"},
            "config.json has hidden_act = 'gelu', which is not supported. The family uses "
            "hidden_act = 'silu'. Use a checkpoint of the MiniCPM family or a plain Llama.",
        ),
        (
            {"attention_bias": True},
            "config.json has attention_bias = True, which is not supported. The family uses "
            "attention_bias = False. Use a checkpoint of the MiniCPM family or a plain Llama.",
        ),
        ({"mlp_bias": True}, "config.json has mlp_bias = True"),
        ({"num_experts": 8}, "config.json has num_experts = 8"),
        ({"partial_rotary_factor": 0.5}, "config.json has partial_rotary_factor = 0.5"),
        (
            {"rope_scaling": {"rope_type": "longrop"}},
            'config.json has the rope type "longrop", which is not supported. Did you mean '
            '"longrope"? Known: default, longrope.',
        ),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, 'config.json has the rope type "yarn"'),
        (
            {"quantization_config": {"quant_method": "aqlm", "bits": 4}},
            "config.json says that the weights are quantized already, by aqlm. Only these are "
            "read: bf16, fp16, fp32, gptq, awq, compressed-tensors, marlin, mlx. Use the "
            "unquantized checkpoint; `arkinfer build --quant` quantizes it.",
        ),
    ],
)
def test_what_we_do_not_run(changes: dict[str, Any], text: str) -> None:
    assert refusal(UnsupportedError, **changes).startswith(text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"architectures": "absent"}, 'config.json names no "architectures"'),
        ({"architectures": []}, 'config.json names no "architectures"'),
        ({"architectures": "MiniCPMForCausalLM"}, 'config.json names no "architectures"'),
        ({"hidden_size": "absent"}, 'config.json has no "hidden_size"'),
        ({"hidden_size": 0}, 'config.json has an impossible "hidden_size". 0 is not a positive'),
        ({"hidden_size": True}, 'config.json has an impossible "hidden_size"'),
        ({"hidden_size": "256"}, 'config.json has an impossible "hidden_size"'),
        ({"num_key_value_heads": 3}, 'config.json has an impossible "num_key_value_heads". 3 does'),
        ({"head_dim": 63}, 'config.json has an impossible "head_dim". 63 is odd'),
        ({"head_dim": None, "hidden_size": 250}, 'config.json has an impossible "hidden_size"'),
        ({"head_dim": 32}, 'config.json has an impossible "rope_scaling.short_factor". It must'),
        ({"rms_norm_eps": "tiny"}, "config.json has an impossible \"rms_norm_eps\". 'tiny' is not"),
        ({"scale_emb": -1}, 'config.json has an impossible "scale_emb". -1 is not a positive'),
        ({"dim_model_base": 0}, 'config.json has an impossible "dim_model_base"'),
        ({"rope_theta": "x"}, 'config.json has an impossible "rope_theta"'),
        ({"eos_token_id": ["</s>"]}, 'config.json has an impossible "eos_token_id"'),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], text: str) -> None:
    assert refusal(CheckpointError, **changes).startswith(text)


def test_tables_of_the_wrong_kind() -> None:
    scaling = preset("tiny")["rope_scaling"]
    for wrong in (None, "x", [1.0] * 31, [1.0] * 31 + [0.0], [1.0] * 31 + ["1"]):
        text = refusal(CheckpointError, rope_scaling={**scaling, "long_factor": wrong})
        assert "must list head_dim / 2 = 32 positive numbers" in text
    text = refusal(CheckpointError, rope_scaling={**scaling, "original_max_position_embeddings": 1})
    assert "1 is less than 2" in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)
KEYS = [*preset("tiny"), "rope_parameters", "quantization_config", "sparse_config"]


@settings(max_examples=400)
@given(st.sampled_from(KEYS), JSON)
def test_any_value_of_any_key_is_taken_or_refused(key: str, value: Any) -> None:
    with contextlib.suppress(ArkError):
        parse_config({**preset("tiny"), key: value}, {key: value})


@settings(max_examples=200)
@given(st.sampled_from([*preset("tiny")["rope_scaling"], "rope_theta", "attention_factor"]), JSON)
def test_any_value_within_rope_scaling_too(key: str, value: Any) -> None:
    raw = preset("tiny")
    with contextlib.suppress(ArkError):
        parse_config({**raw, "rope_scaling": {**raw["rope_scaling"], key: value}})


def test_configs_are_values() -> None:
    config = parse_config(preset("tiny"))
    assert config == parse_config(preset("tiny"))
    assert hash(config) == hash(parse_config(preset("tiny")))
    assert isinstance(config, ModelConfig)
