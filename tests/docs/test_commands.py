"""docs/commands: each command has its page, and the page's options are the command's."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import typer

from arkinfer.cli import COMMANDS
from arkinfer.cli.opt import _parser as opt_parser  # pyright: ignore[reportPrivateUsage] (read only)
from tests.docs.pages import ROOT, text_of

FOLDER = ROOT / "docs" / "commands"
HELP = {"-h", "--help"}
NAMES = [*COMMANDS, "opt"]


def options_of(name: str) -> set[str]:
    """All spellings of a command's options; those of a group's commands, too."""
    if name == "opt":
        actions = opt_parser()._actions  # pyright: ignore[reportPrivateUsage] (as above)
        return {text for action in actions for text in action.option_strings} - HELP
    made = getattr(import_module(f"arkinfer.cli.{name}"), name)
    if isinstance(made, typer.Typer):
        command = typer.main.get_command(made)
    else:
        app = typer.Typer()
        app.command(name)(made)
        command = typer.main.get_command(app)
    every = [command, *getattr(command, "commands", {}).values()]
    return {
        text
        for each in every
        for parameter in each.params
        for text in (*parameter.opts, *parameter.secondary_opts)
        if text.startswith("-")
    } - {*HELP, "--install-completion", "--show-completion"}


def listed(page: Path) -> set[str]:
    """Options in the first cells of the page's tables."""
    cells = re.findall(r"^\| (`-.+?) \|", text_of(page), re.M)
    spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    return {word for span in spans for word in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", span)}


@pytest.mark.parametrize("name", NAMES)
def test_the_page_lists_the_options(name: str):
    page = FOLDER / f"{name}.md"
    assert text_of(page).startswith(f"# arkinfer{'-' if name == 'opt' else ' '}{name}\n")
    assert listed(page) == options_of(name)


def test_the_index_lists_the_commands():
    index = text_of(FOLDER / "index.md")
    linked = re.findall(r"^\| \[[\w-]+\]\((\w+)\.md\)", index, re.M)
    assert linked == NAMES, "in the order of the help"
    assert {f"{name}.md" for name in linked} == {p.name for p in FOLDER.glob("*.md")} - {"index.md"}
