"""What config.json says of quantized weights before they are there: the same that they will say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from arkinfer.compiler.plan import plan
from arkinfer.errors import UnsupportedError
from arkinfer.frontend.checkpoint import open_config, stored_schemes
from arkinfer.frontend.quantized.claimed import claimed
from arkinfer.testing import preset

NAMES = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight")
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
WEIGHTS = {"num_bits": 4, "group_size": 64, "symmetric": False, "actorder": "group"}


@pytest.mark.parametrize(
    ("facts", "scheme", "count"),
    [
        (GPTQ, "int4-g128", 1),
        ({**GPTQ, "sym": False, "lm_head": True}, "int4-g128-asym", 2),
        ({**GPTQ, "bits": 8, "group_size": -1}, "int8-row", 1),
        ({**GPTQ, "desc_act": True}, "int4-g128-actorder", 1),
        ({**GPTQ, "desc_act": True, "group_size": -1}, "int4-row", 1),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "int4-g64-asym", 1),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": False}, "int4-g64", 1),
        ({"quant_method": "mlx", "bits": 4, "group_size": 64}, "int4-g64-min", 3),
        ({"quant_method": "marlin", "bits": 4, "group_size": 128}, "int4-g128", 1),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": WEIGHTS}}},
            "int4-g64-asym-actorder", 1,
        ),
    ],
)  # fmt: skip
def test_what_a_config_claims(facts: dict[str, Any], scheme: str, count: int):
    found = claimed(facts, NAMES)
    assert {each.name for each in found.values()} == {scheme}
    assert len(found) == count


@pytest.mark.parametrize(
    "facts",
    [
        {"quant_method": "gptq"}, {"quant_method": "gptq", "bits": "4"},
        {"quant_method": "gptq", "bits": 64}, {"quant_method": "compressed-tensors"},
        {"quant_method": "compressed-tensors", "config_groups": {"a": None}},
        {"quant_method": "compressed-tensors", "config_groups": [1]},
    ],
)  # fmt: skip
def test_a_config_that_says_too_little(facts: dict[str, Any]):
    with pytest.raises(UnsupportedError, match="does not say with how many bits"):
        claimed(facts, NAMES)


def test_a_plan_needs_no_quantized_weights(tmp_path: Path):
    raw = preset("minicpm4-0.5b", quantization_config=GPTQ)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    found = plan(tmp_path, context=1024)
    assert found.quant == "none"
    assert 3.9 < 8 * found.weight_bytes / found.parameters < 7
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 8)
    with pytest.raises(Exception, match=r"model\.safetensors"):  # what is there counts
        stored_schemes(tmp_path, open_config(tmp_path).config)
