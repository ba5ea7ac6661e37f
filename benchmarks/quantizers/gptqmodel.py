"""GPTQ by GPTQModel: a script for a Python that has `gptqmodel`. Knows no judge.

    python gptqmodel.py MODEL IDS.npy OUT OPTIONS

MODEL is a folder that transformers loads, IDS.npy int64 [sequences, tokens], OPTIONS a JSON object
with "group" and, if wanted, other fields of GPTQModel's `QuantizeConfig`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.cpu_count = lambda: 4  # it takes half of them for itself, and refuses to run with one
sys.path = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent]
# This file would hide the package of the same name.


def main(model: str, ids: str, out: str, options: str) -> None:
    import numpy as np
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    given: dict[str, Any] = json.loads(options)
    config = QuantizeConfig(
        bits=4, group_size=given.pop("group"), sym=True, offload_to_disk=False, **given
    )
    loaded = GPTQModel.load(model, config, device="cpu", dtype=torch.float32)
    loaded.model.model.rotary_emb.rope_type = "default"
    # The table of angles is made; to change it with the length, as LongRoPE may, fails under the
    # quantizer, which moves buffers away.
    rows = np.load(ids).tolist()
    data = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    loaded.quantize(data, batch_size=1)
    loaded.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
