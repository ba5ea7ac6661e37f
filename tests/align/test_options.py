"""How an artifact was built is read from it, exceptions for single matrices included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from arkinfer.align.options import options_of
from arkinfer.align.report import Report
from arkinfer.artifact import open_artifact
from arkinfer.compiler.build import build
from arkinfer.frontend.checkpoint import open_checkpoint

EXCEPTIONS = {"model.layers.0.mlp.*": "int8-g64", "model.layers.1.self_attn.k_proj": "int8-g32"}


@pytest.fixture(scope="module")
def mixed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixed") / "mixed.ark"
    build(checkpoint, quant="int4-g32", overrides=EXCEPTIONS, output=path, backend="reference")
    return path


def test_exceptions_are_found_again(mixed: Path, checkpoint: Path) -> None:
    with open_artifact(mixed) as artifact, open_checkpoint(checkpoint) as source:
        options = options_of(artifact, artifact.sections["reference"], source)
    assert {name: scheme.name for name, scheme in options.overrides} == {
        "model.layers.0.mlp.gate_proj": "int8-g64",
        "model.layers.0.mlp.up_proj": "int8-g64",
        "model.layers.0.mlp.down_proj": "int8-g64",
        "model.layers.1.self_attn.k_proj": "int8-g32",
    }


def test_without_exceptions_there_are_none(int4: Path, checkpoint: Path) -> None:
    with open_artifact(int4) as artifact, open_checkpoint(checkpoint) as source:
        options = options_of(artifact, artifact.sections["reference"], source)
    assert options.overrides == ()


def test_a_file_with_exceptions_is_aligned(mixed: Path, aligned: Callable[..., Report]) -> None:
    assert aligned(mixed).aligned
