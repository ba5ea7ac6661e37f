"""`arkinfer align` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from arkinfer.cli import main
from tests.align.seeds import onnx_attribute, rewritten

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Aligns a file with the shared checkpoint."""

    def command(*args: object, model: object = checkpoint) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["align", str(model), *map(str, args)])
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def broken(int4: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wrong = onnx_attribute("GroupQueryAttention", 1, "scale", lambda scale: scale * 1.1)
    path = tmp_path_factory.mktemp("broken") / "broken.ark"
    return rewritten(int4, path, entries={"backends/onnxruntime/model.onnx": wrong})


def test_aligned(run: Run, int4: Path, checkpoint: Path):
    code, out, _ = run(int4, "--tokens", 5, "--prompt", "Hello")
    first, *rest = out.splitlines()
    assert code == 0
    assert first.startswith(f"{int4} is aligned with {checkpoint}: ")
    assert first.endswith(" comparisons hold.")
    rows = {line.split("  ")[0]: line.split() for line in rest if line}
    assert rows["fuse-rope"][-3:] == ["none", *rows["fuse-rope"][-2:]]


def test_not_aligned(run: Run, broken: Path, tmp_path: Path):
    page = tmp_path / "report.html"
    code, out, _ = run(broken, "--html", page)
    assert code == 1
    assert out.startswith(
        f"{broken} leaves its model in the stage backend onnxruntime, at attn.dense in "
        "model.layers.1.self_attn.\n"
    )
    report = out[out.index("\nbackend onnxruntime:\n") :]
    assert "attn.dense(" in report
    for said in ("torch path  model.layers.1.self_attn\n", "step        32 tokens after 0\n",
                 "allowed     0.0001, in one channel 0.1 %: float32 kernels", "32x4x32",
                 "the file's weights: backends/onnxruntime/model.onnx is not"):  # fmt: skip
        assert said in out
    assert "model.layers.1.self_attn" in page.read_text("utf-8")


def test_json(run: Run, broken: Path):
    code, out, _ = run(broken, "--json")
    facts = json.loads(out)
    assert code == 1
    assert not facts["aligned"]
    assert facts["first"]["stage"] == "backend onnxruntime"
    assert (facts["first"]["op"], facts["first"]["path"]) == (
        "attn.dense", "model.layers.1.self_attn",
    )  # fmt: skip
    stage = next(s for s in facts["stages"] if s["name"] == "the file's weights")
    assert stage["notes"] == [
        "backends/onnxruntime/model.onnx is not, byte for byte, what this arkinfer writes"
    ]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("missing.ark",), 'There is no file "missing.ark". Check the path.'),
        (("{}", "--against", "tvm"),
         'There is nothing to compare with at "tvm". It is no file, and {} was built for '
         "onnxruntime, reference. Give an .ark file, or one of these backends."),
        (("{}", "--tokens", "0"),
         "0 tokens cannot be run at once. The section was compiled for steps of at most 64. "
         "Give a number from 1 to 64."),
        (("{}", "--html", "no/such/folder/r.html"), '"no/such/folder/r.html" cannot be written.'),
    ],
)  # fmt: skip
def test_mistakes(args: tuple[str, ...], said: str, run: Run, int4: Path):
    code, out, err = run(*(arg.format(int4) for arg in args))
    assert (code, out) == (2, "")
    assert said.format(int4) in err


def test_model_and_file_the_other_way_round(run: Run, int4: Path, checkpoint: Path):
    code, _, err = run(checkpoint, model=int4)
    assert code == 2
    assert f'"{checkpoint}" is not a file' in err
