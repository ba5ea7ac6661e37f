"""`arkinfer recipes`: what was chosen for which model on which target. Builds nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from arkinfer.cli.options import Json


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="One of them, whose file is printed.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List what was chosen for published models on each target.

    Example: arkinfer recipes minicpm4-8b/cpu > mine.toml
    """
    from arkinfer.cli.table import print_table
    from arkinfer.recipes import load_recipe, recipe_names, recipe_text

    if name is not None and not json:
        print(recipe_text(load_recipe(name).name).decode(), end="")
        return
    found = [load_recipe(each) for each in ([name] if name is not None else recipe_names())]
    if json:
        from json import dumps

        listed = [recipe.model_dump(mode="json") for recipe in found]
        print(dumps(listed if name is None else listed[0], indent=2))
        return
    rows = [
        (
            recipe.name,
            recipe.quant,
            recipe.embedding or "by quant",
            "the model's" if recipe.context is None else f"{recipe.context:,}",
            ", ".join(recipe.models),
        )
        for recipe in found
    ]
    print_table(("recipe", "quant", "embedding", "context", "made for"), rows, left=5)
    print("\narkinfer build MODEL --recipe NAME")
