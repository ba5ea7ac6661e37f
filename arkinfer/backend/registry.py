"""Finds compilers by name: entry points of the group `arkinfer.compilers`, loaded on first use."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from arkinfer.backend.contract import Compiler
from arkinfer.errors import DeviceError, InternalError, UsageError, nearest

GROUP = "arkinfer.compilers"

BUILT_IN = {
    "reference": "arkinfer_ref.compiler:ReferenceCompiler",
    "onnxruntime": "arkinfer_ort.compiler:OnnxRuntimeCompiler",
    "tvm": "arkinfer_tvm.compiler:TvmCompiler",
    "tensorrt": "arkinfer_trt.compiler:TensorRTCompiler",
}
"""The compilers of our own wheel, as in pyproject.toml: a source checkout has no entry points."""


def compilers() -> dict[str, str]:
    """Every known compiler: its name and where it is imported from ("module:class").

    Raises:
        UsageError: two installed packages offer different compilers under one name.
    """
    known = dict(BUILT_IN)
    for entry in entry_points(group=GROUP):
        if known.setdefault(entry.name, entry.value) != entry.value:
            raise UsageError(
                f'Two compilers are named "{entry.name}"',
                f"One is {known[entry.name]}, the other {entry.value}",
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
        return EntryPoint(name, known[name], GROUP).load()()
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith("arkinfer"):
            raise InternalError(f'The compiler "{name}" cannot be imported', str(error)) from error
        raise DeviceError(
            f'The compiler of the backend "{name}" cannot run here',
            f'The Python package "{package}" is missing',
            'Install it: pip install "arkinfer[build]"',
        ) from error
