"""Recipes: what was chosen for a model on a target. `<name>/<target>.toml` beside this file.

Knows no checkpoint and no backend.
"""

from arkinfer.recipes.recipe import (
    Calibration,
    Gates,
    Recipe,
    load_recipe,
    parse_recipe,
    recipe_names,
    recipe_text,
)

__all__ = [
    "Calibration",
    "Gates",
    "Recipe",
    "load_recipe",
    "parse_recipe",
    "recipe_names",
    "recipe_text",
]
