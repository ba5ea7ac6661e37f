"""`arkinfer verify` on the device: errors that nobody's checksum sees are found in one run.

Each is planted as it would come about: in a pass, in packed weights, in a scale, in a kernel's
argument. What is named is the op, and the entries that it reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.verify.altered import altered

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from arkinfer import ir
from arkinfer.artifact import open_artifact
from arkinfer.compiler.build import build
from arkinfer.passes.fold_scalars import FoldScalars
from arkinfer.runtime import registry
from arkinfer.testing import make_checkpoint
from arkinfer.verify.tolerance import NUMERICS

Ark = Callable[..., Any]
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("tiny", 0, tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def sound(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "m.ark"
    build(checkpoint, output=path, backend=("onnxruntime", "tvm"), context=128, chunk=32)
    return path


@pytest.fixture(scope="module")
def tensors(sound: Path) -> dict[str, str]:
    """part -> entry, of one matrix in the middle of the model."""
    with open_artifact(sound) as artifact:
        names = [name for name in artifact.manifest["tensors"] if name.startswith(DOWN)]
    return {part: f"weights/{n}" for n in names for part in ("codes", "scale") if n.endswith(part)}


def blamed(result: Any) -> str:
    """What the error says of the op that is off."""
    assert result.code == 1, result
    assert result.out.startswith("ok  integrity"), "what passed is said before"
    assert "is sound" not in result.out
    found = re.search(r"The first op that is off is (.*): by [\d.e-]+\. Verify", result.err)
    assert found, result.err
    return found[1]


@pytest.mark.parametrize("backend", ["onnxruntime", "tvm"])
def test_a_sound_build(ark: Ark, sound: Path, backend: str):
    result = ark("verify", sound, "--backend", backend, "--threads", 1)
    assert result.code == 0, result.err
    lines = [line.split()[:2] for line in result.out.splitlines()[1:5]]
    assert [word for _, word in lines] == ["integrity", "signature", "reference", "values"]
    assert [mark for mark, _ in lines] == ["ok", "--", "ok", "ok"]
    assert f"{backend}: best token in 32 of 32" in result.out


def test_json_has_stable_keys(ark: Ark, sound: Path):
    facts = json.loads(ark("verify", sound, "--json").out)
    assert [check["name"] for check in facts["checks"]] == [
        "integrity", "signature", "reference", "values", "source",
    ]  # fmt: skip
    assert list(facts["checks"][2]) == [
        "name", "ok", "text", "backend", "agree", "rows", "kl", "kl_limit", "error", "error_limit",
    ]  # fmt: skip


def swapped(codes: Any) -> Any:
    """The two codes of each byte in the wrong order."""
    return codes >> 4 | codes << 4


def test_an_error_in_packed_weights(ark: Ark, sound: Path, tensors: dict[str, str], tmp_path: Path):
    path = altered(sound, tmp_path / "m.ark", {tensors["codes"]: swapped})
    op = blamed(ark("verify", path))
    assert "quant.linear(" in op
    assert f" at {DOWN}; it reads " in op
    assert tensors["codes"] in op


def one_group(scale: Any) -> Any:
    scale[:, 0] *= 1.5
    return scale


@pytest.mark.parametrize("change", [one_group, lambda scale: scale * np.float32(1.2)])
def test_an_error_in_a_scale(
    ark: Ark, sound: Path, tensors: dict[str, str], tmp_path: Path, change: Any
):
    path = altered(sound, tmp_path / "m.ark", {tensors["scale"]: change})
    op = blamed(ark("verify", path))
    assert f" at {DOWN}; it reads " in op
    assert tensors["scale"] in op


@pytest.mark.parametrize("by", [1.2, 1.5])
def test_an_error_in_a_kernels_argument(ark: Ark, sound: Path, tmp_path: Path, by: float):
    onnx = pytest.importorskip("onnx")

    def edit(data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        kernels = [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
        (scale,) = [a for a in kernels[1].attribute if a.name == "scale"]
        scale.f *= by
        return model.SerializeToString()

    entry = "backends/onnxruntime/model.onnx"
    path = altered(sound, tmp_path / "m.ark", {entry: edit})
    op = blamed(ark("verify", path))
    assert re.match(r"%\d+ = (attn\.dense|tensor\.reshape)\(", op)
    assert op.endswith(" at model.layers.1.self_attn")


def test_an_error_in_a_pass(
    ark: Ark, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fold = FoldScalars.run

    def wrong(self: FoldScalars, module: ir.Module) -> bool:
        fold(self, module)
        sums = [node for node in module.nodes() if node.op == "nn.add"]
        sums[2].attributes["scale"] = 1.5 * float(str(sums[2].attributes["scale"]))
        return True

    monkeypatch.setattr(FoldScalars, "run", wrong)
    path = tmp_path / "m.ark"
    build(checkpoint, output=path, backend="tvm", context=64, chunk=32)
    op = blamed(ark("verify", path))
    assert "nn.add(" in op
    assert op.endswith(" at model.layers.1")


def test_kernels_that_round_more_than_the_section_says(
    ark: Ark, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What passes for 8 bits is an error where products take 16."""

    def verified(name: str) -> Any:
        path = tmp_path / name
        build(
            checkpoint, quant="int8", activations="int16", kv="fp32", output=path, backend="tvm",
            context=64, chunk=16,
        )  # fmt: skip
        return ark("verify", path, "--threads", 1)

    assert verified("sound.ark").code == 0
    monkeypatch.setattr("arkinfer_tvm.lower_matrix._digits", lambda node: 1)
    result = verified("m.ark")
    assert result.code == 1
    found = re.search(r"its error is ([\d.]+), limit 0\.01\.", result.err)
    assert found, result.err
    assert float(found[1]) < NUMERICS["tvm", "int8"].error


def test_weights_that_lost_too_much_are_told_from_kernels_that_err(
    ark: Ark, sound: Path, tmp_path: Path
):
    """Both the reference and the backend read the same wrong codes, as after a bad quantizer."""

    def worse(data: bytes) -> bytes:
        facts = json.loads(data)
        for row in facts["answers"][-1]["rows"]:
            row["logits"] = [x + 9 * row["spread"] * (i % 2) for i, x in enumerate(row["logits"])]
        return json.dumps(facts).encode()

    result = ark("verify", altered(sound, tmp_path / "m.ark", {"golden.json": worse}))
    assert result.code == 1
    assert "ok  reference" in result.out
    assert result.err.startswith(
        f'error: "{tmp_path}/m.ark" answers too far from its checkpoint on onnxruntime. Check '
        "source, short prompt, against the traced graph with the checkpoint's weights: its error "
    )
    assert "build it again with a finer --quant" in result.err


def test_a_flipped_bit_is_named(ark: Ark, sound: Path, tensors: dict[str, str], tmp_path: Path):
    data = bytearray(sound.read_bytes())
    with open_artifact(sound) as artifact:
        offset, size = artifact.location(tensors["codes"].removeprefix("weights/"))
    data[offset + size // 2] ^= 16
    path = tmp_path / "m.ark"
    path.write_bytes(data)
    result = ark("verify", path)
    assert result.code == 1
    assert result.out == ""
    assert f'the entry "{tensors["codes"]}" does not match its SHA-256' in result.err


def test_integrity_only_runs_nothing(ark: Ark, sound: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "open_section", None)
    result = ark("verify", sound, "--integrity-only")
    assert [line[4:13] for line in result.out.splitlines()[1:3]] == ["integrity", "signature"]
    assert result.code == 0


def test_a_device_that_lacks_the_backend(ark: Ark, sound: Path, monkeypatch: pytest.MonkeyPatch):
    known = registry.executors()
    monkeypatch.setattr(registry, "executors", lambda: {"tvm": known["tvm"]})
    result = ark("verify", sound)
    assert result.code == 4
    assert result.out.startswith("ok  integrity")
    assert 'No executor for the backend "onnxruntime" is installed.' in result.err


def test_an_older_artifact_is_no_failure(ark: Ark, sound: Path, tmp_path: Path):
    result = ark("verify", altered(sound, tmp_path / "m.ark", {"golden.json": lambda data: None}))
    assert result.code == 0
    assert "--  golden     the file has no golden vectors; an older arkinfer built it" in result.out


def test_what_nobody_measured_is_said(ark: Ark, sound: Path, tmp_path: Path):
    from arkinfer.verify import tolerance

    known = dict(tolerance.NUMERICS)
    known.pop(("onnxruntime", "int4"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tolerance, "NUMERICS", known)
        result = ark("verify", sound)
    assert result.code == 1
    assert result.err.startswith(
        "error: There is no tolerance for int4 with bf16 and a cache in fp32 on onnxruntime. "
    )
