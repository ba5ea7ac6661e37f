"""Answers one question in a process of its own: `python -m arkinfer.doctor.child WHAT …`.

What is asked may crash or hang; the last line of standard output is a JSON object. Knows no check.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from arkinfer.errors import ArkError


def package(name: str) -> dict[str, Any]:
    """Imports a module; its version and where it is."""
    module = importlib.import_module(name)
    return {"version": getattr(module, "__version__", ""), "path": getattr(module, "__file__", "")}


def executor(name: str) -> dict[str, Any]:
    """Makes the executor of a backend, as `arkinfer run` does, and lets it look at the device."""
    from arkinfer.runtime import registry
    from arkinfer.runtime.contract import DeviceChecker

    found = registry.executor(name)
    if isinstance(found, DeviceChecker):
        found.check_device()
    return {}


def compiler(name: str, *targets: str) -> dict[str, Any]:
    """Makes the compiler of a backend, and lets it look for the tools that each target takes.

    By target, what `answer` would say of it alone.
    """
    from arkinfer.backend import TargetChecker, registry
    from arkinfer.targets import load_target

    found = registry.compiler(name)

    def look(target: str) -> dict[str, Any]:
        if isinstance(found, TargetChecker):
            found.check(load_target(target))
        return {}

    return {target: _said(look, target) for target in targets}


def section(path: str, backend: str) -> dict[str, Any]:
    """Whether a section of an artifact runs here, and what it takes."""
    from arkinfer.artifact import open_artifact
    from arkinfer.runtime.registry import check_section

    with open_artifact(path) as artifact:
        demand = check_section(artifact, artifact.sections[backend])
    if demand is None:
        return {"known": False}
    return {"known": True, "weights": demand.weights, "per_token": demand.per_token}


def cuda() -> dict[str, Any]:
    """What NVIDIA's driver library says: its version, and the GPUs that it finds."""
    library = ctypes.CDLL("libcuda.so.1")
    if code := library.cuInit(0):
        return {"error": {"kind": "broken", "detail": f"cuInit says {code}", "fix": ""}}
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    library.cuDeviceGetCount(ctypes.byref(count))
    devices: list[str] = []
    for index in range(count.value):
        name, major, minor = ctypes.create_string_buffer(100), ctypes.c_int(), ctypes.c_int()
        library.cuDeviceGetName(name, 100, index)
        library.cuDeviceGetAttribute(ctypes.byref(major), 75, index)  # COMPUTE_CAPABILITY_MAJOR
        library.cuDeviceGetAttribute(ctypes.byref(minor), 76, index)
        capability = f"{major.value}.{minor.value}"
        devices.append(f"{name.value.decode()}, compute capability {capability}")
    return {"version": f"{version.value // 1000}.{version.value % 1000 // 10}", "devices": devices}


def tensorrt(library: str) -> dict[str, Any]:
    """TensorRT's version, as its library says it."""
    number = ctypes.CDLL(library).getInferLibVersion()
    step = 10_000 if number >= 100_000 else 1_000  # 10.16.0 is 101600, 8.5.2 was 8502
    return {"version": f"{number // step}.{number % step // 100}.{number % 100}"}


QUESTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "package": package,
    "executor": executor,
    "compiler": compiler,
    "section": section,
    "cuda": cuda,
    "tensorrt": tensorrt,
}


def answer(what: str, *words: str) -> dict[str, Any]:
    """The facts, or {"error": {"kind", "detail", "fix"}}."""
    return _said(QUESTIONS[what], *words)


def _said(question: Callable[..., dict[str, Any]], *words: str) -> dict[str, Any]:
    try:
        return question(*words)
    except ArkError as error:
        kind = type(error).__name__.removesuffix("Error").lower()
        detail = ". ".join(part.rstrip(".") for part in (error.what, error.why) if part)
        return {"error": {"kind": kind, "detail": detail, "fix": error.fix}}
    except ModuleNotFoundError as error:
        detail = f'there is no Python package "{error.name}"'
        return {"error": {"kind": "missing", "detail": detail, "fix": ""}}
    except Exception as error:  # whatever a foreign package raises is the answer
        text = " ".join(str(error).split()) or "no reason given"
        detail = f"{type(error).__name__}: {text[:500]}"
        return {"error": {"kind": "broken", "detail": detail, "fix": ""}}


if __name__ == "__main__":
    found = answer(*sys.argv[1:])
    print()  # what was imported may have begun a line
    print(json.dumps(found))
