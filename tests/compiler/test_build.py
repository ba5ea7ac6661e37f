"""Whole builds of small seeded models: what comes out is what torch computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import arkinfer
from arkinfer.artifact import open_artifact, verify_artifact
from arkinfer.compiler.build import build
from arkinfer.compiler.progress import Progress
from arkinfer.errors import ResourceError, UnsupportedError, UsageError
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.testing import FAMILY, make_checkpoint
from arkinfer.testing.torch_model import torch_model, torch_step


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("tiny", 0, tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.mark.parametrize("name", sorted(FAMILY))
def test_unquantized_logits_equal_torch(name: str, tmp_path: Path) -> None:
    """Through file, reader, trace, passes, ONNX Runtime and engine: within 1e-4 of the module,
    in one call, token by token, and in chunks."""
    config = {**FAMILY[name], "vocab_size": 300}  # room for a tokenizer
    if name == "group-16":
        config["head_dim"] = 16  # the smallest that ONNX Runtime takes
    folder = make_checkpoint(config, 3, tmp_path / name)
    path = tmp_path / "m.ark"
    build(folder, quant="none", dtype="fp32", output=path, chunk=7, backend="onnxruntime")
    with open_checkpoint(folder) as checkpoint:
        model = torch_model(checkpoint.config, checkpoint)
    ids = np.random.default_rng(4).integers(0, 300, 23)
    expected, _ = torch_step(model, ids)
    with arkinfer.load(path, threads=1) as engine:
        np.testing.assert_allclose(engine.logits(ids.tolist()), expected, atol=1e-4)
        for size in (1, 3, 7):
            state = engine.executable.new_state(32)
            parts = [
                state.step(ids[start : start + size], rows="all").logits.copy()
                for start in range(0, len(ids), size)
            ]
            np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-4)


def test_two_builds_give_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    backends = ("onnxruntime", "reference")
    for name in "ab":
        build(tiny, quant="int4-g32-asym", output=tmp_path / f"{name}.ark", backend=backends,
              cache=False)  # fmt: skip
    assert (tmp_path / "a.ark").read_bytes() == (tmp_path / "b.ark").read_bytes()
    verify_artifact(tmp_path / "a.ark")


def test_sections_share_weights(tiny: Path, tmp_path: Path) -> None:
    one = build(tiny, output=tmp_path / "one.ark", backend="reference")
    two = build(tiny, output=tmp_path / "two.ark", backend=("onnxruntime", "reference"))
    with open_artifact(two.path) as artifact:
        assert list(artifact.sections) == ["onnxruntime", "reference"]
        shared = set(artifact.sections["onnxruntime"].tensors)
        shared &= set(artifact.sections["reference"].tensors)
        sizes = sum(artifact.tensor_entry(name).size for name in shared)
    assert sizes > 0.8 * one.size - 100_000


@pytest.mark.parametrize("quant", ["int8", "int4", "int4-g64-asym", "int8-row"])
def test_quantized_logits_stay_near(tiny: Path, tmp_path: Path, quant: str) -> None:
    """Against the unquantized model: the error is of the size that the bits allow."""
    limit = 0.1 if quant.startswith("int8") else 1.0
    ids = list(range(5, 40))
    logits = {}
    for each in ("none", quant):
        report = build(tiny, quant=each, output=tmp_path / f"{each}.ark", backend="reference")
        with arkinfer.load(report.path) as engine:
            logits[each] = engine.logits(ids)
    error = np.abs(logits["none"] - logits[quant]).max()
    assert 1e-4 < error < limit


def test_the_report_and_the_manifest_tell_what_was_built(tiny: Path, tmp_path: Path) -> None:
    moments: list[Progress] = []
    report = build(
        tiny, quant="int4-g32", embedding="int8-g64", output=tmp_path / "m.ark",
        context=100, chunk=512, on_progress=moments.append, backend="onnxruntime",
    )  # fmt: skip
    assert report.size == report.path.stat().st_size
    assert set(report.schemes) == {"int4-g32", "int8-g64"}
    assert report.context == 100
    with open_artifact(report.path) as artifact:
        manifest = artifact.manifest
        assert manifest["context"] == 100
        assert manifest["quant"] == "int4-g32"
        assert manifest["sections"][0]["config"]["chunk"] == 100
        stored = json.loads(artifact.read("report.json"))
        assert stored["schemes"] == report.schemes
        assert "seconds" not in stored
        assert b"quant.linear" in artifact.read("ir.txt")
    stages = list(dict.fromkeys(moment.stage for moment in moments))
    assert stages == [
        "opening the checkpoint", "tracing the model", "optimizing the graph",
        "compiling for onnxruntime", "writing weights", "computing golden vectors",
        "measuring the quality", "finishing the file",
    ]  # fmt: skip
    written = [m for m in moments if m.stage == "writing weights"]
    assert written[-1].done == written[-1].total
    computed = [m for m in moments if m.stage == "computing golden vectors"]
    assert computed[-1].done == computed[-1].total > 0


def test_this_machine_is_served_by_tvm(tiny: Path, tmp_path: Path) -> None:
    """Nothing said: kernels for this processor, and caches as they like them best."""
    report = build(tiny, output=tmp_path / "m.ark", context=64)
    assert (report.target, report.backends, report.kv) == ("cpu", ("tvm",), "bf16")
    assert report.activations == {"tvm": "int8"}
    assert not report.slow
    with open_artifact(report.path) as artifact:
        assert list(artifact.sections) == ["tvm"]
    usual = build(tiny, output=tmp_path / "o.ark", context=64, backend="onnxruntime", cache=False)
    ids = np.arange(3, 40).tolist()
    logits: list[np.ndarray] = []
    for path in (report.path, usual.path):
        with arkinfer.load(path, threads=1) as engine:
            logits.append(engine.logits(ids))
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.1 * np.abs(logits[1]).max()


def test_the_ir_is_dumped_after_each_pass(tiny: Path, tmp_path: Path) -> None:
    from arkinfer.ir import parse_module, print_module

    build(tiny, output=tmp_path / "m.ark", dump_ir=tmp_path / "ir", backend="onnxruntime")
    files = sorted((tmp_path / "ir").rglob("*.ir"))
    assert "00-input.ir" in [file.name for file in files]
    assert any(file.parent.name == "onnxruntime" for file in files)
    for file in files:
        text = file.read_text()
        kept = "".join(s for s in text.splitlines(keepends=True) if not s.startswith("// "))
        assert print_module(parse_module(text)) == kept


def test_storage_dtypes(tiny: Path, tmp_path: Path) -> None:
    sizes = {
        dtype: build(
            tiny, quant="none", dtype=dtype, output=tmp_path / f"{dtype}.ark", backend="onnxruntime"
        ).size
        for dtype in ("fp32", "fp16", "bf16")
    }
    assert abs(sizes["fp16"] / sizes["bf16"] - 1) < 0.02
    assert 1.7 < sizes["fp32"] / sizes["bf16"] < 2.01


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": "jetson-orn"}, 'There is no target "jetson-orn". Did you mean "jetson-orin"?'),
        ({"quant": "int5"}, 'There is no quantization "int5". Did you mean "int'),
        ({"backend": "onnxruntme"}, 'no backend "onnxruntme". Did you mean "onnxruntime"?'),
        ({"dtype": "float32"}, 'There is no dtype "float32". '),
        ({"context": 0}, "The context cannot be 0 tokens. Give at least 1."),
        ({"context": 10**7}, "The context cannot be 10000000 tokens. The checkpoint was made for"),
        ({"backend": ("reference", "reference")}, "A backend is named twice"),
        ({"model": "no/such/folder"}, 'There is no folder "no/such/folder"'),
    ],
)
def test_wrong_requests_are_one_sentence(
    tiny: Path, tmp_path: Path, options: dict[str, object], text: str
) -> None:
    given = {"model": tiny, "output": tmp_path / "m.ark", **options}
    with pytest.raises(UsageError) as error:
        build(**given)  # wrong on purpose
    assert text in str(error.value)
    assert not list(tmp_path.glob("*.ark*"))


def test_a_group_that_does_not_fit_names_the_layer(tmp_path: Path) -> None:
    folder = make_checkpoint({**FAMILY["odd-sizes"], "vocab_size": 300}, 0, tmp_path / "odd")
    with pytest.raises(UnsupportedError) as error:
        build(folder, quant="int4-g32", output=tmp_path / "m.ark", backend="onnxruntime")
    assert str(error.value) == (
        "model.embed_tokens cannot be quantized to int8-g32: it has 72 inputs. Groups of 32 must "
        "divide the inputs and fill whole bytes. Choose int8-row or none for embedding and head."
    )
    assert not (tmp_path / "m.ark").exists()


def test_a_disk_that_is_too_small_is_known_at_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(ResourceError, match="There is no room to write"):
        build(tiny, output=tmp_path / "m.ark", backend="onnxruntime")
    assert list(tmp_path.iterdir()) == []
