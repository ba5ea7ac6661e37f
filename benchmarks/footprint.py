"""What the runner takes of a device: disk where it is installed, memory while it runs a file.

    python -m benchmarks.footprint model.ark
    python -m benchmarks.footprint --install

Memory is what the process holds beyond what it has to: the section, which stays in the file's own
pages, and the caches of a context that is full. An install is this checkout with all that it
requires, put into a folder of its own by pip. Knows no backend.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from tempfile import TemporaryDirectory

from arkinfer.artifact import open_artifact
from arkinfer.bench.cases import Case
from arkinfer.bench.process import Worker
from arkinfer.bench.subject import subject
from arkinfer.runtime.registry import check_section

ROOT = Path(__file__).parents[1]
MEMORY_LIMIT = 100 << 20
"""Resident bytes beyond sections and caches."""
INSTALL_LIMIT = 60_000_000
"""Bytes of the runner, with what it requires."""
SHOWN = 8


def measured(path: Path, threads: int | None) -> dict[str, int]:
    """Resident bytes of a process that filled the context of a file, and what they are made of."""
    found = subject(str(path), threads=threads)
    with open_artifact(found.path) as artifact:
        demand = check_section(artifact, artifact.sections[found.backend])
    if demand is None:
        raise SystemExit(f"error: the executor of {found.backend} does not say what caches take")
    with Worker(found.name, found.command(found.context, 0)) as worker:
        loaded = worker.ready()["rss"]["now"]
        worker.seconds(Case("prefill", 0, found.context - 8))
        worker.seconds(Case("decode", found.context - 8, 8))
        peak = worker.memory()["peak"]
    return {
        "with the first token": loaded,
        "at most": peak,
        "section": found.section_bytes,
        "caches": demand.per_token * found.context,
    }


def print_memory(path: Path, threads: int | None) -> None:
    parts = measured(path, threads)
    for name, size in parts.items():
        print(f"{name:21} {size / (1 << 20):8.1f} MiB")
    rest = parts["at most"] - parts["section"] - parts["caches"]
    print(f"{'beyond these':21} {rest / (1 << 20):8.1f} MiB, {_held(rest, MEMORY_LIMIT, 1 << 20)}")


def installed(folder: Path) -> dict[str, int]:
    """Bytes of each distribution in a folder that pip installed into, largest first."""
    sizes = {one.name: _bytes(one) for one in distributions(path=[str(folder)])}
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _bytes(one: Distribution) -> int:
    """With the byte code that pip compiles."""
    paths = [Path(str(one.locate_file(file))) for file in one.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file())


def print_install() -> None:
    with TemporaryDirectory() as folder:
        wheels, target = Path(folder, "wheels"), Path(folder, "packages")
        pip("wheel", "-w", wheels, "-c", ROOT / "constraints.txt", ROOT)
        files = sorted(map(str, wheels.iterdir()))
        pip("install", "--no-index", "--no-deps", "--target", target, *files)
        sizes = installed(target)
        packed = sum(file.stat().st_size for file in wheels.iterdir())
    rest = sum(list(sizes.values())[SHOWN:])
    rows = {**dict(list(sizes.items())[:SHOWN]), f"{len(sizes) - SHOWN} others": rest}
    for name, size in rows.items():
        print(f"{name:21} {size / 1e6:8.1f} MB")
    for name, size in (("wheels", packed), ("installed", sum(sizes.values()))):
        print(f"{name:21} {size / 1e6:8.1f} MB, {_held(size, INSTALL_LIMIT, 10**6)}")


def _held(size: int, limit: int, unit: int) -> str:
    return f"{'within' if size <= limit else 'BEYOND'} the limit of {limit // unit}"


def pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *map(str, words)], check=True)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="an .ark file: memory")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--install", action="store_true", help="disk; needs a network")
    options = parser.parse_args(words)
    if options.file is None and not options.install:
        parser.error("give an .ark file, or --install")
    if options.file is not None:
        print_memory(options.file, options.threads)
    if options.install:
        print_install()


if __name__ == "__main__":
    main()
