"""An artifact that the bigram executor runs, also in other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.artifacts import write_artifact, write_plugin


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "site"))
    return write_artifact(tmp_path / "m.ark")
