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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--teacher", type=Path, default=DEMO, help="a checkpoint of recipes/demo")
    arguments = parser.parse_args()
    state = torch.load(arguments.out / "state.pt", weights_only=True)
    config = json.loads((arguments.teacher / "config.json").read_text(encoding="utf-8"))
    tokenizer = arguments.teacher / "tokenizer.json"
    write_checkpoint(ternary_weights(state["model"]), config, tokenizer, arguments.folder)
    progress = state["progress"]
    print(f"step {progress['step']}, {progress['tokens']} tokens -> {arguments.folder}")


if __name__ == "__main__":
    main()
