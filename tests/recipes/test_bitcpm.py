"""The ternary recipe: what its quantizer computes, and that training goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from torch import Tensor, nn

from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.models.config import ModelConfig
from arkinfer.models.minicpm import CausalLM
from arkinfer.packing import Scheme, find_ternary
from recipes.bitcpm import train
from recipes.bitcpm.export import export
from recipes.bitcpm.ternary import EPSILON, TernaryLinear, make_ternary, ternary, ternary_weights
from recipes.demo.export import write_checkpoint
from recipes.demo.shape import CONFIG


def test_a_row_becomes_its_mean_magnitude_times_signs() -> None:
    rows = torch.tensor([[0.4, -0.4, 0.1, -2.3], [0.0, 0.0, 0.0, 0.0]])
    assert ternary(rows)[0].tolist() == pytest.approx([0.0, 0.0, 0.0, -0.8])
    rows[0, 1] = -0.6  # the mean is 0.85: 0.6 is nearer to it than to 0
    assert ternary(rows)[0].tolist() == pytest.approx([0.0, -0.85, 0.0, -0.85])
    assert ternary(rows)[1].tolist() == [0.0] * 4
    assert ternary(torch.full((1, 4), EPSILON / 4))[0].tolist() == [0.0] * 4


def test_gradients_pass_as_if_nothing_had_been_rounded() -> None:
    torch.manual_seed(0)
    linear = TernaryLinear(8, 3, bias=False)
    x, pull = torch.randn(5, 8), torch.randn(5, 3)
    y = linear(x)
    torch.testing.assert_close(y, x @ ternary(linear.weight.detach()).T)
    (y * pull).sum().backward()
    torch.testing.assert_close(linear.weight.grad, pull.T @ x)


def test_what_is_published_is_ternary_and_computes_what_was_trained(
    roomy: tuple[ModelConfig, dict[str, Tensor]],
) -> None:
    config, weights = roomy
    latent, plain = CausalLM(config), CausalLM(config)
    wide = {name: tensor.float() for name, tensor in weights.items()}
    wide["lm_head.weight"] = wide["model.embed_tokens.weight"]
    latent.load_state_dict(wide)
    make_ternary(latent)
    linears = [m for m in latent.modules() if isinstance(m, nn.Linear)]
    assert sum(type(m) is TernaryLinear for m in linears) == 7 * config.num_hidden_layers
    published = ternary_weights(latent.state_dict())
    plain.load_state_dict(published)
    tokens = torch.arange(1, 9)
    empty = torch.zeros(0, config.num_key_value_heads, config.head_dim)
    past = [(empty, empty)] * config.num_hidden_layers
    with torch.no_grad():
        ours, _ = latent(tokens, torch.arange(8), past)
        theirs, _ = plain(tokens, torch.arange(8), past)
    torch.testing.assert_close(ours, theirs)
    for name, tensor in published.items():
        if ".layers." in name and tensor.ndim == 2:
            stored = tensor.to(torch.bfloat16).float().numpy()
            assert find_ternary([stored]) == Scheme(2, 0), name
        else:
            np.testing.assert_array_equal(tensor.numpy(), wide[name].numpy(), err_msg=name)


@pytest.fixture
def corpus(tmp_path: Path, documents: list[dict[str, str]]) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = [json.dumps({**each, "text": each["text"] * 40}) for each in documents]
    (folder / "train.jsonl").write_text("\n".join(lines))
    (folder / "heldout.txt").write_text(documents[0]["text"])
    return folder


def test_training_nears_the_teacher_and_goes_on_where_it_stopped(
    tmp_path: Path,
    corpus: Path,
    tokenizer: tokenizers.Tokenizer,
    roomy: tuple[ModelConfig, dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, weights = roomy
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    shape = {**CONFIG, "num_hidden_layers": config.num_hidden_layers, "vocab_size": 512}
    write_checkpoint(weights, shape, tmp_path / "tokenizer.json", tmp_path / "teacher")
    monkeypatch.setattr(train, "LENGTHS", ((128, 1.0),))
    monkeypatch.setattr(train, "WARMUP_STEPS", 1)

    def tuning(out: str) -> train.FineTuning:
        words = f"{corpus} {tmp_path / out} --teacher {tmp_path / 'teacher'} --threads 1"
        made = train.FineTuning(
            train.parse_arguments([*words.split(), "--batch-tokens", "256", "--steps", "8"])
        )
        made.resume()
        return made

    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = tuning("whole")
    divergences = [whole.step(whole.batch())[1] for _ in range(8)]
    assert divergences[-1] < 0.9 * divergences[0]
    first = tuning("parts")
    for _ in range(3):
        first.step(first.batch())
    first.save()
    second = tuning("parts")
    assert second.progress.step == 3
    second.run()
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], tensor, rtol=0, atol=0)
    entry = json.loads((tmp_path / "parts" / "log.jsonl").read_text())
    assert entry["step"] == 8
    assert entry["heldout_ppl"] > 1
    export(tmp_path / "parts", tmp_path / "exported", tmp_path / "teacher")
    with open_checkpoint(tmp_path / "exported") as checkpoint:
        found = checkpoint.find_ternary()
        assert isinstance(found, dict)
        assert {matrix.scheme for matrix in found.values()} == {Scheme(2, 0)}
        assert len(found) == 7 * config.num_hidden_layers
