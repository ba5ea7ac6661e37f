"""Matrices that the formats' own libraries wrote: our numbers are, rounded to the dtype of what a
library gives, exactly what it gives. How the files were made: `written/write.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from tests.frontend.quantized.stored import NAME, one

FILES = sorted(Path(__file__).with_name("written").glob("*.safetensors"))
CASES = {
    "auto_gptq": 8,
    "awq": 2,
    "compressed_tensors": 7,
    "gptqmodel": 16,
    "marlin": 2,
    "mlx": 12,
}


def cases() -> list[Any]:
    found = []
    for file in FILES:
        with safe_open(file, "pt") as opened:
            said = json.loads(opened.metadata()["config"])
        found += [pytest.param(file, case, said[case], id=f"{file.stem}-{case}") for case in said]
    return found


def tensors_of(file: Path, case: str) -> dict[str, np.ndarray[Any, Any]]:
    """numpy has no bfloat16 of its own: it comes by its bits."""
    import ml_dtypes
    import torch

    found = {}
    with safe_open(file, "pt") as opened:
        for name in opened.keys():
            if name.startswith(f"{case}."):
                tensor = opened.get_tensor(name)
                if tensor.dtype == torch.bfloat16:
                    array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
                else:
                    array = tensor.numpy()
                found[name.removeprefix(f"{case}.")] = array
    return found


def test_every_library_is_there():
    assert {file.stem: len([c for c in cases() if c.values[0] == file]) for file in FILES} == CASES


@pytest.mark.parametrize(("file", "case", "facts"), cases())
def test_our_numbers_are_those_of_the_library(file: Path, case: str, facts: dict[str, Any]):
    parts = tensors_of(file, case)
    theirs = parts.pop("dequantized")
    stored = one(parts, (theirs.shape[0], theirs.shape[1]), **facts)
    found = stored.find()
    ours = stored.dense(found[NAME], step=5)
    np.testing.assert_array_equal(ours.astype(theirs.dtype), theirs)
    assert set(found[NAME].tensors) == set(stored.tensors)
    symmetric = facts.get("sym", "-sym" in f"-{case}")
    assert (found[NAME].scheme.offset == "none") == (symmetric and file.stem != "mlx")
    assert found[NAME].scheme.act_order == case.endswith("-order")
