"""Whole builds with an int8 cache: how near, how small, the same bytes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import arkinfer
from arkinfer.artifact import ArtifactWriter, open_artifact, verify_artifact
from arkinfer.cli.inspect import describe, inspect
from arkinfer.cli.plan import plan as plan_command
from arkinfer.compiler import kv_scales
from arkinfer.compiler.build import build
from arkinfer.compiler.plan import plan
from arkinfer.compiler.progress import Progress
from arkinfer.errors import CheckpointError, UnsupportedError, UsageError
from arkinfer.testing import make_checkpoint
from arkinfer_ref.executor import ReferenceExecutor


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("tiny", 0, tmp_path_factory.mktemp("tiny") / "tiny")


Backends = tuple[str, ...]

BOTH: Backends = ("onnxruntime", "reference")
CACHES: dict[str, tuple[str, Backends]] = {
    "fp32": ("fp32", BOTH),
    "channel": ("int8", BOTH),
    "token": ("int8", ("reference",)),
}
"""Every kind of cache: as it is asked for, and the sections that lead to it."""


@pytest.fixture(scope="module")
def built(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("built")
    return {
        name: build(tiny, quant="none", kv=kv, backend=each, output=folder / f"{name}.ark").path
        for name, (kv, each) in CACHES.items()
    }


@pytest.mark.parametrize(
    ("kept", "backend"),
    [("channel", "onnxruntime"), ("channel", "reference"), ("token", "reference")],
)
def test_logits_stay_near(built: dict[str, Path], kept: str, backend: str) -> None:
    ids = np.random.default_rng(0).integers(0, 500, 200).tolist()
    logits: dict[str, np.ndarray] = {}
    for name in (kept, "fp32"):
        with arkinfer.load(built[name], threads=2, backend=backend) as engine:
            logits[name] = engine.logits(ids)
    error = (logits[kept] - logits["fp32"]) / logits["fp32"].std()
    assert 1e-4 < np.sqrt(np.mean(error**2)) < 0.03
    assert np.abs(error).max() < 0.3


def test_memory_is_about_a_quarter_and_a_plan_knows(tiny: Path, built: dict[str, Path]) -> None:
    plans = {n: plan(tiny, quant="none", kv=kv, backend=b) for n, (kv, b) in CACHES.items()}
    assert [p.kv for p in plans.values()] == ["fp32", "int8", "int8"]
    assert [p.kv_scales for p in plans.values()] == [None, "channel", "token"]
    per_token = {name: p.kv_bytes_per_token for name, p in plans.items()}
    rows = 2 * 2 * 1  # layers, keys and values, heads
    assert per_token == {"fp32": rows * 4 * 64, "channel": rows * 64, "token": rows * (64 + 4)}
    for name, path in built.items():
        found = plans[name]
        assert found.kv_bytes == per_token[name] * found.context
        saved = plans["fp32"].kv_bytes - found.kv_bytes
        assert abs(plans["fp32"].run_bytes - found.run_bytes - saved) < 100_000
        with arkinfer.load(path, backend="reference") as engine:
            state = engine.executable.new_state(64)
            state.step(np.arange(30))
            kept = sum(cache.nbytes for cache in state._caches.values())  # of this backend's own
        assert kept == 30 * per_token[name]
        with open_artifact(path) as artifact:
            section = artifact.sections["reference"]
            demand = ReferenceExecutor().check(artifact, section)
        assert demand.per_token == per_token[name]


def test_people_read_which_scales_it_has(
    tiny: Path, built: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "fp32": "fp32\n",
        "channel": "int8, a scale per channel, calibrated\n",
        "token": "int8, a scale per head and token\n",
    }
    for name, text in words.items():
        inspect(str(built[name]))
        assert f" tokens, cached in {text}" in capsys.readouterr().out
    for name, (kv, backends) in CACHES.items():
        plan_command(str(tiny), kv=kv, backend=list(backends))
        assert f"bytes a token in {words[name][:-1]})\n" in capsys.readouterr().out


def test_the_longest_context_counts_scales(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine with room for 100,000 bytes of caches."""
    empty = plan(tiny, quant="none", kv="int8", backend="reference")
    room = empty.run_bytes - empty.kv_bytes + 100_000
    monkeypatch.setattr("arkinfer.targets.Target.total_memory", lambda self: room)
    for backend, per_token in (("reference", 272), ("onnxruntime", 256)):
        found = plan(tiny, quant="none", kv="int8", backend=backend)
        weights = empty.run_bytes - empty.kv_bytes - (found.run_bytes - found.kv_bytes)
        assert found.largest_context == (100_000 + weights) // per_token


def test_a_plan_is_right_about_the_file(tiny: Path, tmp_path: Path) -> None:
    report = build(
        tiny, quant="int4-g32", kv="int8", output=tmp_path / "m.ark", backend="onnxruntime"
    )
    assert (
        abs(
            plan(tiny, quant="int4-g32", kv="int8", backend="onnxruntime").artifact_bytes
            / report.size
            - 1
        )
        < 0.02
    )


def test_scales_by_token_need_no_calibration(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pass over a text, in the build or in its plan, and no memory for one."""
    monkeypatch.setattr(kv_scales, "cache_scales", None)
    moments: list[Progress] = []
    path, dumps = tmp_path / "m.ark", tmp_path / "ir"
    report = build(
        tiny, quant="none", kv="int8", backend="reference", output=path, dump_ir=dumps,
        on_progress=moments.append, cache=False,
    )  # fmt: skip
    assert "calibrating the cache" not in {moment.stage for moment in moments}
    assert (report.kv, report.kv_scales) == ("int8", "token")
    with open_artifact(path) as artifact:
        assert artifact.manifest["kv"] == "int8"
        assert artifact.manifest["kv_scales"] == "token"
        assert json.loads(artifact.read("report.json"))["kv_scales"] == "token"
        text = artifact.read("ir.txt").decode()
        assert not [name for name in artifact.manifest["tensors"] if "cache_scales" in name]
    assert "%k0.scale: cache<f32>[S, 1, 1]" in text
    assert (dumps / "int8-cache" / "01-quantize-cache.ir").is_file()
    verify_artifact(path)
    token, channel = (plan(tiny, kv="int8", backend=b) for b in ("reference", "onnxruntime"))
    plain = plan(tiny, backend="reference")
    assert token.build_bytes == plain.build_bytes <= channel.build_bytes


def test_a_file_that_says_nothing_of_scales_has_them_by_channel(
    built: dict[str, Path], tmp_path: Path
) -> None:
    """As every int8 cache was before there were others."""
    old = without_kv_scales(built["channel"], tmp_path / "old.ark")
    with open_artifact(old) as artifact, open_artifact(built["channel"]) as new:
        assert "kv_scales" not in artifact.manifest
        assert describe(artifact)["kv_scales"] == describe(new)["kv_scales"] == "channel"
    logits: list[np.ndarray] = []
    for path in (old, built["channel"]):
        with arkinfer.load(path, threads=1, backend="reference") as engine:
            logits.append(engine.logits([5, 6, 7]))
    np.testing.assert_array_equal(*logits)


def without_kv_scales(path: Path, other: Path) -> Path:
    """A copy whose manifest lacks the key."""
    with open_artifact(path) as artifact, ArtifactWriter(other) as writer:
        manifest = cast("dict[str, Any]", artifact.manifest)
        for name, facts in manifest["tensors"].items():
            tensor = artifact.tensor(name)
            writer.add_tensor(name, facts["dtype"], tuple(facts["shape"]), iter([tensor]))
        for name in manifest["entries"]:
            if not name.startswith("weights/"):
                writer.add_bytes(name, artifact.read(name))
        for section in artifact.sections.values():
            writer.add_section(section)
        written = ("format", "arkinfer", "requires", "tensors", "sections", "entries")
        kept = {k: v for k, v in manifest.items() if k not in (*written, "kv_scales")}
        return writer.commit(kept)


def test_report_manifest_and_stages(tiny: Path, tmp_path: Path) -> None:
    moments: list[Progress] = []
    path = tmp_path / "m.ark"
    dumps = tmp_path / "ir"
    report = build(
        tiny,
        kv="int8",
        output=path,
        dump_ir=dumps,
        on_progress=moments.append,
        backend="onnxruntime",
    )
    assert (report.kv, report.kv_scales) == ("int8", "channel")
    assert "f32" not in report.schemes  # scales are no matrices of the model
    stages = list(dict.fromkeys(moment.stage for moment in moments))
    assert stages[2:5] == [
        "optimizing the graph", "calibrating the cache", "compiling for onnxruntime",
    ]  # fmt: skip
    with open_artifact(path) as artifact:
        assert artifact.manifest["kv"] == "int8"
        assert artifact.manifest["kv_scales"] == "channel"
        assert json.loads(artifact.read("report.json"))["kv"] == "int8"
        text = artifact.read("ir.txt").decode()
        assert artifact.sections["onnxruntime"].requires == {"onnxruntime": ">=1.27"}
    assert "cache<i8>" in text
    assert "cache<f32>" not in text
    assert (dumps / "int8-cache" / "01-quantize-cache.ir").is_file()
    verify_artifact(path)


def test_without_the_option_nothing_is_calibrated(tiny: Path, tmp_path: Path) -> None:
    moments: list[Progress] = []
    report = build(
        tiny, output=tmp_path / "m.ark", on_progress=moments.append, backend="onnxruntime"
    )
    assert report.kv == "fp32"
    assert "calibrating the cache" not in {moment.stage for moment in moments}
    with open_artifact(report.path) as artifact:
        assert artifact.manifest["kv"] == "fp32"
        assert "kv_scales" not in artifact.manifest


def test_two_builds_give_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    """That the number of threads does not matter either is shown in test_kv_scales.py."""
    for name in "ab":
        build(
            tiny,
            quant="int4-g32",
            kv="int8",
            output=tmp_path / f"{name}.ark",
            cache=False,
            backend="onnxruntime",
        )
    assert (tmp_path / "a.ark").read_bytes() == (tmp_path / "b.ark").read_bytes()


@pytest.mark.parametrize(
    ("kv", "text"),
    [
        ("int4", 'There is no key-value cache in "int4". Did you mean "int8"?'),
        ("fp-32", 'There is no key-value cache in "fp-32". Did you mean "fp32"?'),
        ("f", 'There is no key-value cache in "f". Known: auto, bf16, fp16, fp32, int8.'),
    ],
)
def test_other_caches_are_one_sentence(tiny: Path, tmp_path: Path, kv: str, text: str) -> None:
    for attempt in (
        lambda: build(tiny, kv=kv, output=tmp_path / "m.ark", backend="onnxruntime"),
        lambda: plan(tiny, kv=kv, backend="onnxruntime"),
    ):
        with pytest.raises(UsageError) as error:
            attempt()
        assert text in str(error.value)
    assert not list(tmp_path.iterdir())


def test_tensorrt_refuses_before_anything_is_calibrated(tiny: Path, tmp_path: Path) -> None:
    moments: list[Progress] = []
    with pytest.raises(UnsupportedError) as error:
        build(
            tiny, target="jetson-orin", backend="tensorrt", quant="int4-g128", kv="int8",
            output=tmp_path / "m.ark", on_progress=moments.append,
        )  # fmt: skip
    assert str(error.value) == (
        "tensorrt does not keep key-value caches in int8. TensorRT keeps caches as its network "
        "computes, not as cache<i8>[S, 1, 64]; it takes them in fp32 or fp16. Give one of these as "
        "--kv, or another --backend."
    )
    assert "calibrating the cache" not in {moment.stage for moment in moments}
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_another_model_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint("tiny", 0, tmp_path / "tiny")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    shift = 1000 - min(vocabulary.values())
    tokenizer["model"]["vocab"] = {text: i + shift for text, i in vocabulary.items()}
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="a tokenizer that does not belong to its model"):
        build(folder, kv="int8", output=tmp_path / "m.ark", backend="onnxruntime")
    assert not (tmp_path / "m.ark").exists()
