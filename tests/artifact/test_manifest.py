"""The manifest's rules, and that what is published is what is checked."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arkinfer.artifact.manifest import SCHEMA, Manifest, ManifestError, check, decode, encode

ROOT = Path(__file__).parents[2]
MANIFEST: dict[str, Any] = {
    "format": 1,
    "arkinfer": "0.1.0",
    "requires": [],
    "model": {"name": "tiny", "architecture": "MiniCPMForCausalLM"},
    "context": 64,
    "quant": "none",
    "dtype": "fp32",
    "target": {"name": "cpu"},
    "tokens": {"bos": None, "stop": [2]},
    "generation": {"temperature": 0.8},
    "source": {"files": {"config.json": "0" * 64}},
    "tensors": {"t": {"dtype": "bfloat16", "shape": [2, 3]}},
    "sections": [{"backend": "tvm", "requires": {}, "tensors": ["t"], "config": {}}],
    "entries": {"weights/t": {"size": 12, "sha256": "0" * 64}},
    "kv": "int8",
    "kv_scales": "token",
    "calibration": {
        "method": "gptq",
        "text": "notes.txt",
        "text_sha256": "0" * 64,
        "samples": 8,
        "tokens": 512,
        "seed": 0,
        "tokens_sha256": "1" * 64,
    },
    "recipe": {"name": "minicpm4-8b/cpu", "sha256": "0" * 64},
    "tuned": "A processor",
}


def changed(path: tuple[Any, ...], value: object) -> Any:
    manifest = copy.deepcopy(MANIFEST)
    part: Any = manifest
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return manifest


def test_it_reads_back():
    manifest: Any = MANIFEST
    data = encode(manifest)
    assert decode(data) == MANIFEST
    assert list(decode(data)) == list(Manifest.__annotations__) == list(SCHEMA["properties"])


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("model", "name"), 3, "model.name must be a string, not 3"),
        (("model", "vocab_size"), 0, "model.vocab_size must be at least 1, not 0"),
        (("context",), 64.5, "context must be an integer, not 64.5"),
        (("tokens", "bos"), "<s>", "tokens.bos must be an integer or null, not '<s>'"),
        (("tokens", "stop"), [1, -1], "tokens.stop[1] must be at least 0, not -1"),
        (("generation", "top_p"), 2, "generation.top_p must be at most 1, not 2"),
        (("source", "files", "a"), "xyz",
         "source.files[\"a\"] must be a SHA-256 of 64 hexadecimal digits, not 'xyz'"),
        (("tensors", "t", "shape", 0), 0, 'tensors["t"].shape[0] must be at least 1, not 0'),
        (("tensors", "t", "shape", 0), 3, '"t" has 12 bytes, its shape needs 18'),
        (("tensors", "u"), {"dtype": "int8", "shape": []}, 'the tensor "u" has no entry'),
        (("tensors",), {}, 'the entry "weights/t" is not among the tensors'),
        (("sections", 0, "backend"), "../x",
         "sections[0].backend must be a name of small letters, digits, _ and -, not '../x'"),
        (("sections", 0, "tensors"), ["u"], 'section "tvm" names "u", which is no tensor'),
        (("sections",), MANIFEST["sections"] * 2, 'two sections are for "tvm"'),
        (("entries", "weights/t", "size"), -1, 'entries["weights/t"].size must be at least 0'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(path: tuple[Any, ...], value: object, text: str):
    with pytest.raises(ManifestError) as caught:
        check(changed(path, value))
    assert text in str(caught.value)


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_every_key_is_required(key: str):
    manifest = {name: value for name, value in MANIFEST.items() if name != key}
    with pytest.raises(ManifestError, match=f"{key} is missing|not among the tensors"):
        check(manifest)


def test_the_published_schema_is_the_one_that_is_checked():
    published = json.loads((ROOT / "docs" / "manifest.schema.json").read_text())
    assert published == json.loads(json.dumps(SCHEMA)), (
        "run: python tests/artifact/formats/publish_schema.py"
    )


def test_the_import_is_light():
    """What a device has not, or needs late, is not loaded to open a file."""
    script = "import sys, arkinfer.artifact; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    loaded = set(subprocess.check_output(command, cwd=ROOT, text=True).split())
    heavy = {"numpy", "ml_dtypes", "torch", "pydantic", "rich", "typer", "zipfile", "socket"}
    assert not heavy & loaded
    assert not {m for m in loaded if m.startswith("arkinfer.") and "artifact" not in m} - {
        "arkinfer.errors",
        "arkinfer.limits",
    }
