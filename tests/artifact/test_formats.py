"""Artifacts of every released format stay readable; each was written once and is never redone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import ml_dtypes
import numpy as np

from arkinfer.artifact import open_artifact, verify_artifact

FORMATS = Path(__file__).parent / "formats"
V1_DIGEST = "54be0847dc359882f9fe9407b0224643b1f2cd6651bd1055db6f1418747f2759"


def test_format_1():
    report = verify_artifact(FORMATS / "v1.ark")
    assert report.digest == V1_DIGEST
    with open_artifact(FORMATS / "v1.ark") as artifact:
        assert artifact.manifest["format"] == 1
        assert artifact.manifest["model"]["architecture"] == "MiniCPMForCausalLM"
        assert artifact.manifest["tokens"] == {"bos": 1, "stop": [2, 7], "stop_strings": ["\n\n"]}
        assert artifact.read("ir.txt") == b"module {\n}\n"
        assert artifact.sections["reference"].config == {"chunk": 16}
        embedding = artifact.tensor("model.embed_tokens.weight")
        assert embedding.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(
            embedding.astype(np.float32).ravel(), np.arange(-4, 4, 0.25, dtype=np.float32)
        )
        scale = artifact.tensor("model.layers.0.mlp.up_proj.weight.scale")
        assert scale.ravel().tolist() == [0.5, 0.25, -1.5, 3.0]


def test_this_version_still_writes_format_1_the_same_way(tmp_path: Path):
    spec = importlib.util.spec_from_file_location("make_v1", FORMATS / "make_v1.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = script.write(tmp_path / "v1.ark")
    assert written.read_bytes() == (FORMATS / "v1.ark").read_bytes()
