"""What GGUF's keys say about a model, as a config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from arkinfer.errors import ArkError, CheckpointError, UnsupportedError
from arkinfer.frontend.gguf.config import config_json
from arkinfer.frontend.gguf.file import read_header
from arkinfer.frontend.slots import Slot, SlotReader
from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.testing import preset
from arkinfer.testing.presets import PRESETS
from tests.frontend.gguf.converted import add_config

MINICPM: dict[str, Any] = {
    "general.architecture": "minicpm", "minicpm.block_count": 4, "minicpm.embedding_length": 512,
    "minicpm.attention.head_count": 8, "minicpm.attention.head_count_kv": 2,
    "minicpm.feed_forward_length": 1024, "minicpm.context_length": 4096,
    "minicpm.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
}  # fmt: skip


def config_of(metadata: Mapping[str, Any], **factors: list[float]) -> ModelConfig:
    raw = config_json(
        metadata, lambda name: factors.get(name.split(".")[0]), tied=True, vocabulary=1000,
        dtype="float16",
    )  # fmt: skip
    return parse_config(raw)


@pytest.mark.parametrize("name", PRESETS)
def test_what_the_converter_writes_is_the_config_again(tmp_path: Path, name: str) -> None:
    raw = preset(name)
    expected = parse_config(raw)
    full = {**raw, "rope_theta": expected.rope.theta, "rms_norm_eps": expected.rms_norm_eps}
    file = tmp_path / "m.gguf"
    architecture = "minicpm" if expected.architecture.startswith("MiniCPM") else "llama"
    writer = gguf.GGUFWriter(file, architecture)
    add_config(writer, full)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header, reader = read_header(file), SlotReader()

    def factors(name: str) -> list[float] | None:
        if name not in header.tensors:
            return None
        entry = header.tensors[name]
        slot = Slot(entry.file, entry.offset, np.dtype(np.float32), entry.shape)
        return [float(str(value)) for value in reader.rows(slot, 0, entry.shape[0])]

    found = config_json(
        header.metadata, factors, tied=expected.tie_word_embeddings,
        vocabulary=expected.vocab_size, dtype=expected.torch_dtype,
    )  # fmt: skip
    reader.close()
    tokens = {"bos_token_id": expected.bos_token_id, "eos_token_id": list(expected.eos_token_ids)}
    parsed = parse_config({**found, **tokens})
    assert replace(parsed, rope=expected.rope) == replace(expected, sparse=None)
    for context in (64, expected.max_position_embeddings):
        ours, theirs = (c.rope.inv_freq(c.head_dim, context) for c in (parsed, expected))
        np.testing.assert_array_equal(ours, theirs)
    factor = pytest.approx(expected.rope_attention_factor, rel=1e-7)
    assert parsed.rope_attention_factor == factor


def test_a_minicpm_file_without_scales_has_those_of_its_time() -> None:
    config = config_of(MINICPM)
    assert config.embedding_scale == 12
    assert config.residual_scale == pytest.approx(1.4 / math.sqrt(4), rel=1e-12)
    assert config.logit_divisor == 512 / 256
    assert (config.head_dim, config.rope.theta, config.rms_norm_eps) == (64, 10000, 1e-5)


def test_a_llama_has_no_scales() -> None:
    llama = {key.replace("minicpm", "llama"): value for key, value in MINICPM.items()}
    config = config_of(llama | {"general.architecture": "llama", "llama.embedding_scale": 3.0})
    assert (config.embedding_scale, config.residual_scale, config.logit_divisor) == (1, 1, 1)


def test_frequencies_of_llama_3_become_factors() -> None:
    factors = [1.0 + i for i in range(32)]
    config = config_of(MINICPM | {"minicpm.context_length": 1 << 17}, rope_freqs=factors)
    plain = config_of(MINICPM)
    np.testing.assert_allclose(
        config.rope.inv_freq(64, 100), plain.rope.inv_freq(64, 100) / np.array(factors), rtol=1e-6
    )
    assert config.rope_attention_factor == 1


def test_longrope_beyond_the_original_length() -> None:
    keys: dict[str, Any] = {
        "minicpm.rope.scaling.type": "longrope",
        "minicpm.rope.scaling.original_context_length": 1024,
    }
    factors = {"rope_factors_short": [1.0] * 32, "rope_factors_long": [2.0] * 32}
    assert config_of(MINICPM | keys, **factors).rope_attention_factor == 1
    keys["minicpm.rope.scaling.attn_factor"] = float(np.float32(1.19))
    config = config_of(MINICPM | keys, **factors)
    assert config.rope_attention_factor == 1.19
    assert config.rope.inv_freq(64, 1025)[0] == 0.5


def test_a_number_for_every_layer() -> None:
    same = MINICPM | {"minicpm.attention.head_count_kv": np.array([2, 2, 2, 2], np.int32)}
    assert config_of(same).num_key_value_heads == 2
    same["minicpm.attention.head_count_kv"] = np.array([2, 2, 2, 4], np.int32)
    with pytest.raises(UnsupportedError, match="for every layer, and they differ"):
        config_of(same)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"general.architecture": "qwen2"}, UnsupportedError,
         'holds a model of the architecture "qwen2"'),
        ({"general.architecture": None}, CheckpointError, "does not say what kind of model"),
        ({"minicpm.block_count": None}, CheckpointError, '"minicpm.block_count". It is missing'),
        ({"minicpm.block_count": "four"}, CheckpointError, "is not a whole number"),
        ({"minicpm.block_count": 0}, CheckpointError, "has layers, heads and a width"),
        ({"minicpm.embedding_scale": "12"}, CheckpointError, "is not a number"),
        ({"minicpm.logit_scale": 0.0}, CheckpointError, "0 is not a divisor"),
        ({"minicpm.expert_count": 8}, UnsupportedError, "expert_count = 8"),
        ({"minicpm.rope.dimension_count": 32}, UnsupportedError, "rope.dimension_count = 32"),
        ({"minicpm.rope.scaling.type": "yarn"}, UnsupportedError, "by 'yarn'"),
        ({"minicpm.rope.scaling.factor": 4.0}, UnsupportedError, "by 'linear'"),
        ({"minicpm.rope.scaling.type": "longrope"}, CheckpointError, "longrope needs factors"),
        ({"minicpm.attention.head_count_kv": 3}, CheckpointError, "num_key_value_heads"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(
    changes: dict[str, Any], kind: type[ArkError], words: str
) -> None:
    metadata = {key: value for key, value in (MINICPM | changes).items() if value is not None}
    with pytest.raises(kind) as caught:
        config_of(metadata)
    assert words in str(caught.value)
