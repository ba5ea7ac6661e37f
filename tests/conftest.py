"""What holds for all tests: Ctrl-C reaches the processes that they start; no build is cached
across tests, where it could hide a fault that one of them plants, and none for the user; no example
of a property test fails because the machine is busy; threads that wait leave their core to others.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("arkinfer", deadline=None)
settings.load_profile("arkinfer")

# On a busy machine threads that spin while they wait are most of what small products cost. Tests of
# what numbers of threads change set them themselves. Read when torch and numpy are imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell starts background jobs, such as CI's, with Ctrl-C ignored, and children would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for caches; fixtures that outlive a test share the one in it."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ARKINFER_CACHE_LIMIT", raising=False)
        patch.setenv("ARKINFER_CACHE", str(folder / "shared"))
        yield folder


@pytest.fixture(autouse=True)
def own_cache(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the builds of this test keep things; made by the first one."""
    folder = caches / os.urandom(6).hex()
    monkeypatch.setenv("ARKINFER_CACHE", str(folder))
    return folder
