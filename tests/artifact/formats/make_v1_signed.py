"""Wrote v1-signed.ark: an artifact of format 1 with golden vectors and a signature, which every
later arkinfer has to read, replay and check.

A model of one layer, by `arkinfer build` with a numpy backend; the file is never written again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from arkinfer.artifact.minisign import parse_secret_key
from arkinfer.artifact.sign import sign_artifact
from arkinfer.compiler.build import build
from arkinfer.testing import make_checkpoint, preset

SECRET = """\
untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAUFMofDcxzuV0urMWAoYxqmKn3rwxZnhaAP/8jR+vwp68QzKP4yP5mLQgeZnRPAjy7okNquxebyGoyNehiaCuv4PI517CQVWNAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
"""
"""Of a key that vouches for nothing else: it is published here."""

SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300, "max_position_embeddings": 64,
    "rope_scaling": None,
}  # fmt: skip


def write(path: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(preset("tiny", **SHAPE), 5, Path(folder) / "tiny")
        build(checkpoint, quant="int4-g32", output=path, backend="reference", chunk=16)
    sign_artifact(path, parse_secret_key(SECRET), "format 1, signed")
    return path


if __name__ == "__main__":
    write(Path(sys.argv[1]))
