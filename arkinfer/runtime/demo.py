"""Where the packaged models are. Knows nothing of what is in them; imports no numpy."""

from __future__ import annotations

from pathlib import Path

from arkinfer.errors import UsageError

DEMO, TERNARY = "demo", "demo-ternary"
"""The names of the packaged models, in place of a path: in int4, and its sibling that was trained
to linears of -s, 0 and +s (recipes/bitcpm)."""

NAMES = (DEMO, TERNARY)


def located(path: str | Path) -> Path:
    """The path itself; that of a packaged model for its name.

    Raises:
        UsageError: this installation has no such model.
    """
    if path not in NAMES:
        return Path(path)
    from importlib.resources import files

    demo = Path(str(files("arkinfer"))) / "demo" / f"{path}.ark"
    if not demo.is_file():
        made = ", or make the model in a checkout: make demo" if path == DEMO else ""
        raise UsageError(
            "This installation of arkinfer has no demo model",
            f'There is no file "{demo}"',
            f"Install arkinfer from its wheel{made}; "
            f'a file that is named "{path}" is written "./{path}"',
        )
    return demo
