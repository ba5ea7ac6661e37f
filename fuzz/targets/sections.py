"""What executors read of their sections when they open them: config, IR text, programs, places.

Kernels and ONNX models are not changed: they are code, and trusted as such (docs/security.md).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

from arkinfer.artifact import open_artifact
from arkinfer.errors import ArkError, ArtifactError
from arkinfer.limits import LimitError, parse_json
from arkinfer.runtime.contract import LoadOptions
from arkinfer_ort.executor import OnnxRuntimeExecutor
from arkinfer_ref.executor import ReferenceExecutor
from arkinfer_tvm.cpu import platform_name
from arkinfer_tvm.executor import TvmExecutor
from arkinfer_tvm.library import Bound
from arkinfer_tvm.program import INTERFACE, Program, seen_from_json
from fuzz.files import file, refusing
from fuzz.targets.artifact import around

DICTIONARY = ["heads", "size", "dtype", "context", "chunk", "vocab_size", "initializers", "dims",
              "caches", "weights", "scratch", "operands", "calls", "port", "cache", "dim", "terms",
              "constant", "float32", "int8", "object", "%tokens", "values", "kernels", "codes",
              "quant<int4-g32>[4, 32]", "tensor", "module.ir", "interface"]  # fmt: skip
IS_JSON = True
LENGTH = 4096

_IR = """module {vocab_size = 4, context = 8, chunk = 4}
weight @w : f32[4, 4]
func @step(%tokens: i64[T], %rows: i64[R], %k0: cache<f32>[S, 1, 4]) {
  %0 = nn.embedding(%tokens, @w) {scale = 1.0} : f32[T, 4]
  return logits = %0, k0 = %k0
}
"""
_SIZES = {"vocab_size": 4, "context": 8, "chunk": 4}


def seeds() -> list[bytes]:
    """One object: each backend's config, and the content of files."""
    program = {
        "dims": [{"terms": [["T", 1]], "constant": 0}],
        "operands": [
            ["dim", 0],
            ["scratch", 64],
            ["weight", "w"],
            ["cache", 0],
            ["port", "logits"],
        ],
        "calls": [["k", [0, 1, 2, 3, 4]]],
        "caches": [{"heads": 1, "size": 4, "dtype": "float32"}],
        "scratch": 128,
    }
    place = {"kind": "scratch", "key": 0}
    seen = {"value": "0", "call": 1, "place": place, "count": place, "row": [4], "stride": 4,
            "offset": 0, "dtype": "float32"}  # fmt: skip
    places = {"values": [{"value": "0", "tensor": "x", "row": [4], "cache": False}],
              "kernels": {"n": ["0"]}}  # fmt: skip
    whole = {
        "reference": {"ir": "backends/reference/a", "weights": {"w": {"": "w"}}},
        "onnxruntime": {
            **_SIZES, "model": "backends/onnxruntime/b", "values": "backends/onnxruntime/a",
            "caches": [{"name": "k0", "heads": 1, "size": 4, "dtype": "float32"}],
            "initializers": [{"name": "w", "tensor": "w", "dtype": "float32", "dims": [4, 4]}],
        },
        "tvm": {**_SIZES, "interface": INTERFACE, "platform": platform_name(), "isa": "x",
                "cpu_flags": [], "program": "backends/tvm/a", "library": "backends/tvm/b",
                "symbols": {}},
        "text": _IR, "program": program, "seen": [seen], "places": places,
        "requires": {"onnxruntime": ">=1.23,<9"},
    }  # fmt: skip
    return [json.dumps(whole, separators=(",", ":")).encode()]


class _Kernels:
    """In place of a loaded library: every kernel is somewhere."""

    threads = 1

    def kernel(self, name: str) -> int:
        return len(name)


def one(data: bytes) -> None:
    try:
        facts = parse_json(data)
    except LimitError:
        return
    parts: dict[str, Any] = facts if isinstance(facts, dict) else {}
    path = file("s.ark", _artifact(parts))
    options = LoadOptions(observe=True)
    with refusing(ArtifactError), open_artifact(path) as artifact:
        for kind in (ReferenceExecutor, OnnxRuntimeExecutor, TvmExecutor):
            if kind.name in artifact.sections:
                section = artifact.sections[kind.name]
                with refusing(ArkError):
                    kind().check(artifact, section)
                with refusing(ArkError):
                    kind().open(artifact, section, options).close()
    _program(parts)


def _program(parts: dict[str, Any]) -> None:
    """What `TvmExecutor.open` does before and after it loads the code."""
    malformed = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
    try:
        program = Program.from_json(json.dumps(parts.get("program")).encode())
        seen_from_json(json.dumps(parts.get("seen")).encode())
    except malformed:
        return
    import numpy as np

    weights = {str(o.key): np.zeros(64, np.uint8) for o in program.operands if o.kind == "weight"}
    if program.scratch < 1 << 20:
        with refusing(ArkError):
            Bound(program, cast("Any", _Kernels()), {n: _aligned(w) for n, w in weights.items()})


def _aligned(array: Any) -> Any:
    from arkinfer_tvm.library import aligned

    made = aligned(array.shape, array.dtype)
    made[:] = array
    return made


def _artifact(parts: dict[str, Any]) -> bytes:
    texts = {
        "reference": str(parts.get("text")),
        "onnxruntime": json.dumps(parts.get("places")),
        "tvm": json.dumps(parts.get("program")),
    }
    entries = {"weights/w": bytes(64)}
    for backend, text in texts.items():
        entries[f"backends/{backend}/a"] = text.encode()
        entries[f"backends/{backend}/b"] = b"no code"
    configs = {name: parts.get(name) for name in texts}
    requires = parts.get("requires")
    manifest = {
        "format": 1, "arkinfer": "0", "requires": [],
        "model": {"name": "m", "architecture": "a"}, "context": 8, "quant": "none", "dtype": "fp32",
        "target": {"name": "cpu"}, "tokens": {"bos": None, "stop": []}, "generation": {},
        "source": {"files": {}}, "tensors": {"w": {"dtype": "float32", "shape": [4, 4]}},
        "sections": [
            {"backend": name, "requires": requires if name == "onnxruntime" else {},
             "tensors": ["w"], "config": config}
            for name, config in configs.items() if isinstance(config, dict)
        ],
        "entries": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in entries.items()
        },
    }  # fmt: skip
    return around(json.dumps(manifest).encode(), entries)
