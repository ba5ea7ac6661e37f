"""A fake device with TensorRT, in this process: `tensorrt`, its plug-ins, and CUDA's runtime.

Our executor runs on it as it is; its engines compute on ONNX Runtime's CPU. What it shows is that
memory, profiles, aliases, graphs, files and errors are handled as TensorRT asks for; what it cannot
show is anything that TensorRT itself does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

from arkinfer.artifact import Artifact, Section
from arkinfer.runtime.contract import LoadOptions
from arkinfer_trt.executable import TensorRTExecutable
from arkinfer_trt.executor import TensorRTExecutor
from tests.backends.trt.fake import cuda_runtime, plugin, tensorrt
from tests.backends.trt.fake.machine import Machine


@contextmanager
def installed(machine: Machine) -> Iterator[Machine]:
    """Python finds NVIDIA's packages, which work on a machine."""
    runtime = cuda_runtime.module(machine)
    bindings: Any = ModuleType("cuda.bindings")
    bindings.runtime = runtime
    modules = {
        "tensorrt": tensorrt.module(machine),
        "tensorrt.plugin": plugin.module(),
        "cuda.bindings": bindings,
        "cuda.bindings.runtime": runtime,
    }
    if "cuda" not in sys.modules:
        modules["cuda"] = ModuleType("cuda")
    with mock.patch.dict(sys.modules, modules):
        yield machine


class TensorRTOnFake:
    """The real executor, on a fake device of its own each time."""

    name = "tensorrt"

    def open(
        self, artifact: Artifact, section: Section, options: LoadOptions
    ) -> TensorRTExecutable:
        with installed(Machine()):
            return TensorRTExecutor().open(artifact, section, options)
