"""The wheel, and an environment of a device: the wheel, its dependencies, and no torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("dist")
    pip("wheel", ROOT, "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", folder)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> str:
    with ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


def needed(metadata: str, extra: str) -> list[Distribution]:
    """The installed distributions that the wheel with an extra needs, with all they need."""
    found: dict[str, Distribution] = {}
    open_ends = [(line, extra) for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.M)]
    while open_ends:
        text, extra = open_ends.pop()
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found:
            continue
        found[name] = there = distribution(wanted.name)
        assert wanted.specifier.contains(there.version, prereleases=True), (text, there.version)
        open_ends += [(line, " ".join(wanted.extras)) for line in there.requires or ()]
    return list(found.values())


def top_levels(one: Distribution) -> Iterator[Path]:
    """What a distribution put into site-packages: folders and files."""
    names = {
        file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")
    }
    for name in sorted(names):
        yield Path(str(one.locate_file(name)))


class Device:
    """A Python environment without anything of the host half."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")
        (self.site,) = folder.glob("lib/python*/site-packages")

    def run(self, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
        """Runs a command of the environment in a folder."""
        command = [str(self.bin / str(words[0])), *map(str, words[1:])]
        unset = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        environment = {k: v for k, v in os.environ.items() if k not in unset}
        return subprocess.run(
            command, cwd=folder, env={**environment, "TERM": "dumb"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


@pytest.fixture(scope="session")
def device(wheel: Path, metadata: str, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """The wheel installed as `pip install arkinfer[ort]` does, from what is installed here."""
    device = Device(tmp_path_factory.mktemp("device") / "venv")
    for one in needed(metadata, "ort"):
        for path in top_levels(one):
            link = device.site / path.name
            if not link.exists():
                link.symlink_to(path)
    python = device.bin / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", "-q", wheel)
    return device
