"""GPTQ by llm-compressor: a script for a Python that has `llmcompressor`. Knows no judge.

    python llm_compressor.py MODEL IDS.npy OUT OPTIONS

MODEL is a folder that transformers loads, IDS.npy int64 [sequences, tokens], OPTIONS a JSON object
with "group" and, if wanted, "observer". All else is what llm-compressor does by itself.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(model: str, ids: str, out: str, options: str) -> None:
    import numpy as np
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM

    given: dict[str, Any] = json.loads(options)
    rows = np.load(ids)
    data = Dataset.from_dict(
        {"input_ids": rows.tolist(), "attention_mask": np.ones_like(rows).tolist()}
    )
    chosen = {"observer": given["observer"]} if "observer" in given else {}
    weights = QuantizationArgs(
        num_bits=4,
        type="int",
        symmetric=True,
        strategy="group",
        group_size=given["group"],
        **chosen,
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    recipe = GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    loaded.model.rotary_emb.rope_type = "default"
    # The table of angles is made; to change it with the length, as LongRoPE may, fails under the
    # quantizer, which moves buffers away.
    oneshot(
        model=loaded, dataset=data, recipe=recipe, max_seq_length=rows.shape[1],
        num_calibration_samples=len(rows), shuffle_calibration_samples=False,
    )  # fmt: skip
    loaded.save_pretrained(out, save_compressed=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
