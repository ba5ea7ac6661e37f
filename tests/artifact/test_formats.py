"""Artifacts of every released format stay readable; each was written once and is never redone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import ml_dtypes
import numpy as np

from arkinfer.artifact import open_artifact, verify_artifact

FORMATS = Path(__file__).parent / "formats"
V1_SIGNED_DIGEST = "fd54175af92367c6d4489bb418844c735fb873656e0f227a37acdee0e731a096"
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


def test_format_1_with_golden_vectors_and_a_signature():
    """Read, replayed, and its signature checked, as long as there is a format 1."""
    from arkinfer.artifact.minisign import parse_public_key
    from arkinfer.verify.checks import checks

    key = parse_public_key("RWRQUyh8NzHO5bQgeZnRPAjy7okNquxebyGoyNehiaCuv4PI517CQVWN")
    found = list(checks(FORMATS / "v1-signed.ark", key=key))
    assert [check.name for check in found] == [
        "integrity", "signature", "reference", "values", "source",
    ]  # fmt: skip
    assert all(check.ok for check in found)
    assert found[0].facts["digest"] == V1_SIGNED_DIGEST
    assert found[1].facts["comment"] == "format 1, signed"
