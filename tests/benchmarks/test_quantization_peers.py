"""What other quantizers get is the model's equal; what they make is read as what it stands for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arkinfer.compiler.export import export
from arkinfer.frontend.checkpoint import Checkpoint, open_checkpoint
from arkinfer.packing import parse_scheme
from arkinfer.quant import round_to_nearest
from arkinfer.testing import make_checkpoint, preset
from benchmarks import llama_twin
from benchmarks.quantization_peers import SCRIPTS, Bench, linears
from benchmarks.quantization_quality import Judge


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    config = preset("tiny", num_hidden_layers=2)
    return open_checkpoint(make_checkpoint(config, 0, tmp_path_factory.mktemp("c") / "small"))


def test_what_is_quantized_by_others_is_compared_without_their_scales(
    small: Checkpoint, tmp_path: Path
) -> None:
    twin = llama_twin.write_twin(small, tmp_path / "twin")  # which compares the logits
    made = export(twin, "compressed-tensors", tmp_path / "made", quant="int4-g32").path
    judge = Judge(small, "the module json " * 8, 32)
    bench = Bench(small, judge, tmp_path, None, 1, 1)
    weights, bits = linears(bench, made, twin=True)
    assert bits == 5.0  # scales of a float32 model are float32
    for name, weight in weights.items():
        expected = judge.weights[name]
        if name.endswith("_proj.weight"):
            expected = round_to_nearest(expected, parse_scheme("int4-g32")).dequantize()
        same = np.isclose(weight, expected, rtol=2e-5, atol=1e-7)
        assert same.mean() > 0.99, name  # of two ranges that lose alike, either may be taken


def test_a_llama_that_is_not_the_models_equal_is_refused(
    small: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_twin, "branch_scale", lambda config, name: 1.0)
    with pytest.raises(SystemExit, match="is not the model's equal: logits differ by"):
        llama_twin.write_twin(small, tmp_path / "twin")


def test_memory_is_that_of_the_command_alone(tmp_path: Path) -> None:
    """Whatever this process holds."""
    held = bytearray(300 << 20)
    found = [measured(tmp_path, code) for code in ("pass", "bytearray(200 << 20)", "exit(3)")]
    del held
    assert found[0]["mebibytes"] < 100
    assert 200 < found[1]["mebibytes"] < 300
    assert [each["code"] for each in found] == [0, 0, 3]
    assert all(0 < each["seconds"] < 60 for each in found)


def measured(folder: Path, code: str) -> dict[str, float]:
    answer, script = folder / "answer.json", SCRIPTS / "measured.py"
    command = [sys.executable, script, answer, folder / "log", sys.executable, "-c", code]
    subprocess.run(command, check=True)
    return json.loads(answer.read_text())
