"""Finds compilers by name: entry points of the group `arkinfer.compilers`, loaded on first use."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from arkinfer.backend.contract import Compiler
from arkinfer.errors import DeviceError, InternalError, UsageError, nearest

GROUP = "arkinfer.compilers"


def compilers() -> dict[str, EntryPoint]:
    """Every compiler that is installed, by name.

    Raises:
        UsageError: two installed packages offer different compilers under one name.
    """
    known: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = known.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise UsageError(
                f'Two compilers are named "{entry.name}"',
                f"One is {other.value}, the other {entry.value}",
                "Uninstall the package that offers one of them",
            )
    return known


def compiler(name: str) -> Compiler:
    """Imports and makes the compiler of a backend.

    Raises:
        UsageError: there is none of that name.
        DeviceError: a package that it needs is missing on this host.
    """
    known = compilers()
    if name not in known:
        raise UsageError(f'There is no backend "{name}"', "", nearest(name, known))
    try:
        return known[name].load()()
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith("arkinfer"):
            raise InternalError(f'The compiler "{name}" cannot be imported', str(error)) from error
        raise DeviceError(
            f'The compiler of the backend "{name}" cannot run here',
            f'The Python package "{package}" is missing',
            'Install it: pip install "arkinfer[build]"',
        ) from error
