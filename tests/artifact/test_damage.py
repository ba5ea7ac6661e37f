"""Flipped bits and cut ends of the packaged demo model, spread over the whole file: all refused.

The fast suite takes a sample, the slow one a thousand bits and two hundred lengths; each also of
a signed file.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from arkinfer.artifact import verify_artifact
from arkinfer.artifact.minisign import parse_secret_key
from arkinfer.artifact.sign import sign_artifact
from arkinfer.errors import ArtifactError
from tests.artifact.test_minisign import SECRET

DEMO = Path(__file__).parents[2] / "arkinfer" / "demo" / "demo.ark"
AMOUNTS = [
    pytest.param(30, 40, id="sample"),
    pytest.param(1000, 200, id="all", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=["unsigned", "signed"])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copy(DEMO, tmp_path_factory.mktemp("damage") / f"{request.param}.ark"))
    path.chmod(0o644)
    if request.param == "signed":
        sign_artifact(path, parse_secret_key(SECRET))
    return path


def spread(count: int, size: int, seed: int) -> list[int]:
    """One random number in each of `count` equal parts of [0, size)."""
    places = np.arange(count) + np.random.default_rng(seed).random(count)
    return (places * size / count).astype(np.int64).tolist()


@pytest.mark.parametrize(("bits", "lengths"), AMOUNTS)
def test_a_flipped_bit_is_refused(demo: Path, bits: int, lengths: int):
    size = demo.stat().st_size
    with demo.open("r+b", buffering=0) as file:
        for bit in spread(bits, 8 * size, seed=1):
            byte = os.pread(file.fileno(), 1, bit // 8)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1 << bit % 8]), bit // 8)
            with pytest.raises(ArtifactError, match=r'" is (damaged|not an \.ark file)'):
                verify_artifact(demo)
            os.pwrite(file.fileno(), byte, bit // 8)
    verify_artifact(demo)


@pytest.mark.parametrize(("bits", "lengths"), AMOUNTS)
def test_a_cut_end_is_refused(demo: Path, tmp_path: Path, bits: int, lengths: int):
    path = Path(shutil.copy(demo, tmp_path / "cut.ark"))
    for length in reversed(spread(lengths, demo.stat().st_size, seed=2)):
        os.truncate(path, length)
        with pytest.raises(ArtifactError, match=r'" is (damaged|not an \.ark file)'):
            verify_artifact(path)
