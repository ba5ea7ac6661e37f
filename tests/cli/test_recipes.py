"""`arkinfer recipes`: the table, JSON, one file; and builds by a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arkinfer.recipes import parse_recipe, recipe_names, recipe_text
from arkinfer.testing import make_checkpoint, preset

Ark = Callable[..., Any]


def test_the_table_has_every_recipe(ark: Ark):
    result = ark("recipes")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[1].split() == ["recipe", "quant", "embedding", "context", "made", "for"]
    assert [line.split()[0] for line in lines[2:-2]] == recipe_names()
    assert "openbmb/MiniCPM4-0.5B" in result.out


def test_json_has_all_that_they_say(ark: Ark):
    listed = json.loads(ark("recipes", "--json").out)
    assert [each["name"] for each in listed] == recipe_names()
    one = json.loads(ark("recipes", "minicpm4-8b", "--json").out)
    assert one == next(each for each in listed if each["name"] == "minicpm4-8b/cpu")
    assert set(one) >= {"models", "target", "quant", "gates", "calibration", "sha256"}


def test_a_file_is_printed_as_it_is(ark: Ark):
    result = ark("recipes", "minicpm4-8b/jetson-orin")
    assert result.out == recipe_text("minicpm4-8b/jetson-orin").decode()
    assert parse_recipe("mine", result.out.encode()).target == "jetson-orin"


@pytest.mark.parametrize("command", ["recipes", "plan demo --recipe", "build demo --recipe"])
def test_a_wrong_name_is_answered_with_the_nearest(ark: Ark, command: str):
    result = ark(*command.split(), "minicpm4-8")
    assert (result.code, result.out) == (2, "")
    assert 'There is no recipe "minicpm4-8/cpu". Did you mean "minicpm4-8b/cpu"?' in result.err


def test_plan_build_and_inspect_name_the_recipe(ark: Ark, tmp_path: Path):
    folder = make_checkpoint(preset("tiny"), 0, tmp_path / "tiny")
    mine = tmp_path / "mine.toml"
    mine.write_text('summary = "x"\nmodels = ["a/b"]\ntarget = "cpu"\nquant = "int8-g32"\n')
    planned = ark("plan", folder, "--recipe", mine, "--context", 64)
    assert planned.out.startswith("tiny for cpu on tvm, int8-g32\nrecipe      mine\n")
    assert "for 64 tokens" in planned.out
    command = ("build", folder, "--recipe", mine, "--backend", "reference", "-o")
    built = ark(*command, tmp_path / "m.ark", "--context", 64)
    assert built.code == 0, built.err
    assert "\nrecipe    mine\n" in built.out
    assert "\nrecipe                   mine\n" in ark("inspect", tmp_path / "m.ark").out
    other = ark(*command, tmp_path / "n.ark", "--quant", "none")
    assert other.code == 0, other.err
    assert "int8" not in other.out
