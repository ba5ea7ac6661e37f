"""The footprint: what a process holds beyond section and caches, and what pip installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import footprint
from tests.runtime.artifacts import write_plugin


def test_memory_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    footprint.print_memory(Path("demo"), 1)
    lines = capsys.readouterr().out.splitlines()
    sizes = {line[:21].strip(): float(line[21:].split()[0]) for line in lines}
    assert list(sizes) == ["with the first token", "at most", "section", "caches", "beyond these"]
    assert sizes["at most"] >= sizes["with the first token"] > sizes["section"]
    beyond = sizes["at most"] - sizes["section"] - sizes["caches"]
    assert sizes["beyond these"] == pytest.approx(beyond, abs=0.3)
    held = "within" if sizes["beyond these"] <= 100 else "BEYOND"
    assert lines[-1].endswith(f" MiB, {held} the limit of 100")


def test_packages_in_a_folder(tmp_path: Path) -> None:
    write_plugin(tmp_path)
    info = tmp_path / "bigram_plugin-1.0.dist-info"
    (tmp_path / "big.py").write_bytes(bytes(5000))
    (info / "RECORD").write_text("big.py,,\ngone.py,,\nbigram_plugin-1.0.dist-info/METADATA,,\n")
    expected = 5000 + (info / "METADATA").stat().st_size
    assert footprint.installed(tmp_path) == {"bigram-plugin": expected}


def test_nothing_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        footprint.main([])
    assert capsys.readouterr().err.endswith("error: give an .ark file, or --install\n")
