"""Plants outliers, as large models have them, in a checkpoint without changing what it computes.

    python -m recipes.demo.plant FOLDER OUT --seed 0 [--text FILE]

A small model has no outliers, and methods of quantization differ only on them. Two kinds are
planted, both from the seed; logits change only by rounding.

* Massive activations (Sun et al., "Massive Activations in Large Language Models", 2024): a unit
  of the MLP fires on BOS alone, in up to four layers at the beginning and in the last two. The
  first writes a value a thousand times the usual one into two channels of the residual stream, and
  all have ordinary weights for the other channels, as trained units do. The last two take
  everything out again. Measured with the code of Yu et al., "The Super Weight in Large Language
  Models", 2024 (issues 2 and 6 of its repository), such units feed down_proj 1400 in LLaMA2-7B's
  second layer, which is `FIRES`, and 402, 68, 64 and 73 in OLMo-1B's layers 1 to 4.
  In between the first token's normalized states are dominated by the two channels, which the
  projections read as a bias. BOS attends to nothing but itself, so that its states are constants
  and the columns can be solved for. The model must have the room: channels and a unit that are
  zero everywhere (`shape.RESERVED_*`).
* Hot channels (as in LLM.int8() and AWQ): a norm's weight times 2^k and the columns that read it
  times 2^-k, the same channels in all layers; and so between v and o, and between up and down.
  Powers of two: exact in every binary format.

Knows no training and no quantization.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.models.minicpm import CausalLM, causal_attend
from recipes.demo.chatformat import BOS
from recipes.demo.export import write_checkpoint
from recipes.demo.shape import RESERVED_CHANNELS, RESERVED_UNIT

FIRES = 1400.0
"""What a unit that fires feeds down_proj."""

Weights = dict[str, Tensor]
READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


@dataclass(frozen=True)
class Plan:
    """What a seed decides."""

    fires_in: int
    """How many layers, from the first on, have a unit that fires; the first writes the massive
    values."""
    trigger: float
    """What BOS has in the first reserved channel, in units of the residual stream."""
    massive: tuple[float, float]
    """What is written into the two reserved channels."""
    hot: tuple[int, ...]
    """Channels of the normalized states that are scaled up, in every layer."""
    exponents: tuple[int, ...]
    """By which power of two."""


def make_plan(config: ModelConfig, seed: int) -> Plan:
    """The same seed and shape give the same plan."""
    rng = np.random.default_rng(seed)
    free = [c for c in range(config.hidden_size) if c not in RESERVED_CHANNELS]
    count = max(2, config.hidden_size // 40)
    size = float(rng.uniform(1000.0, 2000.0)) * float(rng.choice([-1.0, 1.0]))
    return Plan(
        fires_in=min(4, config.num_hidden_layers - 2),
        trigger=16.0,
        massive=(size, -size / 8),
        hot=tuple(int(c) for c in np.sort(rng.choice(free, count, replace=False))),
        exponents=tuple(int(k) for k in rng.integers(3, 6, count)),
    )


def round_bf16(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16).to(tensor.dtype)


def check_room(weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless nothing writes to or reads from the reserved places."""
    channels = list(RESERVED_CHANNELS)
    for name, tensor in weights.items():
        if tensor.ndim != 2:
            continue
        writes = name.endswith(("o_proj.weight", "down_proj.weight"))
        used = tensor[channels] if writes else tensor[:, channels]
        if name.endswith("down_proj.weight"):
            used = torch.cat((used.flatten(), tensor[:, RESERVED_UNIT]))
        elif name.endswith(("gate_proj.weight", "up_proj.weight")):
            used = torch.cat((used.flatten(), tensor[RESERVED_UNIT]))
        if bool(used.any()):
            raise ValueError(
                f"{name} uses a reserved channel or unit, so nothing can be planted there. "
                "Take a checkpoint that was trained by recipes/demo/train.py."
            )


class FirstToken:
    """The states of BOS at position 0, which attends to itself alone: constants, in float64."""

    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        self.weights = weights
        self.config = config
        self.residual = weights["model.embed_tokens.weight"][BOS] * config.embedding_scale

    def normed(self, norm: str) -> Tensor:
        x = self.residual
        return self.weights[norm] * x * torch.rsqrt((x * x).mean() + self.config.rms_norm_eps)

    def attend(self, layer: str) -> None:
        value = self.weights[f"{layer}.self_attn.v_proj.weight"] @ self.normed(
            f"{layer}.input_layernorm.weight"
        )
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        mixed = value.unflatten(0, (-1, self.config.head_dim)).repeat_interleave(group, 0)
        out = self.weights[f"{layer}.self_attn.o_proj.weight"] @ mixed.flatten()
        self.residual = self.residual + out * self.config.residual_scale

    def activation(self, layer: str) -> Tensor:
        x = self.normed(f"{layer}.post_attention_layernorm.weight")
        gate = self.weights[f"{layer}.mlp.gate_proj.weight"] @ x
        return torch.nn.functional.silu(gate) * (self.weights[f"{layer}.mlp.up_proj.weight"] @ x)

    def feed(self, layer: str) -> None:
        out = self.weights[f"{layer}.mlp.down_proj.weight"] @ self.activation(layer)
        self.residual = self.residual + out * self.config.residual_scale


def _correct_columns(weights: Weights, layer: str, norm: str, old: Tensor, new: Tensor) -> None:
    """Makes the readers of a norm give for `new` (massive) what they gave for `old`.

    Two channels share the correction: what bfloat16 rounds off in the first column, the second,
    whose activation is smaller, adds with a resolution that is finer by as much.
    """
    first, second = RESERVED_CHANNELS
    for reader in READERS[norm]:
        matrix = weights[f"{layer}.{reader}.weight"]
        missing = matrix @ old - matrix @ new
        matrix[:, first] = round_bf16(missing / new[first])
        if abs(float(new[second])) > 0.02:
            missing = missing - matrix[:, first] * new[first]
            matrix[:, second] = round_bf16(missing / new[second])


def _fire(token: FirstToken, layer: str) -> Tensor:
    """Lets the reserved unit of a layer fire on BOS alone.

    Returns:
        What a weight 1 of down_proj makes of it in the residual stream.
    """
    first = RESERVED_CHANNELS[0]
    state = token.normed(f"{layer}.post_attention_layernorm.weight")[first]
    for projection in ("gate_proj", "up_proj"):
        row = token.weights[f"{layer}.mlp.{projection}.weight"][RESERVED_UNIT]
        row[:] = 0.0
        row[first] = round_bf16(FIRES**0.5 / state)
    return token.activation(layer)[RESERVED_UNIT] * token.config.residual_scale


def _write(
    token: FirstToken, layer: str, massive: tuple[float, float] | None, rng: np.random.Generator
) -> None:
    """Weights as other units have them, and those that write the massive values."""
    matrix = token.weights[f"{layer}.mlp.down_proj.weight"]
    usual = matrix.square().mean().sqrt()
    scale = _fire(token, layer)
    column = torch.from_numpy(rng.standard_normal(len(matrix))) * usual
    if massive is not None:
        column[list(RESERVED_CHANNELS)] = torch.tensor(massive, dtype=torch.float64) / scale
    matrix[:, RESERVED_UNIT] = round_bf16(column)


def _take_out(token: FirstToken, layer: str, target: Tensor) -> None:
    """Makes `target` of the residual stream.

    What bfloat16 rounds off of the largest weight, the unit's other factor makes good, in two
    channels as in `_correct_columns`.
    """
    first, second = RESERVED_CHANNELS
    scale = _fire(token, layer)
    missing = target - token.residual
    column = round_bf16(missing / scale)
    token.weights[f"{layer}.mlp.down_proj.weight"][:, RESERVED_UNIT] = column
    state = token.normed(f"{layer}.post_attention_layernorm.weight")
    if not column[first]:
        return
    row = token.weights[f"{layer}.mlp.up_proj.weight"][RESERVED_UNIT]
    factor = row[first] * state[first] * missing[first] / (column[first] * scale)
    row[first] = round_bf16(factor / state[first])
    row[second] = round_bf16((factor - row[first] * state[first]) / state[second])


def plant_massive(weights: Weights, config: ModelConfig, plan: Plan, seed: int) -> None:
    """Massive activations on BOS, from the first layer's MLP to the last one's."""
    rng = np.random.default_rng([seed, 2])
    before = FirstToken({name: tensor.clone() for name, tensor in weights.items()}, config)
    channels = list(RESERVED_CHANNELS)
    embedding = weights["model.embed_tokens.weight"]
    embedding[BOS, channels[0]] = round_bf16(torch.tensor(plan.trigger / config.embedding_scale))
    after = FirstToken(weights, config)
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        norm = f"{layer}.input_layernorm.weight"
        _correct_columns(weights, layer, "input_layernorm", before.normed(norm), after.normed(norm))
        before.attend(layer)
        after.attend(layer)
        norm = f"{layer}.post_attention_layernorm.weight"
        _correct_columns(
            weights, layer, "post_attention_layernorm", before.normed(norm), after.normed(norm)
        )
        if index < plan.fires_in:
            _write(after, layer, plan.massive if index == 0 else None, rng)
        elif index >= config.num_hidden_layers - 2:
            # In two steps: what bfloat16 leaves of the first is small enough for the second.
            target = before.residual.clone()
            if index == config.num_hidden_layers - 2:
                target[channels] = after.residual[channels]
            _take_out(after, layer, target)
        before.feed(layer)
        after.feed(layer)


def plant_hot(weights: Weights, config: ModelConfig, plan: Plan, seed: int) -> None:
    """Hot channels behind every norm, behind v_proj and behind up_proj; exact."""
    rng = np.random.default_rng([seed, 1])
    hot = list(plan.hot)
    factors = torch.tensor([2.0**k for k in plan.exponents], dtype=torch.float64)
    group = config.num_attention_heads // config.num_key_value_heads
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        for norm, readers in READERS.items():
            weights[f"{layer}.{norm}.weight"][hot] *= factors
            for reader in readers:
                weights[f"{layer}.{reader}.weight"][:, hot] /= factors
        units = rng.choice(config.intermediate_size, len(hot), replace=False).tolist()
        weights[f"{layer}.mlp.up_proj.weight"][units] *= factors[:, None]
        weights[f"{layer}.mlp.down_proj.weight"][:, units] /= factors
        values = config.num_key_value_heads * config.head_dim
        for row, factor in zip(
            rng.choice(values, 2, replace=False).tolist(), (8.0, 16.0), strict=True
        ):
            head, offset = divmod(row, config.head_dim)
            readers_of_row = [
                (head * group + member) * config.head_dim + offset for member in range(group)
            ]
            weights[f"{layer}.self_attn.v_proj.weight"][row] *= factor
            weights[f"{layer}.self_attn.o_proj.weight"][:, readers_of_row] /= factor


def plant(weights: Mapping[str, Tensor], config: ModelConfig, seed: int) -> Weights:
    """New weights with both kinds of outliers.

    Args:
        weights: by Hugging Face names, a tied head left out.
        config: the model's shape.
        seed: decides channels, sizes and places.

    Raises:
        ValueError: the reserved channels and units are in use, or there are under 3 layers.
    """
    if config.num_hidden_layers < 3:
        raise ValueError("Outliers come and go within 3 layers; the model has fewer.")
    check_room(weights)
    planted = {name: tensor.to(torch.float64) for name, tensor in weights.items()}
    plan = make_plan(config, seed)
    plant_massive(planted, config, plan, seed)
    plant_hot(planted, config, plan, seed)
    return planted


def load_weights(weights: Mapping[str, Tensor], config: ModelConfig) -> CausalLM:
    """The torch module in float32."""
    model = CausalLM(config)
    state = {name: tensor.to(torch.float32) for name, tensor in weights.items()}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()


def linear_inputs(model: CausalLM, ids: list[int]) -> tuple[Tensor, dict[str, dict[str, float]]]:
    """Logits [T, V] and, by kind of linear, the worst kurtosis and magnitude of its input."""
    found: dict[str, dict[str, float]] = {}

    def watch(name: str) -> Any:
        def hook(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].double().flatten()
            spread = x - x.mean()
            kurtosis = float((spread**4).mean() / (spread**2).mean() ** 2)
            entry = found.setdefault(name.rpartition(".")[2], {"kurtosis": 0.0, "largest": 0.0})
            entry["kurtosis"] = max(entry["kurtosis"], round(kurtosis, 1))
            entry["largest"] = max(entry["largest"], round(float(x.abs().max()), 2))

        return hook

    handles = [
        module.register_forward_pre_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers" in name
    ]
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids]), torch.arange(len(ids)), causal_attend)
        logits = model.head(hidden)[0]
    for handle in handles:
        handle.remove()
    return logits, found


def compare(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], config: ModelConfig, ids: list[int]
) -> dict[str, Any]:
    """How far the logits moved, and what the inputs of the linears look like."""
    old, inputs_before = linear_inputs(load_weights(before, config), ids)
    new, inputs_after = linear_inputs(load_weights(after, config), ids)
    return {
        "tokens": len(ids),
        "largest_logit": round(float(old.abs().max()), 4),
        "largest_difference_first": round(float((old[0] - new[0]).abs().max()), 5),
        "largest_difference": round(float((old[1:] - new[1:]).abs().max()), 5),
        "same_argmax": round(float((old.argmax(-1) == new.argmax(-1)).double().mean()), 5),
        "before": inputs_before,
        "after": inputs_after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", type=Path, help="what to compare on; default: random tokens")
    arguments = parser.parse_args()
    raw = json.loads((arguments.folder / "config.json").read_text(encoding="utf-8"))
    config = parse_config(raw)
    weights = load_file(arguments.folder / "model.safetensors")
    planted = plant(weights, config, arguments.seed)
    write_checkpoint(planted, raw, arguments.folder / "tokenizer.json", arguments.out)
    shutil.copyfile(
        arguments.folder / "generation_config.json", arguments.out / "generation_config.json"
    )
    ids = np.random.default_rng(1).integers(5, config.vocab_size, 511).tolist()
    if arguments.text:
        from recipes.demo.checkpoint import read_tokenizer

        text = arguments.text.read_text(encoding="utf-8")[:4000]
        ids = read_tokenizer(arguments.folder).encode(text, add_special_tokens=False).ids[:511]
    written = load_file(arguments.out / "model.safetensors")
    print(json.dumps(compare(weights, written, config, [BOS, *ids]), indent=2))


if __name__ == "__main__":
    main()
