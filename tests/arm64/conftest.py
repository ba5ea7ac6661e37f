"""The processors of 64-bit ARM that tests run on: `make arm64-root` makes the folder, `make arm64`
runs these tests, and without the folder they say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

from arkinfer.targets import Target, load_target
from tests.arm64.emulator import ROOT, Emulator
from tests.arm64.kernels import RemoteBound, RemoteLibrary
from tests.arm64.remote import Remote, RemoteExecutor
from tests.backends.expectations import QUICK
from tests.backends.lab import Lab
from tests.packaging.conftest import wheel

__all__ = ["wheel"]

PROCESSORS = {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "max"}
"""By instruction set, a processor that has it; the first two, those of a Raspberry Pi 4 and 5, have
none of the later ones."""
DOTPROD = PROCESSORS["dotprod"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder is for `make arm64`; of the conformance suite's models, a few."""
    here = Path(__file__).parent
    kept: list[pytest.Item] = []
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.arm64)
            name = getattr(getattr(item, "callspec", None), "params", {}).get("name")
            if item.path.name == "test_conformance.py" and name not in (None, *QUICK["tvm"]):
                continue
        kept.append(item)
    items[:] = kept


@pytest.fixture(scope="session")
def packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """arkinfer as pip would install it on the device."""
    if not ROOT.is_dir():
        pytest.skip("there is no system for arm64: make arm64-root")
    folder = tmp_path_factory.mktemp("arkinfer")
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def emulator(packages: Path) -> Emulator:
    return Emulator(DOTPROD, (packages,))


@pytest.fixture(scope="session")
def remote(emulator: Emulator) -> Iterator[Remote]:
    remote = Remote(emulator)
    yield remote
    remote.close()


@contextmanager
def on_processor(emulator: Emulator, isa: str, module: ModuleType) -> Iterator[None]:
    """While it is entered, kernels that a test module loads run on a processor with that set."""
    remote = Remote(replace(emulator, cpu=PROCESSORS[isa]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Library", partial(RemoteLibrary, remote))
        patch.setattr(module, "Bound", RemoteBound)
        yield
    remote.close()


class ArmLab(Lab):
    """Compiles for ARM and runs there; the oracle computes here."""

    def __init__(self, folder: Path, remote: Remote) -> None:
        super().__init__(folder)
        self._remote = remote

    def target(self, backend: str) -> Target:
        return load_target("arm64-dotprod")

    def executor(self, backend: str) -> RemoteExecutor:
        return RemoteExecutor(self._remote, "arkinfer_tvm.executor:TvmExecutor", backend)


@pytest.fixture(scope="session")
def lab(remote: Remote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArmLab]:
    lab = ArmLab(Path(tmp_path_factory.mktemp("lab")), remote)
    yield lab
    lab.close()


@pytest.fixture
def backend(lab: ArmLab) -> str:
    return "tvm"
