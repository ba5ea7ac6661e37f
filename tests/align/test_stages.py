"""A file that is right is aligned, on every backend; and what a report says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from arkinfer.align.page import to_html
from arkinfer.align.report import Report
from arkinfer.align.run import align
from arkinfer.artifact import open_artifact
from arkinfer.compiler.build import build
from arkinfer.errors import ArtifactError, UsageError
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.testing import make_checkpoint, preset
from tests.align.conftest import SHAPE
from tests.align.seeds import rewritten

Aligned = Callable[..., Report]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"quant": "none", "dtype": "fp32", "backend": "tvm"}, id="fp32 tvm"),
        pytest.param({"quant": "none", "kv": "int8", "backend": "reference"}, id="int8 by token"),
        pytest.param({"quant": "none", "kv": "int8"}, id="int8 by channel"),
        pytest.param({"quant": "none", "kv": "bf16", "backend": "reference"}, id="bf16 cache"),
        pytest.param({"quant": "int8", "kv": "fp16", "backend": "reference"}, id="fp16 cache"),
        pytest.param({"quant": "none", "kv": "bf16", "backend": "tvm"}, id="bf16 cache tvm"),
        pytest.param({"quant": "int8", "embedding": "none", "dtype": "fp16"}, id="int8 fp16"),
        pytest.param({"quant": "int4-g32-asym", "context": 40, "chunk": 33}, id="int4 asym"),
        pytest.param({"quant": "int4-g32", "activations": "fp32"}, id="int4 fp32"),
        pytest.param({"quant": "int4-g32", "backend": "tvm"}, id="int4 inside of tvm's kernels"),
    ],
)
def test_a_sound_file_is_aligned(
    options: dict[str, str], checkpoint: Path, tmp_path: Path, aligned: Aligned
):
    build(checkpoint, output=tmp_path / "m.ark", **{"backend": "onnxruntime", **options})  # pyright: ignore[reportArgumentType] (by name)
    report = aligned(tmp_path / "m.ark")
    assert report.aligned, [stage.failures for stage in report.stages]
    assert report.same_source
    names = [stage.name for stage in report.stages]
    backend = options.get("backend", "onnxruntime")
    assert names[:2] == ["traced", "fuse-rms-norm"]
    assert names[-4:] == [
        "the file's graphs", "the file's weights", f"backend {backend}", "end to end",
    ]  # fmt: skip
    assert all(stage.compared for stage in report.stages)
    assert not [note for stage in report.stages for note in stage.notes]
    steps = {finding.step for finding in report.stages[-2].findings}
    assert steps == {"32 tokens after 0", "1 token after 32"}


def test_each_op_of_the_backend_is_compared(int4: Path, aligned: Aligned):
    report = aligned(int4, backend="reference")
    (stage,) = [stage for stage in report.stages if stage.name == "backend reference"]
    with open_artifact(int4) as artifact:
        lines = artifact.read("backends/reference/module.ir").decode().count("\n  %")
    assert stage.compared == 2 * lines  # of the prompt, and of one more token
    assert stage.largest == 0


def test_two_backends_of_a_file(int4: Path, aligned: Aligned):
    """One rescales the residual stream, the other does not; one has int8 activations."""
    with open_artifact(int4) as artifact:
        report = aligned(int4, against=(artifact, "reference"))
    assert report.aligned, [stage.failures for stage in report.stages]
    assert [stage.name for stage in report.stages[-2:]] == [
        "backend reference", "against reference",
    ]  # fmt: skip
    last = report.stages[-1]
    assert last.largest < 1e-5
    assert last.summed is not None
    assert 1e-3 < last.summed < 0.2


def test_products_inside_of_kernels(checkpoint: Path, tmp_path: Path, aligned: Aligned):
    """The sum, or the gate, is what both show of a product that one of them has rounded."""
    paths = {quant: tmp_path / f"{quant}.ark" for quant in ("int4-g32", "none")}
    for quant, path in paths.items():
        build(checkpoint, quant=quant, backend="tvm", chunk=40, output=path)
    with open_artifact(paths["none"]) as artifact:
        report = aligned(paths["int4-g32"], against=(artifact, "tvm"))
    assert report.aligned, [stage.failures for stage in report.stages]
    gates = [f for f in report.stages[-1].findings if f.op == "nn.silu_mul"]
    products = [f for f in report.stages[-1].findings if f.op == "quant.linear"]
    assert gates[0].tolerance.relative > 2 * products[0].tolerance.relative


def test_int8_caches_of_two_kinds(checkpoint: Path, tmp_path: Path, aligned: Aligned):
    """Codes are compared where scales are of one kind; what attention makes of them, always."""
    one, other = tmp_path / "token.ark", tmp_path / "channel.ark"
    build(checkpoint, quant="none", kv="int8", backend="reference", output=one)
    build(checkpoint, quant="none", kv="int8", backend=("reference", "onnxruntime"), output=other)
    compared: dict[tuple[Path, Path], set[str]] = {}
    for ours, theirs in ((one, one), (one, other), (other, one)):
        with open_artifact(theirs) as artifact:
            report = aligned(ours, backend="reference", against=(artifact, "reference"))
        assert report.aligned, [stage.failures for stage in report.stages]
        compared[ours, theirs] = {finding.op for finding in report.stages[-1].findings}
    assert compared[one, one] - compared[one, other] == {"cache.append"}
    assert compared[one, other] == compared[other, one] >= {"attn.dense", "nn.linear"}


def test_sections_that_keep_caches_otherwise(checkpoint: Path, tmp_path: Path, aligned: Aligned):
    """Each is what becomes of the graph that they share, which keeps caches in float32."""
    path = tmp_path / "m.ark"
    build(checkpoint, quant="none", backend=("tvm", "onnxruntime"), chunk=40, output=path)
    for backend, other in (("tvm", "onnxruntime"), ("onnxruntime", "tvm")):
        with open_artifact(path) as artifact:
            report = aligned(path, backend=backend, against=(artifact, other))
        assert report.aligned, [stage.failures for stage in report.stages]
        narrowed = [each for each in report.stages if each.name.startswith("store-cache")]
        assert len(narrowed) == (backend == "tvm")


def test_caches_of_two_dtypes(checkpoint: Path, tmp_path: Path, aligned: Aligned):
    """Caches of one dtype are compared; what attention makes of them, always."""
    paths = {kv: tmp_path / f"{kv}.ark" for kv in ("fp32", "bf16", "fp16", "int8")}
    for kv, path in paths.items():
        build(checkpoint, quant="none", kv=kv, backend="reference", output=path)
    compared: dict[tuple[str, str], set[str]] = {}
    pairs = (("bf16", "bf16"), ("bf16", "fp32"), ("fp32", "bf16"), ("fp16", "bf16"),
             ("fp32", "fp16"), ("bf16", "int8"))  # fmt: skip
    for ours, theirs in pairs:
        with open_artifact(paths[theirs]) as artifact:
            report = aligned(paths[ours], backend="reference", against=(artifact, "reference"))
        assert report.aligned, (ours, theirs, [stage.failures for stage in report.stages])
        compared[ours, theirs] = {finding.op for finding in report.stages[-1].findings}
        (attention,) = {f.tolerance for f in report.stages[-1].findings if f.op == "attn.dense"}
        assert (attention.relative > 1e-4) == (ours != theirs)
    assert "cache.append" in compared["bf16", "bf16"]
    for pair in pairs[1:]:
        assert compared["bf16", "bf16"] - compared[pair] == {"cache.append"}


def test_a_file_with_another_weight(int4: Path, tmp_path: Path, aligned: Aligned):
    """It has no error of its own: its kernels do what its IR and its weights say."""
    name = "model.layers.0.mlp.up_proj.weight.int4-g32.scale"

    def stretch(scale: object) -> None:
        scale[:] *= 1.5  # pyright: ignore[reportIndexIssue, reportOperatorIssue] (an array)

    other = rewritten(int4, tmp_path / "other.ark", tensors={name: stretch})
    with open_artifact(other) as artifact:
        report = aligned(int4, against=(artifact, "reference"))
    assert report.first is not None
    stage, finding = report.first
    assert stage.name == f"against {other}, reference"
    assert (finding.op, finding.loc) == ("quant.linear", "model.layers.0.mlp.up_proj")


def test_another_checkpoint_is_said_first(int4: Path, tmp_path: Path):
    folder = make_checkpoint(preset("tiny", **SHAPE), 1, tmp_path / "other")
    with open_artifact(int4) as artifact, open_checkpoint(folder) as other:
        report = align(artifact, other, model="other")
    assert report.same_source is False
    assert report.notes == [
        f"{int4} was not built from other: the digests of their sources differ, so that what "
        "follows compares two models."
    ]
    assert report.first is not None
    assert report.first[0].name == "the file's weights"


def test_all_goes_on(int4: Path, tmp_path: Path, aligned: Aligned):
    names = [f"model.layers.{i}.mlp.up_proj.weight.int4-g32.scale" for i in (0, 1)]

    def stretch(scale: object) -> None:
        scale[3:5, 1] *= 2  # pyright: ignore[reportIndexIssue, reportOperatorIssue] (an array)

    path = rewritten(int4, tmp_path / "m.ark", tensors=dict.fromkeys(names, stretch))
    report = aligned(path, go_on=True)
    (failed,) = [stage for stage in report.stages if stage.failures]
    assert [f.loc for f in failed.failures] == [f"model.layers.{i}.mlp.up_proj" for i in (0, 1)]
    assert [f.what.partition("; ")[2].partition(" are")[0] for f in failed.failures] == [
        "2 groups of it"
    ] * 2
    assert report.stages[-1].name == "end to end"


def test_the_page_and_json(int4: Path, tmp_path: Path, aligned: Aligned):
    name = "model.layers.1.mlp.up_proj.weight.int4-g32.scale"

    def stretch(scale: object) -> None:
        scale[3, 1] *= 2  # pyright: ignore[reportIndexIssue, reportOperatorIssue] (an array)

    report = aligned(rewritten(int4, tmp_path / "m.ark", tensors={name: stretch}), go_on=True)
    html = to_html(report)
    assert "http:" not in html
    assert "https:" not in html
    assert html.count("<svg") == sum(any(f.difference for f in s.findings) for s in report.stages)
    assert "model.layers.1.mlp.up_proj" in html
    facts = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert list(facts) == [
        "aligned", "model", "artifact", "backend", "tokens", "same_source", "notes", "first",
        "stages",
    ]  # fmt: skip
    assert facts["first"]["path"] == "model.layers.1.mlp.up_proj"
    assert facts["first"]["difference"]["expected"]["shape"] == [32]


def test_what_cannot_be_aligned(int4: Path, checkpoint: Path, aligned: Aligned):
    with pytest.raises(UsageError, match=r"^65 tokens cannot be run at once\. The section was"):
        aligned(int4, tokens=65)
    with pytest.raises(UsageError, match=r'^The artifact has no section for the backend "tvm"'):
        aligned(int4, backend="tvm")
    old = Path("tests/artifact/formats/v1.ark")
    with (
        pytest.raises(ArtifactError, match=r"does not hold the graph that .* Build it again\.$"),
        open_artifact(old) as artifact,
        open_checkpoint(checkpoint) as source,
    ):
        align(artifact, source)
