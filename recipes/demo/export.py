"""Writes a training state as a Hugging Face folder in bfloat16. Knows no data.

    python -m recipes.demo.export OUT FOLDER

OUT is the folder of `train.py`. FOLDER receives config.json, model.safetensors, tokenizer.json,
tokenizer_config.json, generation_config.json and chat_template.jinja. The same state gives the
same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from recipes.demo.chatformat import SPECIAL, TEMPLATE

GENERATION: dict[str, Any] = {
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 2,
    "do_sample": False,
}
"""Greedy: so small a model says what it knows best, and everybody gets the same answer."""


def tokenizer_config() -> dict[str, Any]:
    """Special tokens, one BOS in front and none behind, the chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "pad_token": "</s>",
        "added_tokens_decoder": {
            str(token_id): {
                "content": content, "lstrip": False, "normalized": False, "rstrip": False,
                "single_word": False, "special": True,
            }
            for token_id, content in enumerate(SPECIAL)
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "chat_template": TEMPLATE,
    }  # fmt: skip


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_checkpoint(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], tokenizer: Path, folder: Path
) -> None:
    """The whole folder; `weights` by Hugging Face names, a tied head left out."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in sorted(weights.items())
        if not (name == "lm_head.weight" and config["tie_word_embeddings"])
    }
    save_file(kept, folder / "model.safetensors.part", metadata={"format": "pt"})
    os.chmod(folder / "model.safetensors.part", 0o644)  # save_file makes it private
    os.replace(folder / "model.safetensors.part", folder / "model.safetensors")
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", GENERATION)
    _write(folder / "tokenizer_config.json", tokenizer_config())
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    if tokenizer != folder / "tokenizer.json":
        shutil.copyfile(tokenizer, folder / "tokenizer.json")


def main(out: Path, folder: Path) -> None:
    state = torch.load(out / "state.pt", weights_only=True)
    config = json.loads((out / "config.json").read_text())
    write_checkpoint(state["model"], config, out / "tokenizer.json", folder)
    progress = state["progress"]
    print(f"step {progress['step']}, {progress['tokens']} tokens -> {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
