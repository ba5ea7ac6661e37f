"""Ternary checkpoints: when they are taken as such, what comes of them, and who is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.artifact import open_artifact
from arkinfer.compiler.build import BuildReport, build
from arkinfer.compiler.plan import plan
from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.packing import QuantizedTensor, part_specs
from arkinfer.runtime.contract import LoadOptions
from arkinfer.runtime.registry import open_section
from arkinfer.testing import make_checkpoint, preset
from arkinfer.verify.checks import checks

SHAPE: dict[str, Any] = {"num_hidden_layers": 1, "max_position_embeddings": 128}


def stored(path: Path) -> dict[str, QuantizedTensor]:
    """The matrices that an artifact has by the rule "stored", or stacked of such."""
    found: dict[str, QuantizedTensor] = {}
    with open_artifact(path) as artifact:
        module = ir.parse_module(artifact.read("ir.txt").decode())
        for node in module.nodes():
            for weight in node.weights:
                if not isinstance(weight.type, ir.QuantizedType) or weight.type.scheme.bits != 2:
                    continue
                parts = {
                    part: np.frombuffer(
                        artifact.read(f"weights/{weight.name}.{part}"), dtype
                    ).reshape(shape)
                    for part, (dtype, shape) in part_specs(
                        weight.type.scheme, weight.type.shape
                    ).items()
                }
                name = weight.name.removesuffix(f".{weight.type.scheme.name}")
                found[name] = QuantizedTensor.from_parts(
                    weight.type.scheme, weight.type.shape, parts
                )
    return found


def dense(folder: Path, name: str) -> np.ndarray:
    """What the checkpoint has under an artifact's name; q, k and v are stacked."""
    names = [name.replace("qkv", x) for x in "qkv"] if "qkv" in name else [name]
    with open_checkpoint(folder) as checkpoint:
        return np.concatenate([checkpoint.read(n).astype(np.float32) for n in names])


CASES = {
    "a scale per row": ({}, 1, "safetensors", {"int2-row"}),
    "pytorch_model.bin": ({}, 1, "bin", {"int2-row"}),
    "a plain Llama in fp16": (
        {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float16"},
        1,
        "bin",
        {"int2-row"},
    ),
    "float32": ({"torch_dtype": "float32"}, 1, "safetensors", {"int2-row"}),
    "a scale per shard": ({}, 2, "safetensors", {"int2-g128", "int2-g256"}),
    "groups": ({}, 8, "safetensors", {"int2-g32", "int2-g64"}),
}


@pytest.mark.parametrize("case", CASES)
def test_linears_keep_every_bit(case: str, tmp_path: Path) -> None:
    changes, parts, form, schemes = CASES[case]
    raw = preset("tiny", **SHAPE, **changes)
    folder = make_checkpoint(raw, 0, tmp_path / "model", format=form, ternary=parts)
    report = build(folder, quant="ternary", output=tmp_path / "m.ark", backend="onnxruntime")
    found = stored(report.path)
    assert len(found) == 5  # qkv, o, gate, up, down
    assert {matrix.scheme.name for matrix in found.values()} == schemes
    for name, matrix in found.items():
        np.testing.assert_array_equal(matrix.dequantize(), dense(folder, name), err_msg=name)


def logits(path: Path, tokens: np.ndarray) -> np.ndarray:
    with open_artifact(path) as artifact:
        _, executable = open_section(artifact, "reference", LoadOptions(1))
        return executable.new_state(len(tokens)).step(tokens, rows="all").logits


def test_logits_are_those_of_the_dense_model(tmp_path: Path) -> None:
    """By the reference backend, which does not round activations."""
    folder = make_checkpoint(preset("tiny", **SHAPE), 0, tmp_path / "model", ternary=1)
    tokens = np.arange(3, 43)
    options: dict[str, Any] = {"backend": "reference", "embedding": "none"}
    ours = build(folder, quant="ternary", output=tmp_path / "t.ark", **options)
    plain = build(
        folder, quant="none", dtype="fp32", output=tmp_path / "d.ark", backend="reference"
    )
    assert not stored(plain.path)  # a dtype was asked for: the yardstick
    exact = logits(plain.path, tokens)
    np.testing.assert_allclose(logits(ours.path, tokens), exact, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def bitcpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(
        preset("tiny", **SHAPE), 0, tmp_path_factory.mktemp("bitcpm") / "model", ternary=1
    )


def test_nothing_need_be_said_of_a_ternary_checkpoint(bitcpm: Path, tmp_path: Path) -> None:
    said = build(bitcpm, quant="ternary", output=tmp_path / "said.ark", backend="onnxruntime")
    unsaid = build(bitcpm, output=tmp_path / "unsaid.ark", backend="onnxruntime")
    assert unsaid.quant == "ternary"
    assert said.path.read_bytes() == unsaid.path.read_bytes()
    assert said.notes == ()
    assert unsaid.notes == (
        "The checkpoint is ternary: its linears keep their numbers, in two bits each, as with "
        "--quant ternary",
    )


def test_none_keeps_what_is_there(bitcpm: Path, tmp_path: Path) -> None:
    report = build(bitcpm, quant="none", output=tmp_path / "m.ark", backend="onnxruntime")
    assert report.quant == "none"
    assert len(stored(report.path)) == 5


def test_what_is_asked_for_is_done(bitcpm: Path, tmp_path: Path) -> None:
    report = build(bitcpm, quant="int4", output=tmp_path / "m.ark", backend="onnxruntime")
    assert report.quant == "int4"
    assert not stored(report.path)


@pytest.mark.parametrize("quant", ["ternary", "none"])
def test_the_file_answers_as_it_was_built_to(bitcpm: Path, tmp_path: Path, quant: str) -> None:
    """On ONNX Runtime, with golden vectors of the checkpoint's model."""
    report = build(bitcpm, quant=quant, output=tmp_path / "m.ark", backend="onnxruntime")
    found = {check.name: check.ok for check in checks(report.path, threads=1)}
    assert found.keys() >= {"reference", "values", "source"}
    assert False not in found.values()


@pytest.mark.parametrize("quant", ["ternary", None, "none"])
def test_plans_agree(bitcpm: Path, tmp_path: Path, quant: str | None) -> None:
    found = plan(bitcpm, quant=quant, backend="onnxruntime")
    report = build(bitcpm, quant=quant, output=tmp_path / "m.ark", backend="onnxruntime")
    assert found.quant == report.quant
    assert abs(found.artifact_bytes / report.size - 1) < 0.02


@pytest.mark.parametrize(("embedding", "most"), [("int4-g128", 128), ("int8-g128", 165)])
def test_the_half_billion_is_small(tmp_path: Path, embedding: str, most: int) -> None:
    """Without weights a plan reckons with a scale per row."""
    (tmp_path / "config.json").write_text(json.dumps(preset("minicpm4-0.5b")))
    found = plan(tmp_path, quant="ternary", embedding=embedding, backend="onnxruntime")
    assert 0.9 * most < found.artifact_bytes / 2**20 <= most


@pytest.mark.parametrize("act", [build, plan])
def test_a_dense_checkpoint_is_refused(act: Callable[..., Any], tmp_path: Path) -> None:
    folder = make_checkpoint(preset("tiny", **SHAPE), 0, tmp_path / "model")
    with pytest.raises(UnsupportedError) as caught:
        act(folder, quant="ternary")
    row = dense(folder, "model.layers.0.self_attn.q_proj.weight")[0]
    assert str(caught.value) == (
        "The checkpoint is not ternary. In model.layers.0.self_attn.q_proj.weight, row 0 holds "
        f"{len(np.unique(np.abs(row)))} different magnitudes, not one per scale. Quantize it "
        "otherwise, such as with --quant int4; --quant ternary only takes over what was trained "
        "as ternary (recipes/bitcpm does that)."
    )


def changed(folder: Path, name: str, row: int, number: int) -> None:
    """Overwrites the first bfloat16 of a row of a matrix."""
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[:8], "little")
    facts = json.loads(data[8 : 8 + size])[name]
    offset = 8 + size + facts["data_offsets"][0] + 2 * row * facts["shape"][1]
    data[offset : offset + 2] = number.to_bytes(2, "little")
    file.write_bytes(data)


def test_one_number_decides(tmp_path: Path) -> None:
    folder = make_checkpoint(preset("tiny", **SHAPE), 0, tmp_path / "model", ternary=1)
    name = "model.layers.0.mlp.down_proj.weight"
    changed(folder, name, 200, 0x4242)
    with pytest.raises(UnsupportedError, match=f"In {name}, row 200 holds 2 different magnitudes"):
        build(folder, quant="ternary", output=tmp_path / "m.ark", backend="onnxruntime")
    assert not (tmp_path / "m.ark").exists()
    report: BuildReport = build(folder, output=tmp_path / "m.ark", backend="onnxruntime")
    assert (report.quant, report.notes) == ("int4", ())


@pytest.mark.parametrize("quant", ["ternary", None, "none"])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, quant: str | None) -> None:
    folder = make_checkpoint(preset("tiny", **SHAPE), 0, tmp_path / "model", ternary=1)
    changed(folder, "model.layers.0.mlp.up_proj.weight", 9, 0x7F80)
    with pytest.raises(CheckpointError, match=r"@model\.layers\.0\.mlp\.up_proj\.weight: .*finite"):
        build(folder, quant=quant, output=tmp_path / "m.ark", backend="onnxruntime")
