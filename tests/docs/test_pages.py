"""What README and docs show is what happens: their blocks run, through the installed command."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

from arkinfer.cli import COMMANDS as NAMES
from tests.docs.pages import (
    COMMANDS,
    NEEDS,
    OTHERS,
    PAGES,
    ROOT,
    Block,
    Step,
    agrees,
    blocks,
    named,
    steps,
    text_of,
)

SLOW = {
    *(f"docs/{name}.md" for name in ("backends", "guide", "jetson", "quantization", "targets")),
    *(
        f"docs/commands/{name}.md"
        for name in ("align", "bench", "build", "cache", "diff", "profile")
    ),
}
EXAMPLES = [
    pytest.param(page, marks=pytest.mark.slow if named(page) in SLOW else (), id=named(page))
    for page in PAGES
    if any(block.executed for block in blocks(page))
]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user would who activated this environment; what pip installs is put into
    the folder, for the commands that follow."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "HF_", "ARKINFER_"))}
    packages = folder / "packages"
    ours = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([*filter(None, [kept.get("PYTHONPATH")]), str(packages)]),
        "HOME": str(folder),
        "TERM": "dumb",
        "PIP_TARGET": str(packages),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's spelling of "no isolation": no download
    }
    return subprocess.run(
        command, cwd=folder, env={**kept, **ours}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def do(step: Step, folder: Path) -> None:
    """Runs a command; one whose shown output has an error has to fail, all others not to."""
    result = run(["bash", "-c", step.command], folder)
    both = result.stdout + result.stderr
    said = f"$ {step.command}\n{both}"
    assert "Traceback" not in result.stderr, said
    assert (result.returncode != 0) == step.fails, said
    assert both.strip() or ">" in step.command or not step.command.startswith("arkinfer "), said
    assert agrees(step.shown, result.stdout) or agrees(step.shown, both), said


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What backends compiled for any page: the demo model's kernels take ten seconds."""
    return tmp_path_factory.mktemp("compiled")


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_run(page: Path, tmp_path: Path, compiled: Path):
    """In one folder and in the order of the page, as its reader would."""
    shutil.copy(ROOT / "README.md", tmp_path)
    if named(page) != "docs/commands/cache.md":  # which shows what is in it
        (tmp_path / ".cache" / "arkinfer").mkdir(parents=True)
        (tmp_path / ".cache" / "arkinfer" / "works").symlink_to(compiled)
    for block in blocks(page):
        if block.file:
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text, "utf-8")
        elif block.executed and block.language == "console":
            for step in steps(block):
                if not step.sets_up:
                    do(step, tmp_path)
        elif block.executed:
            words = {"python": [sys.executable, "-c"], "sh": ["bash", "-euc"]}[block.language]
            result = run([*words, block.text], tmp_path)
            assert result.returncode == 0, result.stdout + result.stderr
            assert "print(" not in block.text or result.stdout.strip()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_block_escapes(page: Path):
    """Every fence is one that is read here, in a known language, with a known mark."""
    found = blocks(page)
    assert len(re.findall(r"^ *(?:```|~~~)", text_of(page), re.M)) == 2 * len(found)
    for block in found:
        assert block.language in (*COMMANDS, *OTHERS), block
        if block.language in COMMANDS:
            known = ("", *NEEDS, "<!-- executed by tests/docs -->")
            assert block.mark in known or block.source, block
        if block.source:
            assert (ROOT / block.source).exists(), block
        if block.language == "console":
            assert steps(block)
        if block.language in OTHERS:
            assert not re.search(r"^\$ ", block.text, re.M), "a command is a console block"


def squeezed(text: str) -> str:
    """Without indentation and blank lines."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def missing_of(excerpt: str, source: str) -> str:
    """The part of an excerpt that the source does not have there; "…" alone in a line leaves
    lines of the source out."""
    rest = f"\n{squeezed(source)}\n"
    for part in map(squeezed, re.split(r"^ *…$", excerpt, flags=re.M)):
        _, found, rest = rest.partition(f"\n{part}\n")
        if not found:
            return part
        rest = "\n" + rest
    return ""


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_excerpts_are_what_the_source_says(page: Path):
    for block in blocks(page):
        if block.mark.startswith("<!-- from "):
            source = (ROOT / block.source).read_text("utf-8")
            assert missing_of(block.text, source) == "", f"not in {block.source}"


def test_an_excerpt_is_whole_lines_in_order():
    assert missing_of("a\n…\n  c\n", "a\nb\nc\n") == ""
    assert missing_of("c\n…\na\n", "a\nb\nc\n") == "a"
    assert missing_of("a\nc\n", "a\nb\nc\n") == "a\nc"
    assert missing_of("a\n", "ab\nba\n") == "a"


def test_what_sets_up_is_executed_elsewhere():
    """Each make target that a page shows is one of the Makefile; the two of README are CI's."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    for page in PAGES:
        for block in blocks(page):
            if block.language != "console":
                continue
            for step in steps(block):
                words = [word for word in step.command.split() if "=" not in word]
                if words[0] == "make":
                    assert set(words[1:]) <= targets, step
                    if named(page) == "README.md":
                        assert all(f"timed {target}\n" in ci for target in words[1:]), step


def test_every_python_example_is_valid():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python" and not block.mark.startswith("<!-- from "):
                ast.parse(textwrap.dedent(block.text))


@cache
def help_of(*command: str) -> str:
    result = run([sys.executable, "-m", *command, "--help"], ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


def commands(block: Block) -> list[list[str]]:
    """The words of every call of arkinfer in a console block."""
    lines = [shlex.split(step.command) for step in steps(block)]
    return [words[1:] for words in lines if words[:1] == ["arkinfer"]]


def is_group(name: str, words: list[str]) -> bool:
    """Whether the next word is a command, too: of a list of commands, or one that help names."""
    text = help_of("arkinfer", name)
    return "\nCommands:" in text or f"arkinfer {name} {' '.join(words[:1])} --help" in text


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_documented_commands_and_options_exist(page: Path):
    """Also in examples that are not executed."""
    for block in blocks(page):
        if block.language != "console":
            continue
        for name, *words in commands(block):
            if name.startswith("-"):
                continue
            assert name in NAMES, name
            group = words[:1] if is_group(name, words) else []
            text = help_of("arkinfer", name, *group)
            known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text))
            options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert options <= known | {"--help"}, f"{name}: {options - known}"


def test_slow_pages_exist():
    assert {named(page) for page in PAGES} >= SLOW


def test_outputs_are_compared_line_by_line():
    assert agrees("", "anything\n")
    assert agrees("a …\n…\nz\n", "a 1\nb\nc\nz\n")
    assert agrees("a …\n…\nz\n", "a 1\nz\n")
    assert not agrees("a …\nz\n", "a 1\nb\nz\n")
    assert not agrees("a …\n", "a \n")
    assert not agrees("a.b\n", "axb\n")
    assert steps(Block("", "console", "$ a \\\n  b  # why\nout\n\n$ c\n")) == [
        Step("a   b", "out\n\n"), Step("c", ""),
    ]  # fmt: skip


def test_what_is_executed():
    assert Block("", "console", "$ a\n").executed
    assert Block("<!-- executed by tests/docs -->", "python", "a").executed
    assert not Block("<!-- needs the hub -->", "console", "$ a\n").executed
    assert not Block("<!-- from arkinfer/errors.py -->", "python", "a").executed
    assert not Block("", "text", "a").executed
    assert not Block("", "python", "a", "a.py").executed
    assert Step("a", "first\nerror: No.\n").fails
    assert Step("make demo", "").sets_up
    assert not Step("pip install ./mine", "").sets_up
    assert not Step("arkinfer run demo", "an error: not one\n").fails
