"""Tables of README and docs say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from arkinfer import plan
from arkinfer.errors import UnsupportedError
from arkinfer.packing import parse_scheme, part_specs
from arkinfer.quant import parse_quant
from arkinfer.testing import preset
from tests.docs.pages import ROOT


def support_table() -> list[tuple[str, str, str]]:
    """(options, backend, claim) of the README's table of what works where."""
    page = (ROOT / "README.md").read_text("utf-8")
    lines = page.split("| backend | ")[1].split("\n\n")[0].splitlines()
    backends = re.findall(r"`(\w+)`", lines[0])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[3:]]
    return [
        (options.strip("`"), backend, claim)
        for options, *claims in rows
        for backend, claim in zip(backends, claims, strict=True)
    ]


@pytest.mark.parametrize(("options", "backend", "claim"), support_table())
def test_what_works_where(tmp_path: Path, options: str, backend: str, claim: str):
    (tmp_path / "config.json").write_text(json.dumps(preset("minicpm4-0.5b", num_hidden_layers=1)))
    words = options.replace("--", "").split()
    wanted = dict(zip(words[::2], words[1::2], strict=True))
    target = "jetson-orin" if backend == "tensorrt" else "cpu"
    try:
        found = "slow" if plan(tmp_path, target, backend=backend, **wanted).slow else "yes"
    except UnsupportedError:
        found = "no"
    assert found == claim


def test_the_tables_of_the_quantization_page_are_those_of_the_code():
    page = (ROOT / "docs" / "quantization.md").read_text("utf-8")
    for name in ("int8", "int4"):
        spec = parse_quant(name)
        assert spec.linear is not None
        assert spec.embedding is not None
        assert f"| `{name}` | `{spec.linear.name}` | `{spec.embedding.name}` |" in page
    costs = re.findall(r"\| `(int\d-g\d+(?:-asym)?)` \| ([\d.]+) (?=\|)", page)
    assert len(costs) == 8
    for name, bits in costs:
        assert parse_scheme(name).bits_per_weight(4096) == pytest.approx(float(bits), abs=6e-4)
    for part in part_specs(parse_scheme("int4-g32-min-actorder"), (1, 32)):
        assert f"| `{part}` |" in page
