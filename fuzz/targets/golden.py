"""golden.json, as `arkinfer verify` reads it."""

from __future__ import annotations

import json

from arkinfer.artifact import open_artifact
from arkinfer.errors import ArtifactError
from arkinfer.verify.fingerprint import PRINTS
from arkinfer.verify.golden import ENTRY, read_golden
from fuzz.files import file, refusing
from fuzz.targets.artifact import around

DICTIONARY = ["format", "prompts", "answers", "values", "weights", "prompt", "rows", "reference",
              "source", "position", "logsumexp", "spread", "ids", "logits", "value", "length",
              "print", "short", "long"]  # fmt: skip
IS_JSON = True
LENGTH = 4096
_VOCABULARY = 8


def seeds() -> list[bytes]:
    row = {"position": 1, "logsumexp": 1.5, "spread": 1.0, "ids": [1, 2], "logits": [1.0, 0.5]}
    golden = {
        "format": 1,
        "prompts": {"short": [1, 2], "long": [3, 4, 5]},
        "answers": [
            {"weights": weights, "prompt": prompt, "rows": [row]}
            for weights in ("reference", "source") for prompt in ("short", "long")
        ],
        "values": {"reference": [{"value": "0", "length": 1.0, "print": [0.5] * PRINTS},
                                 {"value": "1", "print": [0.5] * PRINTS}]},
    }  # fmt: skip
    return [json.dumps(golden).encode()]


def one(data: bytes) -> None:
    with open_artifact(file("g.ark", _artifact(data))) as artifact, refusing(ArtifactError):
        golden = read_golden(artifact, _VOCABULARY)
        assert golden is not None, "golden.json was not found"


def _artifact(golden: bytes) -> bytes:
    manifest = {
        "format": 1, "arkinfer": "0", "requires": [],
        "model": {"name": "m", "architecture": "a"}, "context": 8, "quant": "none", "dtype": "fp32",
        "target": {"name": "cpu"}, "tokens": {"bos": None, "stop": []}, "generation": {},
        "source": {"files": {}}, "tensors": {}, "sections": [],
        "entries": {ENTRY: {"size": len(golden), "sha256": "0" * 64}},
    }  # fmt: skip
    return around(json.dumps(manifest).encode(), {ENTRY: golden})
