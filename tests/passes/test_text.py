"""Passes on text files: the first line of each says what to run, CHECK lines what must come out.

A line `// RUN-PLAIN: …` runs the same file once more, against the lines with PLAIN.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from filecheck.matcher import Matcher
from filecheck.options import Options

from arkinfer.cli.opt import main
from arkinfer.ir import parse_module, print_module
from arkinfer.passes import NAMES

FILES = sorted(Path(__file__).parent.glob("*.ir"))
RUN = re.compile(r"// RUN(?:-(\w+))?: arkinfer-opt (.*)")


def runs(file: Path) -> list[tuple[Path, str, str]]:
    """(file, prefix of its check lines, command line)."""
    return [(file, m[1] or "CHECK", m[2]) for m in RUN.finditer(file.read_text())]


RUNS = [run for file in FILES for run in runs(file)]


@pytest.mark.parametrize(
    ("file", "prefix", "command"), RUNS, ids=[f"{file.stem}-{prefix}" for file, prefix, _ in RUNS]
)
def test_file(
    file: Path, prefix: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.ir"
    arguments = shlex.split(command.replace("%s", shlex.quote(str(file))))
    assert main([*arguments, "-o", str(out)]) == 0, capsys.readouterr().err
    options = Options(match_filename=str(file), input_file=str(out), check_prefixes=[prefix])
    assert Matcher.from_opts(options).run() == 0, capsys.readouterr().err
    text = out.read_text()
    module = parse_module(text)
    bare = "".join(line for line in text.splitlines(True) if not line.startswith("//"))
    assert print_module(module) == bare
    assert parse_module(print_module(module)) == module


def test_every_pass_has_a_file() -> None:
    assert {file.stem.replace("_", "-") for file in FILES} == set(NAMES)


def test_a_wrong_check_line_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The harness itself: what is expected and does not come out is an error."""
    file, out = tmp_path / "wrong.ir", tmp_path / "out.ir"
    file.write_text("// CHECK: nn.silu_mul\nmodule\nfunc @f(%x: f32[4]) {\n  return y = %x\n}\n")
    assert main([str(file), "-o", str(out)]) == 0
    options = Options(match_filename=str(file), input_file=str(out), check_prefixes=["CHECK"])
    assert Matcher.from_opts(options).run() == 1
    capsys.readouterr()
