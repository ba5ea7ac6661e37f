"""Each published checkpoint has a recipe for each target that can run it, and it plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arkinfer.compiler.plan import plan
from arkinfer.recipes import Recipe, load_recipe, recipe_names
from arkinfer.targets import load_target, target_names
from tests.recipes.published import CHECKPOINTS, Published

RECIPES = [load_recipe(name) for name in recipe_names()]
CASES = [
    pytest.param(recipe, model, id=f"{recipe.name} {model.model.rpartition('/')[2]}")
    for recipe in RECIPES
    for model in CHECKPOINTS
    if model.model in recipe.models and model.config is not None
]


def test_every_checkpoint_has_one_recipe_for_every_target_that_has_its_own():
    targets = [name for name in target_names() if not load_target(name).recipes]
    found = sorted((model, recipe.target) for recipe in RECIPES for model in recipe.models)
    assert found == sorted((m.model, target) for m in CHECKPOINTS for target in targets)


@pytest.mark.parametrize(("recipe", "model"), CASES)
def test_a_recipe_plans_without_weights(recipe: Recipe, model: Published, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(model.config))
    found = plan(tmp_path, recipe=recipe.name)
    assert (found.target, found.quant) == (recipe.target, recipe.quant)
    assert found.recipe == {"name": recipe.name, "sha256": recipe.sha256}
    assert found.run_bytes < 8 << 30, "the smallest Jetson's memory"
    assert recipe.gates.max_size is not None
    assert 0.7 * recipe.gates.max_size < found.weight_bytes < recipe.gates.max_size
    assert 8 * found.weight_bytes / found.parameters < 8
    assert found.largest_context >= found.context
