"""Small artifacts for the tests of this folder."""

from __future__ import annotations

import copy
import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from arkinfer.artifact import ArtifactWriter, Section
from arkinfer.artifact.layout import Entry, central_record, end_records, local_header

FACTS: dict[str, Any] = {
    "model": {"name": "tiny", "architecture": "MiniCPMForCausalLM", "vocab_size": 8},
    "context": 64,
    "quant": "int4-g32",
    "dtype": "fp32",
    "target": {"name": "cpu"},
    "tokens": {"bos": 1, "stop": [2, 7]},
}


@pytest.fixture
def facts() -> dict[str, Any]:
    """What a compiler would tell `commit`."""
    return copy.deepcopy(FACTS)


@pytest.fixture
def write_small(facts: dict[str, Any]) -> Callable[[Path], Path]:
    """Writes a file with entries, two tensors and a section."""

    def write(path: Path) -> Path:
        rng = np.random.default_rng(5)
        with ArtifactWriter(path) as writer:
            writer.add_bytes("ir.txt", b"module {}\n")
            codes = rng.integers(0, 256, (6, 2, 16), dtype=np.uint8)
            writer.add_tensor("w.codes", "uint8", codes.shape, [codes[:4], codes[4:]])
            norm = rng.standard_normal(5).astype(ml_dtypes.bfloat16)
            writer.add_tensor("norm", "bfloat16", norm.shape, [norm])
            writer.add_bytes("backends/reference/plan.json", b"{}")
            writer.add_section(
                Section("reference", {"chunk": 4}, {"numpy": ">=1.26"}, ("w.codes", "norm"))
            )
            return writer.commit(facts)

    return write


@pytest.fixture
def small(tmp_path: Path, write_small: Callable[[Path], Path]) -> Path:
    return write_small(tmp_path / "small.ark")


def container(files: list[tuple[str, bytes]]) -> bytes:
    """A container of sound layout whose contents are nobody's."""
    data, directory = bytearray(), b""
    for name, content in files:
        entry = Entry(name, len(data), len(content), zlib.crc32(content))
        data += local_header(entry) + content
        directory += central_record(entry)
    return bytes(data) + directory + end_records(len(files), len(directory), len(data))


@pytest.fixture
def pack() -> Callable[..., bytes]:
    """Makes the bytes of a file from entries and changes to the manifest.

    `pack({"a": b"…"}, context=0, tensors={…})`; a callable as the second argument edits the
    whole manifest.
    """

    def make(
        files: dict[str, bytes] | None = None,
        edit: Callable[[dict[str, Any]], object] | None = None,
        **changes: Any,
    ) -> bytes:
        files = {"ir.txt": b"x"} if files is None else files
        manifest = {
            "format": 1,
            "arkinfer": "0.1.0",
            "requires": [],
            **copy.deepcopy(FACTS),
            "generation": {},
            "source": {"files": {}},
            "tensors": {},
            "sections": [],
            "entries": {
                name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in files.items()
            },
            **changes,
        }
        if edit is not None:
            edit(manifest)
        return container([*files.items(), ("manifest.json", json.dumps(manifest).encode())])

    return make


@pytest.fixture
def raw() -> Callable[[list[tuple[str, bytes]]], bytes]:
    return container
