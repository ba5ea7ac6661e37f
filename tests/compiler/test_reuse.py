"""Builds with a cache: the same bytes, without the work; and what must not be reused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from arkinfer.artifact import open_artifact
from arkinfer.compiler import golden, kv_scales, reuse
from arkinfer.compiler import weights as weights_module
from arkinfer.compiler.build import BuildReport, build
from arkinfer.compiler.cache import Cache
from arkinfer.errors import CheckpointError
from arkinfer.frontend import trace as trace_module
from tests.compiler.conftest import Traced

Build = Callable[..., BuildReport]


QUANTIZED = 11  # matrices of the tiny model


@pytest.fixture
def tiny(tmp_path: Path, once: Traced) -> Path:
    return Path(shutil.copytree(once.checkpoint, tmp_path / "tiny"))


def damage(checkpoint: Path, bits: int) -> None:
    """Replaces the first number of one matrix."""
    file = checkpoint / "model.safetensors"
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])["model.layers.1.mlp.down_proj.weight"]
    at = 8 + length + entry["data_offsets"][0]
    data[at : at + 2] = bits.to_bytes(2, "little")
    file.write_bytes(data)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the four things were done that a cache saves."""
    counts = {"trace": 0, "quantize": 0, "calibrate": 0, "golden": 0}

    def counted(module: object, name: str, what: str) -> None:
        real = getattr(module, name)

        def call(*args: object, **options: object) -> object:
            counts[what] += 1
            return real(*args, **options)

        monkeypatch.setattr(module, name, call)

    counted(trace_module, "trace", "trace")
    counted(weights_module, "round_to_nearest", "quantize")
    counted(kv_scales, "cache_scales", "calibrate")
    counted(golden, "golden_vectors", "golden")
    return counts


def test_the_same_bytes_without_the_work(tiny: Path, tmp_path: Path, calls: dict[str, int]):
    options = {"quant": "int4-g32-asym", "kv": "int8"}
    backends = ("onnxruntime", "reference")
    first = build(tiny, output=tmp_path / "a.ark", backend=backends, **options)
    assert first.reused == 0
    worked = dict(calls)
    assert worked == {"trace": 1, "quantize": QUANTIZED, "calibrate": 1, "golden": 1}
    second = build(tiny, output=tmp_path / "b.ark", backend=backends, **options)
    assert calls == worked
    assert second.reused == QUANTIZED
    assert second.notes == ()
    build(tiny, output=tmp_path / "c.ark", backend=backends, cache=False, **options)
    assert calls == {what: 2 * count for what, count in worked.items()}
    one, two, three = ((tmp_path / f"{name}.ark").read_bytes() for name in "abc")
    assert one == two == three
    with open_artifact(second.path) as artifact:
        assert not {"reused", "notes", "seconds"} & json.loads(artifact.read("report.json")).keys()


@pytest.mark.usefixtures("traced")
def test_a_repeated_build_needs_no_torch(tiny: Path, tmp_path: Path):
    build(tiny, output=tmp_path / "a.ark", backend="onnxruntime")
    script = (
        "import sys; sys.modules['torch'] = None; import arkinfer; "
        f"arkinfer.build({str(tiny)!r}, output={str(tmp_path / 'b.ark')!r}, "
        "backend='onnxruntime')"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert (tmp_path / "a.ark").read_bytes() == (tmp_path / "b.ark").read_bytes()


@pytest.mark.usefixtures("traced")
def test_other_weights_and_other_schemes_are_made_anew(
    tiny: Path, tmp_path: Path, calls: dict[str, int]
):
    build(tiny, output=tmp_path / "a.ark", backend="onnxruntime")
    damage(tiny, 0x3F80)  # 1, in bf16
    assert build(tiny, output=tmp_path / "b.ark", backend="onnxruntime").reused == QUANTIZED - 1
    third = build(
        tiny,
        output=tmp_path / "c.ark",
        quant="int4-g64",
        embedding="int8-g128",
        backend="onnxruntime",
    )
    assert third.reused == third.schemes["int8-g128"] == 1
    assert calls["trace"] == 0  # the graph is the same
    assert calls["golden"] == 3


@pytest.mark.usefixtures("traced")
def test_a_context_is_traced_for_itself(tiny: Path, tmp_path: Path, calls: dict[str, int]):
    for context in (None, 64, 64, None):
        build(tiny, output=tmp_path / "m.ark", context=context, backend="onnxruntime")
    assert calls["trace"] == 1


@pytest.mark.usefixtures("traced")
def test_newer_code_makes_everything_anew(
    tiny: Path, tmp_path: Path, calls: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    build(tiny, output=tmp_path / "m.ark", kv="int8", backend="onnxruntime")
    for module in (reuse, kv_scales, golden):
        monkeypatch.setattr(module, "code_of", lambda *parts: "newer")
    assert build(tiny, output=tmp_path / "m.ark", kv="int8", backend="onnxruntime").reused == 0
    assert calls == {"trace": 1, "quantize": 2 * QUANTIZED, "calibrate": 2, "golden": 2}


@pytest.mark.usefixtures("traced")
def test_damaged_entries_are_made_anew(tiny: Path, tmp_path: Path, own_cache: Path):
    build(tiny, output=tmp_path / "a.ark", kv="int8", backend="onnxruntime")
    entries = list(Cache(own_cache).entries())
    kinds = {"graphs", "weights", "calibrations", "golden", "quality"}
    assert {entry.kind for entry in entries} == kinds
    for number, entry in enumerate(entries):
        data = bytearray(entry.path.read_bytes())
        data[number * 997 % len(data)] ^= 16
        entry.path.write_bytes(data)
    report = build(tiny, output=tmp_path / "b.ark", kv="int8", backend="onnxruntime")
    assert report.reused == 0
    assert (tmp_path / "a.ark").read_bytes() == (tmp_path / "b.ark").read_bytes()
    assert build(tiny, output=tmp_path / "b.ark", kv="int8", backend="onnxruntime").reused > 0


@pytest.mark.usefixtures("traced")
def test_a_matrix_counts_as_reused_when_all_of_it_is(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
):
    monkeypatch.setattr(weights_module, "BLOCK", 1 << 14)
    build(tiny, output=tmp_path / "a.ark", backend="onnxruntime")
    entries = [e for e in Cache(own_cache).entries() if e.kind == "weights"]
    assert len(entries) > 2 * QUANTIZED
    entries[0].path.unlink()
    second = build(tiny, output=tmp_path / "b.ark", backend="onnxruntime")
    assert second.reused == QUANTIZED - 1
    assert (tmp_path / "a.ark").read_bytes() == (tmp_path / "b.ark").read_bytes()


def test_a_cache_that_cannot_be_used_costs_a_remark(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARKINFER_CACHE", str(tmp_path / "file"))
    report = build(tiny, output=tmp_path / "a.ark", backend="onnxruntime")
    (note,) = report.notes
    assert note.startswith(f'There is no cache: "{tmp_path / "file"}" cannot be used: ')


@pytest.mark.usefixtures("traced")
def test_numbers_that_are_not_finite_are_not_kept(tiny: Path, tmp_path: Path, own_cache: Path):
    damage(tiny, 0x7FC0)  # not a number, in bf16
    for _ in range(2):
        with pytest.raises(CheckpointError, match="holds numbers that are not finite"):
            build(tiny, output=tmp_path / "a.ark", backend="onnxruntime")
