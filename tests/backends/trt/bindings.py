"""NVIDIA's published bindings of TensorRT 10.16, where TensorRT is not: they need libraries to be
there, and ours do nothing. For tests alone.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = {
    "nvinfer": "createInferBuilder_INTERNAL createInferRefitter_INTERNAL "
    "createInferRuntime_INTERNAL getBuilderPluginRegistry getPluginRegistry",
    "nvonnxparser": "createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL "
    "getNvOnnxParserVersion",
    "nvinfer_plugin": "initLibNvInferPlugins",
}
"""What the bindings import, by library."""


def make_libraries(folder: Path) -> None:
    """Libraries whose functions do nothing. Skips the test where that cannot be."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("NVIDIA publishes no TensorRT bindings for this platform and Python")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make libraries with")
    for name, functions in LIBRARIES.items():
        source = folder / f"{name}.c"
        source.write_text("".join(f"void *{f}(void) {{ return 0; }}\n" for f in functions.split()))
        library = folder / f"lib{name}.so.10"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)


def run_with(libraries: Path, *command: str) -> str:
    """What Python prints, in a process that finds the libraries and our modules."""
    paths = {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_stubs(libraries: Path, folder: Path) -> Path:
    """`tensorrt/__init__.pyi` in the folder: what the bindings say of themselves, with types."""
    pytest.importorskip("pybind11_stubgen")
    package, raw = "tensorrt_bindings", folder / "raw"
    run_with(libraries, "-m", "pybind11_stubgen", package, "-o", str(raw), "--ignore-all-errors")
    text = (raw / package / "tensorrt.pyi").read_text("utf-8")
    version = re.search(r"^__version__.*", (raw / package / "__init__.pyi").read_text(), re.M)
    assert version is not None
    for pattern, replacement in MENDED.items():
        text, count = re.subn(pattern, replacement, text, flags=re.M)
        assert count, f"{pattern} stands no longer in what pybind11-stubgen writes"
    stub = folder / "tensorrt" / "__init__.pyi"
    stub.parent.mkdir(parents=True)
    stub.write_text(f"{text}\n{version[0]}\n", "utf-8")
    return stub


MENDED = {
    # what is accepted for a number; as the type of a callback's argument it would be wrong
    r"\btyping\.SupportsInt\b": "int",
    # "the TensorRT API can implicitly convert Python iterables to Dims"
    r"(\w: )Dims\b(?=[,)])": r"\1Dims | collections.abc.Sequence[int]",
    # named before the class was known to pybind11
    r"(def get_error\(self, index: int\) -> )\.\.\.": r"\1ParserError",
    # a buffer, which stubs of pybind11 cannot say
    r"^class IHostMemory:": "class IHostMemory(typing_extensions.Buffer):",
}
"""What pybind11-stubgen cannot know, and the bindings' documentation says."""
