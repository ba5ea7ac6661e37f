"""The public API: its names, its signatures, and what importing it costs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import arkinfer
from arkinfer.errors import UsageError

ROOT = Path(__file__).parents[1]

BLOCKED = """
import socket, sys
def refuse(*args, **options):
    raise AssertionError("a socket was opened")
socket.socket.__init__ = refuse
socket.create_connection = socket.getaddrinfo = refuse
before = set(sys.modules)
{statement}
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(" ".join(sorted(loaded)))
"""


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a statement loads in a fresh process without network."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"}
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(statement=statement)],
        capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


HEAVY = {"torch", "onnxruntime", "tvm", "tvm_ffi", "transformers", "onnx"}


def test_names():
    assert set(arkinfer.__all__) == {"Engine", "__version__", "build", "errors", "load", "plan"}
    assert set(arkinfer.__all__) <= set(dir(arkinfer))
    assert arkinfer.load.__module__ == "arkinfer.runtime.engine"
    assert arkinfer.Engine.__module__ == "arkinfer.runtime.engine"
    assert arkinfer.errors.ArkError is UsageError.__mro__[1]
    with pytest.raises(AttributeError, match="module 'arkinfer' has no attribute 'lode'"):
        arkinfer.lode  # noqa: B018 (the access is what is tested)


def test_signatures():
    """What a caller may rely on: names, order and defaults."""

    def shape(function: object) -> list[tuple[str, object]]:
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.default) for p in parameters if p.name != "self"]

    none = inspect.Parameter.empty
    assert shape(arkinfer.load)[0] == ("path", none)
    assert ("threads", None) in shape(arkinfer.load)
    assert shape(arkinfer.Engine.logits) == [("token_ids", none)]
    assert shape(arkinfer.Engine.generate)[:4] == [
        ("prompt", none), ("max_new_tokens", None), ("temperature", 0.0), ("seed", 0),
    ]  # fmt: skip
    chat = dict(shape(arkinfer.Engine.chat))
    assert chat["messages"] is none
    assert (chat["max_new_tokens"], chat["temperature"], chat["seed"]) == (None, 0.0, 0)
    assert {"__enter__", "__exit__", "close"} <= set(dir(arkinfer.Engine))


def test_importing_the_package_loads_nothing():
    others = {"numpy", "pydantic", "tokenizers", "jinja2", "typer", "rich", "psutil", "ml_dtypes"}
    assert not loaded_by("import arkinfer") & (HEAVY | others)


def test_importing_the_engine_loads_no_compiler_and_no_runtime():
    loaded = loaded_by("import arkinfer.runtime.engine; import arkinfer; arkinfer.load")
    assert not loaded & HEAVY
    assert "numpy" in loaded
    names = loaded_by(
        "import arkinfer.runtime.engine, arkinfer.runtime.perplexity\n"
        "import arkinfer.bench.compare, arkinfer.bench.worker\n"
        "print(*(n for n in sys.modules if n.startswith('arkinfer.')))"
    )
    for forbidden in ("ir", "frontend", "passes", "compiler", "backend", "quant"):
        assert not any(n.split(".")[1:2] == [forbidden] for n in names), forbidden


def test_importing_is_quick():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def seconds(statement: str) -> float:
        command = [sys.executable, "-X", "importtime", "-c", statement]
        start = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
        return time.perf_counter() - start

    nothing = min(seconds("pass") for _ in range(5))
    assert min(seconds("import arkinfer") for _ in range(5)) - nothing < 0.05


def test_the_demo_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from arkinfer.runtime.demo import located

    assert located("m.ark") == Path("m.ark")
    assert located("./demo") == Path("demo")
    assert located(Path("demo")) == Path("demo")
    (tmp_path / "demo").mkdir()
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(UsageError) as caught:
        arkinfer.load("demo")
    assert str(caught.value) == (
        "This installation of arkinfer has no demo model. There is no file "
        f'"{tmp_path / "demo" / "demo.ark"}". Install arkinfer from its wheel, or make the model '
        'in a checkout: make demo; a file that is named "demo" is written "./demo".'
    )
    (tmp_path / "demo" / "demo.ark").write_bytes(b"")
    assert located("demo") == tmp_path / "demo" / "demo.ark"
    with pytest.raises(UsageError, match=r"demo-ternary\.ark.* from its wheel; a file"):
        located("demo-ternary")
