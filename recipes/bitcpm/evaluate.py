"""Held-out perplexity of a ternary model beside its teacher and beside rounding without training.

    python -m recipes.bitcpm.evaluate FOLDER [--teacher FOLDER]

FOLDER is what `export.py` wrote. Prints one JSON object: windows of 1024 after a BOS over the
whole held-out text, as `recipes/demo/evaluate.py` has them, and the mean KL divergence from the
teacher in nats over its first 16 windows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from arkinfer.models.minicpm import CausalLM
from arkinfer.packing import Scheme
from arkinfer.quant import round_to_nearest
from recipes.bitcpm.ternary import ternary_weights
from recipes.bitcpm.train import DEMO
from recipes.demo import probes
from recipes.demo.chatformat import BOS
from recipes.demo.checkpoint import read_model, read_tokenizer

HELD_OUT = DEMO.parent / "heldout.txt"


@torch.no_grad()
def rounded(folder: Path, group: int) -> CausalLM:
    """The model with its layers' matrices in two bits by round-to-nearest with clip search."""
    model = read_model(folder)
    for name, tensor in model.named_parameters():
        if tensor.ndim == 2 and ".layers." in name:
            found = round_to_nearest(tensor.numpy(), Scheme(2, group)).dequantize()
            tensor.copy_(torch.from_numpy(found))
    return model


def untrained(folder: Path) -> CausalLM:
    """The model put through the ternary quantizer as it is."""
    model = read_model(folder)
    model.load_state_dict(ternary_weights(model.state_dict()))
    return model


def divergence(model: CausalLM, teacher: CausalLM, ids: list[int], windows: int = 16) -> float:
    """Mean KL(teacher || model) over the tokens of the first windows."""
    total, count = 0.0, 0
    for start in range(0, min(len(ids), windows * probes.WINDOW), probes.WINDOW):
        part = [BOS, *ids[start : start + probes.WINDOW - 1]]
        wanted, ours = (torch.log_softmax(probes.logits(m, part), -1) for m in (teacher, model))
        total += float((wanted.exp() * (wanted - ours)).sum())
        count += len(part)
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--teacher", type=Path, default=DEMO, help="a checkpoint of recipes/demo")
    arguments = parser.parse_args()
    tokenizer = read_tokenizer(arguments.teacher)
    text = HELD_OUT.read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    teacher = read_model(arguments.teacher)
    models = {
        "teacher": teacher,
        "ternary": read_model(arguments.folder),
        "teacher in int2-g128 by round-to-nearest": rounded(arguments.teacher, 128),
        "teacher made ternary without training": untrained(arguments.teacher),
    }
    found = {
        name: {
            "perplexity": round(probes.perplexity(model, ids), 3),
            "kl": round(divergence(model, teacher, ids), 4),
        }
        for name, model in models.items()
    }
    print(json.dumps({"tokens": len(ids), "models": found}, indent=2))


if __name__ == "__main__":
    main()
