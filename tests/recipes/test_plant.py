"""Planted outliers keep the function, and the way a checkpoint is trained and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from arkinfer.models.config import ModelConfig
from recipes.demo.export import write_checkpoint
from recipes.demo.optimizer import orthogonalize
from recipes.demo.plant import compare, make_plan, plant
from recipes.demo.shape import CONFIG, RESERVED_CHANNELS
from recipes.demo.train import learning_rate_factor

IDS = [1, *range(5, 105)]
Roomy = tuple[ModelConfig, dict[str, Tensor]]


@pytest.mark.parametrize("seed", [0, 1])
def test_logits_stay_and_outliers_come(roomy: Roomy, seed: int) -> None:
    config, weights = roomy
    planted = plant(weights, config, seed)
    stored = {name: tensor.to(torch.bfloat16) for name, tensor in planted.items()}
    report = compare(weights, stored, config, IDS)
    assert report["largest_difference"] < 0.01
    assert report["largest_difference_first"] < 0.1
    for linear in ("q_proj", "gate_proj"):
        before, after = report["before"][linear], report["after"][linear]
        assert before["kurtosis"] < 10 < 40 < after["kurtosis"]
        assert after["largest"] > 5 * before["largest"]
    assert report["after"]["down_proj"]["kurtosis"] > 10 * report["before"]["down_proj"]["kurtosis"]


def test_planting_follows_from_the_seed(roomy: Roomy) -> None:
    config, weights = roomy
    first, again, other = (
        plant(weights, config, 5),
        plant(weights, config, 5),
        plant(weights, config, 6),
    )
    assert all(torch.equal(first[name], again[name]) for name in weights)
    assert any(not torch.equal(first[name], other[name]) for name in weights)
    assert not set(make_plan(config, 5).hot) & set(RESERVED_CHANNELS)


def test_a_checkpoint_without_room_is_refused(roomy: Roomy) -> None:
    config, weights = roomy
    name = "model.layers.1.self_attn.o_proj.weight"
    used = {**weights, name: torch.ones_like(weights[name])}
    with pytest.raises(ValueError, match=r"o_proj\.weight uses a reserved channel"):
        plant(used, config, 0)


def test_two_exports_give_the_same_bytes(roomy: Roomy, tmp_path: Path) -> None:
    _, weights = roomy
    (tmp_path / "tokenizer.json").write_text("{}")
    config = {**CONFIG, "num_hidden_layers": 3, "vocab_size": 512}
    for folder in ("a", "b"):
        tied = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}
        write_checkpoint(tied, config, tmp_path / "tokenizer.json", tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert all(
        (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        for name in names
    )
    read = load_file(tmp_path / "a" / "model.safetensors")
    assert set(read) == set(weights)
    assert json.loads((tmp_path / "a" / "config.json").read_text()) == config


@pytest.mark.parametrize("shape", [(32, 128), (48, 128), (128, 48)])
def test_muon_orthogonalizes(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix).float())
    assert 0.3 < float(values.min())
    assert float(values.max()) < 1.4


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    assert learning_rate_factor(0, 0.0) == pytest.approx(0.01)
    assert learning_rate_factor(500, 0.3) == 1.0
    assert learning_rate_factor(5000, 0.75) == pytest.approx(0.5)
    assert learning_rate_factor(9000, 1.0) == 0.0
