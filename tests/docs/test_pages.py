"""What README and docs show is what happens: their examples run, through the installed command."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from arkinfer import plan
from arkinfer.cli import COMMANDS
from arkinfer.errors import UnsupportedError
from arkinfer.packing import parse_scheme, part_specs
from arkinfer.quant import parse_quant
from arkinfer.testing import preset
from tests.docs.pages import (
    EXECUTED,
    NEEDS_THE_HUB,
    PAGES,
    ROOT,
    Block,
    Step,
    agrees,
    blocks,
    steps,
)

QUICK = ("README.md", "troubleshooting.md")
EXAMPLES = [
    pytest.param(page, marks=() if page.name in QUICK else pytest.mark.slow, id=page.name)
    for page in PAGES
    if any(block.mark == EXECUTED for block in blocks(page))
]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user would who activated this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path, "TERM": "dumb"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def do(step: Step, folder: Path) -> None:
    """Runs a command; one whose shown output is an error has to fail, all others not to."""
    result = run(["bash", "-c", step.command], folder)
    said = f"$ {step.command}\n{result.stdout}{result.stderr}"
    assert "Traceback" not in result.stderr, said
    if step.shown.startswith("error: "):
        assert result.returncode != 0, said
        assert agrees(step.shown, result.stderr), said
    else:
        assert result.returncode == 0, said
        assert result.stdout.strip() or ">" in step.command, said
        assert agrees(step.shown, result.stdout), said


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_run(page: Path, tmp_path: Path):
    """In one folder and in the order of the page, as its reader would."""
    shutil.copy(ROOT / "README.md", tmp_path)
    for block in blocks(page):
        if block.mark != EXECUTED:
            continue
        if block.language == "python":
            result = run([sys.executable, "-c", block.text], tmp_path)
            assert result.returncode == 0, result.stderr
            assert "print(" not in block.text or result.stdout.strip()
        else:
            assert block.language == "console", block
            for step in steps(block):
                do(step, tmp_path)


def test_readme_is_executed_but_for_what_needs_more():
    """What is not executed here needs the hub, or is a way to install (tests/packaging)."""
    others = [b for b in blocks(ROOT / "README.md") if b.language in ("console", "python")]
    for block in others:
        if block.mark in (EXECUTED, NEEDS_THE_HUB):
            continue
        first = steps(block)[0].command
        assert first.startswith(("make ", "pip install ")), block.text


def test_every_python_example_is_valid():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python":
                ast.parse(block.text)


@cache
def help_of(*command: str) -> str:
    result = run([sys.executable, "-m", *command, "--help"], ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


def commands(block: Block) -> list[list[str]]:
    """The words of every call of arkinfer in a console block."""
    lines = [shlex.split(step.command) for step in steps(block)]
    return [words[1:] for words in lines if words[:1] == ["arkinfer"]]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_documented_commands_and_options_exist(page: Path):
    """Also in examples that are not executed."""
    for block in blocks(page):
        if block.language != "console":
            continue
        for name, *words in commands(block):
            assert re.search(rf"^ +{name} ", help_of("arkinfer"), re.M), name
            known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", help_of("arkinfer", name)))
            options = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert options <= known | {"--help"}, f"{name}: {options - known}"


def test_every_command_is_documented():
    shown = {
        name
        for b in blocks(ROOT / "README.md")
        if b.language == "console"
        for name, *_ in commands(b)
    }
    assert shown >= set(COMMANDS)
    assert all(re.search(rf"^ +{name} ", help_of("arkinfer"), re.M) for name in COMMANDS)


def test_outputs_are_compared_line_by_line():
    assert agrees("", "anything\n")
    assert agrees("a …\n…\nz\n", "a 1\nb\nc\nz\n")
    assert agrees("a …\n…\nz\n", "a 1\nz\n")
    assert not agrees("a …\nz\n", "a 1\nb\nz\n")
    assert not agrees("a …\n", "a \n")
    assert not agrees("a.b\n", "axb\n")
    assert steps(Block("", "console", "$ a b  # why\nout\n\n$ c\n")) == [
        Step("a b", "out\n\n"), Step("c", ""),
    ]  # fmt: skip


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


def literals() -> str:
    """All texts of the source, one a line; values in f-strings are "…"."""
    found: list[str] = []
    for folder in ("arkinfer", "backends"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_the_errors_of_the_troubleshooting_page_are_ours():
    """Each heading is an error's text as the source has it, "…" for what varies."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    quoted = re.findall(r"^### `(.+)`$", page, re.M)
    assert len(quoted) >= 15
    source = literals()
    assert [text for text in quoted if text not in source] == []
