"""Compiles MiniCPM-family checkpoints into one file that a torch-free runner executes.

The public API; what is not listed in `__all__` may change. Names are imported when first used, so
that `import arkinfer` costs nothing, loads neither torch nor a runtime and opens no connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from arkinfer import errors
    from arkinfer.compiler.build import build
    from arkinfer.compiler.plan import plan
    from arkinfer.runtime.engine import Engine, load

__all__ = ["Engine", "__version__", "build", "errors", "load", "plan"]

_HOMES = {
    "Engine": "arkinfer.runtime.engine",
    "build": "arkinfer.compiler.build",
    "load": "arkinfer.runtime.engine",
    "plan": "arkinfer.compiler.plan",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "errors":
        return import_module("arkinfer.errors")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'arkinfer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
