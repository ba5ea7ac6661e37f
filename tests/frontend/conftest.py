"""Checkpoints to read and to damage."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arkinfer.testing import make_checkpoint

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_checkpoint("tiny", 0, tmp_path / "tiny")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_checkpoint("tiny", 0, tmp_path / "sharded", shard_bytes=900_000)


@pytest.fixture
def edit_header() -> Callable[[Path, Edit], None]:
    """Changes the JSON header of a safetensors file, leaving its data as it is."""

    def edit(file: Path, change: Edit) -> None:
        content = file.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return edit


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """Sets keys of a checkpoint's config.json (None removes one)."""

    def edit(folder: Path, **changes: Any) -> None:
        raw = {**json.loads((folder / "config.json").read_text()), **changes}
        raw = {key: value for key, value in raw.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(raw))

    return edit
