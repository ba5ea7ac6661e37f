"""Writes a training state as BitCPM's checkpoints are: bfloat16 numbers that are ternary.

    python -m recipes.bitcpm.export OUT FOLDER

OUT is the folder of `train.py`. FOLDER receives an ordinary Hugging Face checkpoint, with the
teacher's config, tokenizer and template. The same state gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from recipes.bitcpm.ternary import ternary_weights
from recipes.bitcpm.train import DEMO
from recipes.demo.export import write_checkpoint


def export(out: Path, folder: Path, teacher: Path) -> None:
    """Writes the checkpoint and says how far its training came."""
    state = torch.load(out / "state.pt", weights_only=True)
    config = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    weights = ternary_weights(state["model"])
    write_checkpoint(weights, config, teacher / "tokenizer.json", folder)
    progress = state["progress"]
    print(f"step {progress['step']}, {progress['tokens']} tokens -> {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--teacher", type=Path, default=DEMO, help="a checkpoint of recipes/demo")
    arguments = parser.parse_args()
    export(arguments.out, arguments.folder, arguments.teacher)


if __name__ == "__main__":
    main()
