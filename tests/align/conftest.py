"""Small models, built for each backend once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arkinfer import ir
from arkinfer.align.report import Report
from arkinfer.align.run import align
from arkinfer.artifact import open_artifact
from arkinfer.compiler import reuse
from arkinfer.compiler.build import build
from arkinfer.compiler.cache import Cache
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.models.config import ModelConfig
from arkinfer.testing import make_checkpoint, preset

SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "rope_scaling": None,
}


@pytest.fixture(scope="session")
def graphs() -> dict[tuple[ModelConfig, int], str]:
    return {}


@pytest.fixture(scope="module", autouse=True)
def traced_once(graphs: dict[tuple[ModelConfig, int], str]) -> Iterator[None]:
    """torch.export is most of a small build, and gives the same graph each time. Other folders'
    tests want to see it done: this ends with each module."""
    honest = reuse.traced

    def traced(config: ModelConfig, context: int, cache: Cache) -> ir.Module:
        key = config, context
        if key not in graphs:
            graphs[key] = ir.print_module(honest(config, context, cache))
        return ir.parse_module(graphs[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reuse, "traced", traced)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(preset("tiny", **SHAPE), 0, tmp_path_factory.mktemp("align") / "tiny")


@pytest.fixture(scope="session")
def int4(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For ONNX Runtime and the reference."""
    path = tmp_path_factory.mktemp("int4") / "int4.ark"
    build(checkpoint, quant="int4-g32", output=path, backend=("onnxruntime", "reference"))
    return path


@pytest.fixture
def aligned(checkpoint: Path) -> Callable[..., Report]:
    """Aligns a file with the model that all of these tests share."""

    def run(path: Path, **options: Any) -> Report:
        with open_artifact(path) as artifact, open_checkpoint(checkpoint) as source:
            return align(artifact, source, model="tiny", **options)

    return run
