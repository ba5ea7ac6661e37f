"""The tiny model as a checkpoint, and as a cache keeps its graph: tracing takes the longest."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from arkinfer.compiler.build import build
from arkinfer.testing import make_checkpoint


@dataclass(frozen=True)
class Traced:
    """A checkpoint that was built once.

    Attributes:
        checkpoint: of the preset "tiny"; not to be changed.
        artifact: what `arkinfer.build(checkpoint)` makes of it, int4.
        graphs: the folder of a cache that has its graph.
    """

    checkpoint: Path
    artifact: bytes
    graphs: Path


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    folder = tmp_path_factory.mktemp("once")
    checkpoint = make_checkpoint("tiny", 0, folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARKINFER_CACHE", str(folder / "cache"))
        build(checkpoint, output=folder / "m.ark", backend="onnxruntime")
    return Traced(checkpoint, (folder / "m.ark").read_bytes(), folder / "cache" / "graphs")


@pytest.fixture
def traced(own_cache: Path, once: Traced) -> Path:
    """The checkpoint, when this test's cache has its graph."""
    shutil.copytree(once.graphs, own_cache / "graphs")
    return once.checkpoint
