"""Every import contract can fail: one forbidden import each, in a copy of the source."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BREACHES = {
    "layers": ("arkinfer/packing/bits.py", "import arkinfer.ir.core"),
    # Not torch itself, but a module that imports it, and within a function.
    "device": ("arkinfer/runtime/stream.py", "def f():\n    import arkinfer.testing.torch_model"),
    "reference": ("backends/arkinfer_ref/executor.py", "import arkinfer.backend.placement"),
    "backends": ("backends/arkinfer_ort/support.py", "import arkinfer_ref.executor"),
    "backend-compilers": ("backends/arkinfer_trt/graph.py", "import arkinfer.compiler.weights"),
    "plug-ins": ("arkinfer/backend/registry.py", "from arkinfer_ref import compiler"),
    "quant": ("arkinfer/quant/rtn.py", "import arkinfer.ir"),
    "export": ("arkinfer/export/folder.py", "import arkinfer.compiler.plan"),
    "artifact": ("arkinfer/artifact/layout.py", "import arkinfer.runtime.contract"),
    "core": ("arkinfer/passes/fuse_add.py", "import arkinfer.frontend.trace"),
    "frontend": ("arkinfer/frontend/leaves.py", "import transformers"),
    "backend": ("arkinfer/backend/placement.py", "import arkinfer.runtime.stop"),
    "recipes": ("arkinfer/recipes/recipe.py", "import arkinfer.models.config"),
    "report": ("arkinfer/report/files.py", "import arkinfer.cli.table"),
    "doctor": ("arkinfer/doctor/gpu.py", "import arkinfer.frontend.hub"),
    "align": ("arkinfer/compiler/plan.py", "import arkinfer.align.compare"),
    "testing": ("arkinfer/cli/bench.py", "from arkinfer.testing import make_checkpoint"),
}
"""Contract -> (file, what is added to it)."""

DEVICE_BREACHES = [
    ("arkinfer/runtime/session.py", "import torch"),
    ("arkinfer/runtime/sampling.py", "from arkinfer.ir import Module"),
    ("backends/arkinfer_ort/executor.py", "import arkinfer_ort.lowering"),
    ("backends/arkinfer_tvm/library.py", "import arkinfer_tvm.build"),
    ("arkinfer/artifact/verify.py", "import arkinfer.frontend.checkpoint"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name in ("arkinfer", "backends"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=lambda at, names: [
                n for n in names if not n.endswith(".py") and not (Path(at) / n).is_dir()
            ],
        )  # fmt: skip
    shutil.copy(ROOT / ".importlinter", folder)
    return folder


def broken(folder: Path) -> set[str]:
    """The names of the contracts that the linter finds broken."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": f".{os.pathsep}backends", "COLUMNS": "500"}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Contracts: " in result.stdout, result.stderr
    found = set(re.findall(r"^(.+?) BROKEN", result.stdout, re.M))
    assert (result.returncode != 0) == bool(found)
    return found


def contracts() -> dict[str, str]:
    """Their names by their keys."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter", "utf-8")
    head = "importlinter:contract:"
    return {k.removeprefix(head): parser[k]["name"] for k in parser.sections() if head in k}


def test_the_source_keeps_them(copy: Path):
    assert broken(copy) == set()
    assert set(BREACHES) == set(contracts())


@pytest.mark.parametrize(
    ("contract", "file", "line"),
    [
        *((name, *breach) for name, breach in BREACHES.items()),
        *(("device", *breach) for breach in DEVICE_BREACHES),
    ],
)
def test_a_breach_is_found(copy: Path, contract: str, file: str, line: str):
    path = copy / file
    text = path.read_text("utf-8")
    path.write_text(f"{text}\n{line}\n", "utf-8")
    try:
        assert contracts()[contract] in broken(copy)
    finally:
        path.write_text(text, "utf-8")
