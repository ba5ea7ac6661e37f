"""An error in a pass, in packed weights, in a scale or in a kernel's argument is found in one run,
at the op that makes it. All files are well-formed, with valid hashes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.align.report import Finding, Report, StageReport
from arkinfer.artifact import verify_artifact
from arkinfer.compiler import reuse
from arkinfer.compiler import weights as compiler_weights
from arkinfer.compiler.build import build
from arkinfer.compiler.cache import Cache
from arkinfer.frontend.trace import trace
from arkinfer.ir import Node
from arkinfer.models.config import ModelConfig
from arkinfer.packing import QuantizedTensor
from arkinfer.passes import fuse_rms_norm, fuse_rope, rewrite
from tests.align.seeds import onnx_attribute, rewritten

Aligned = Callable[..., Report]
MODEL = "backends/onnxruntime/model.onnx"


def first(report: Report) -> tuple[StageReport, Finding]:
    assert not report.aligned
    assert report.first is not None
    assert [stage for stage in report.stages[:-1] if stage.failures] == []
    return report.first


def wrong_eps(like: Node, op: str, *operands: Any, **attributes: Any) -> Node:
    if like.loc == "model.layers.1.input_layernorm":
        attributes["eps"] *= 1000
    return rewrite.one_node(like, op, *operands, **attributes)


def turned_back(like: Node, op: str, *operands: Any, **attributes: Any) -> Node:
    attributes["factor"] *= -1 if like.loc.startswith("model.layers.1") else 1
    return rewrite.one_node(like, op, *operands, **attributes)


def test_in_the_front_end(
    checkpoint: Path, tmp_path: Path, aligned: Aligned, monkeypatch: pytest.MonkeyPatch
):
    """What is traced has another epsilon than torch."""
    monkeypatch.setattr(reuse, "traced", traced_wrong)
    build(checkpoint, quant="int4-g32", output=tmp_path / "m.ark", backend="onnxruntime")
    where, finding = first(aligned(tmp_path / "m.ark"))
    assert where.name == "traced"
    assert (finding.op, finding.loc) == ("tensor.mul", "model.layers.0.post_attention_layernorm")


def traced_wrong(config: ModelConfig, context: int, cache: Cache) -> ir.Module:
    module = trace(config, context)
    for node in module.nodes():
        if node.op == "tensor.shift" and node.loc.endswith("0.post_attention_layernorm"):
            node.attributes["by"] = 0.01
    return module


@pytest.mark.parametrize(
    ("module", "broken", "stage", "op", "loc"),
    [
        (fuse_rms_norm, wrong_eps, "fuse-rms-norm", "nn.rms_norm",
         "model.layers.1.input_layernorm"),
        (fuse_rope, turned_back, "fuse-rope", "nn.rope", "model.layers.1.self_attn"),
    ],
)  # fmt: skip
def test_in_a_pass(
    module: Any, broken: Any, stage: str, op: str, loc: str,
    checkpoint: Path, tmp_path: Path, aligned: Aligned, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """The pass is wrong, and so is its proof: both the build and align run it."""
    monkeypatch.setattr(module, "one_node", broken)
    monkeypatch.setattr(rewrite, "refutation", lambda *_: None)
    build(checkpoint, quant="int4-g32", output=tmp_path / "m.ark", backend="reference")
    where, finding = first(aligned(tmp_path / "m.ark"))
    assert (where.name, finding.op, finding.loc) == (stage, op, loc)


def test_in_a_pass_when_it_was_built(
    checkpoint: Path, tmp_path: Path, aligned: Aligned, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(fuse_rms_norm, "one_node", wrong_eps)
        patch.setattr(rewrite, "refutation", lambda *_: None)
        build(checkpoint, quant="int4-g32", output=tmp_path / "m.ark", backend="onnxruntime")
    where, finding = first(aligned(tmp_path / "m.ark"))
    assert where.name == "the file's graphs"
    assert (finding.op, finding.loc) == ("nn.rms_norm", "model.layers.1.input_layernorm")
    assert "eps = 1e-05" in finding.line or "eps = 1e-06" in finding.line
    assert finding.what.startswith("ir.txt has: %")


def test_in_packed_weights(int4: Path, tmp_path: Path, aligned: Aligned):
    def flip(codes: np.ndarray) -> None:
        codes[77, 2, 5] ^= 0x01  # the lowest bit of one code

    name = "model.layers.1.mlp.down_proj.weight.int4-g32"
    path = rewritten(int4, tmp_path / "m.ark", tensors={f"{name}.codes": flip})
    verify_artifact(path)
    where, finding = first(aligned(path))
    assert where.name == "the file's weights"
    assert (finding.op, finding.loc) == ("quant.linear", "model.layers.1.mlp.down_proj")
    assert finding.what == (
        f"the file's codes of @{name}, row 77, group 2 (columns 64 to 95) "
        "are not what the build computes"
    )


def test_in_a_scale(int4: Path, tmp_path: Path, aligned: Aligned):
    def stretch(scale: np.ndarray) -> None:
        scale[200, 3] *= 1.02

    name = "model.layers.0.self_attn.qkv_proj.weight.int4-g32"
    path = rewritten(int4, tmp_path / "m.ark", tensors={f"{name}.scale": stretch})
    verify_artifact(path)
    where, finding = first(aligned(path))
    assert where.name == "the file's weights"
    assert (finding.op, finding.loc) == ("quant.linear", "model.layers.0.self_attn")
    assert f"the file's scale of @{name}, row 200, group 3 (columns 96 to 127)" in finding.what
    assert finding.difference is not None
    assert finding.difference.relative == pytest.approx(0.02, rel=0.01)


def test_in_the_method(
    checkpoint: Path, tmp_path: Path, aligned: Aligned, monkeypatch: pytest.MonkeyPatch
):
    """One scale of one group of one row is 5 % off whenever the weight is quantized."""
    honest = compiler_weights.round_to_nearest

    def dishonest(matrix: np.ndarray, scheme: Any, **options: Any) -> QuantizedTensor:
        made = honest(matrix, scheme, **options)
        if matrix.shape == (128, 256):  # down_proj
            made.scale[9, 4] *= 1.1
        return made

    monkeypatch.setattr(compiler_weights, "round_to_nearest", dishonest)
    build(checkpoint, quant="int4-g32", output=tmp_path / "m.ark", backend="onnxruntime")
    where, finding = first(aligned(tmp_path / "m.ark"))
    assert where.name.startswith("quantize")
    assert (finding.op, finding.loc) == ("quant.linear", "model.layers.0.mlp.down_proj")
    assert "down_proj.weight.int4-g32, row 9, group 4 (columns 128 to 159)" in finding.what


@pytest.mark.parametrize(
    ("node", "number", "attribute", "change", "op", "loc"),
    [
        ("GroupQueryAttention", 1, "scale", lambda x: x * 1.1,
         "attn.dense", "model.layers.1.self_attn"),
        ("SkipSimplifiedLayerNormalization", 1, "epsilon", lambda x: 0.3,
         "nn.rms_norm", "model.layers.1.input_layernorm"),
        ("QuickGelu", 1, "alpha", lambda x: 1.1, "nn.silu_mul", "model.layers.1.mlp"),
    ],
)  # fmt: skip
def test_in_an_argument_of_a_kernel(
    node: str, number: int, attribute: str, change: Any, op: str, loc: str,
    int4: Path, tmp_path: Path, aligned: Aligned,
):  # fmt: skip
    wrong = onnx_attribute(node, number, attribute, change)
    path = rewritten(int4, tmp_path / "m.ark", entries={MODEL: wrong})
    verify_artifact(path)
    where, finding = first(aligned(path))
    assert where.name == "backend onnxruntime"
    assert (finding.op, finding.loc) == (op, loc)


def test_in_a_dimension_of_a_kernel(checkpoint: Path, tmp_path: Path, aligned: Aligned):
    """TVM's second attention is told that there are as many keys as queries: wrong only when
    something is in the cache already."""
    build(checkpoint, quant="none", dtype="fp32", output=tmp_path / "t.ark", backend="tvm")

    def forget(data: bytes) -> bytes:
        program, *others = json.loads(data)
        fresh = program["operands"].index(["dim", program["dims"].index(
            {"terms": [["T", 1]], "constant": 0, "per": 1, "factor": 1}
        )])  # fmt: skip
        total = program["operands"].index(["dim", program["dims"].index(
            {"terms": [["S", 1], ["T", 1]], "constant": 0, "per": 1, "factor": 1}
        )])  # fmt: skip
        calls = [call for call in program["calls"] if call[0].startswith("attention")]
        calls[1][1] = [fresh if operand == total else operand for operand in calls[1][1]]
        return json.dumps([program, *others]).encode()

    wrong = {"backends/tvm/programs.json": forget}
    path = rewritten(tmp_path / "t.ark", tmp_path / "m.ark", entries=wrong)
    verify_artifact(path)
    where, finding = first(aligned(path))
    assert (where.name, finding.step) == ("backend tvm", "1 token after 32")
    assert (finding.op, finding.loc) == ("attn.dense", "model.layers.1.self_attn")
