"""`arkinfer quality` on files with and without a measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arkinfer.cli import main
from arkinfer.compiler.build import build
from arkinfer.frontend.hub import demo_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quality")
    found = {quant: folder / f"{quant}.ark" for quant in ("int4", "none")}
    for quant, path in found.items():
        build(demo_checkpoint(), quant=quant, output=path, backend="onnxruntime")
    return found


def test_table_and_summary(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", str(files["int4"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{files['int4']}: int4, 4.84 bits per weight"
    assert lines[1].startswith("mean KL 0.0")
    assert lines[2].startswith("most sensitive  model.layers.7, ")
    assert lines[4].split() == ["layer", "schemes", "bits", "bytes", "own", "error", "error"]
    assert lines[5].split()[:5] == ["embedding", "and", "head", "int8-g128", "8.25"]
    assert len(lines) == 14


def test_json_and_page(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "q.html"
    assert main(["quality", str(files["int4"]), "--html", str(page), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["quality"]["tokens"] > 100
    assert len(facts["quality"]["layers"]) == 8
    assert facts["sizes"][0]["schemes"] == ["int8-g128"]
    html = page.read_text()
    assert html.count("<svg") == 2
    assert "Error by layer" in html
    assert len(html) < 500 << 10


def test_a_file_that_is_not_quantized(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "q.html"
    assert main(["quality", str(files["none"]), "--html", str(page)]) == 0
    assert "No matrix is quantized" in capsys.readouterr().out
    assert page.read_text().count("<svg") == 1
