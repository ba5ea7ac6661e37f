"""Where the packaged demo model is. Knows nothing of what is in it; imports no numpy."""

from __future__ import annotations

from pathlib import Path

from arkinfer.errors import UsageError

DEMO = "demo"
"""The name of the packaged model, in place of a path."""


def located(path: str | Path) -> Path:
    """The path itself; that of the packaged demo model for the text "demo".

    Raises:
        UsageError: this installation has no demo model.
    """
    if path != DEMO:
        return Path(path)
    from importlib.resources import files

    demo = Path(str(files("arkinfer"))) / "demo" / "demo.ark"
    if not demo.is_file():
        raise UsageError(
            "This installation of arkinfer has no demo model",
            f'There is no file "{demo}"',
            "Install arkinfer from its wheel, or make the model in a checkout: make demo; "
            'a file that is named "demo" is written "./demo"',
        )
    return demo
