"""Makes a folder out of which programs of 64-bit ARM run here.

`python -m tests.arm64.make_root FOLDER`. It gets an emulator of processes (`qemu`), Debian's Python
and C library (`system/`), and the packages that the runner needs (`packages/`), all unpacked, none
installed: it takes no rights of root. Knows no test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKOUT = Path(__file__).parents[2]
SYSTEM = ("python3", "libstdc++6")
QEMU = ("qemu-user-static", "qemu-user")
"""Debian 12 has programs that need no library in the first, later ones in the second."""
WHEELS = [f"manylinux_2_{minor}_aarch64" for minor in range(35, 16, -1)]
TRY = "import numpy, platform, tokenizers; print(platform.machine())"

APT = """\
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "";
APT::Install-Recommends "false";
Debug::NoLocking "true";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
"""


class CannotError(Exception):
    """What is missing here, in a sentence."""


def make(folder: Path) -> None:
    """Makes the folder anew; a folder that is there is whole.

    Raises:
        CannotError: a program or a package is not to be had here.
    """
    for program in ("apt-get", "dpkg-deb", "dpkg"):
        if shutil.which(program) is None:
            raise CannotError(f"there is no {program}: this takes Debian's packages")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        qemu(part)
        system(part)
        packages(part)
        command = [part / "qemu", "-L", part / "system", python(part), "-c", TRY]
        said = run(command, part, {"PYTHONPATH": str(part / "packages")})
        if said.strip() != "aarch64":
            raise CannotError(f"Python under qemu says {said.strip()!r}")
        for lists in part.glob("apt-*"):
            shutil.rmtree(lists)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def qemu(part: Path) -> None:
    """`part/qemu`: the emulator that is installed here, else Debian's."""
    for name in ("qemu-aarch64", "qemu-aarch64-static"):
        if found := shutil.which(name):
            (part / "qemu").symlink_to(found)
            return
    arch = run(["dpkg", "--print-architecture"], part).strip()
    apt = Apt(part / "apt-here", arch)
    for package in QEMU:
        with tarfile.open(fileobj=BytesIO(apt.files(package))) as archive:
            programs = [m for m in archive if m.name.startswith("./usr/bin/qemu-aarch64")]
            for member in programs:
                content = archive.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                (part / "qemu").write_bytes(content.read())
                (part / "qemu").chmod(0o755)
                command = [part / "qemu", "--version"]
                if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                    return
    raise CannotError("none of Debian's packages has a qemu-aarch64 that runs here")


def system(part: Path) -> None:
    """`part/system`: the files of Debian's packages for arm64."""
    Apt(part / "apt-arm64", "arm64").unpack(SYSTEM, part / "system")


def packages(part: Path) -> None:
    """`part/packages`: what pyproject.toml says that arkinfer needs on a device."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    version = python(part).name.removeprefix("python")
    platforms = [word for tag in WHEELS for word in ("--platform", tag)]
    run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--target", part / "packages", "--only-binary", ":all:", "--implementation", "cp",
         "--python-version", version, *platforms, "-c", CHECKOUT / "constraints.txt",
         *project["dependencies"]],
        part,
    )  # fmt: skip


def python(part: Path) -> Path:
    """The system's Python, by its own name: "python3" is a link that only the system can follow."""
    found = sorted((part / "system" / "usr" / "bin").glob("python3.[0-9]*"))
    if not found:
        raise CannotError("Debian's package python3 has no Python")
    return found[0]


class Apt:
    """apt-get with lists of its own, for one architecture, as if nothing were installed."""

    def __init__(self, folder: Path, arch: str) -> None:
        self._folder = folder
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "apt.conf").write_text(APT.format(folder=folder.resolve(), arch=arch))
        self._apt("update", "-o", "APT::Update::Error-Mode=any")

    def unpack(self, names: tuple[str, ...], to: Path) -> None:
        """The files of packages, and of all packages that these need."""
        self._apt("install", "--yes", "--download-only", *names)
        for file in sorted((self._folder / "cache" / "archives").glob("*.deb")):
            run(["dpkg-deb", "-x", file, to], self._folder)

    def files(self, name: str) -> bytes:
        """A tar archive of the files of one package."""
        folder = self._folder / name
        folder.mkdir()
        self._apt("download", name, folder=folder)
        (file,) = folder.glob("*.deb")
        command = ["dpkg-deb", "--fsys-tarfile", file]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout

    def _apt(self, *words: str, folder: Path | None = None) -> None:
        environ = {**os.environ, "APT_CONFIG": str(self._folder / "apt.conf")}
        run(["apt-get", "-qq", *words], folder or self._folder, environ)


def run(
    command: list[str | Path] | list[str], folder: Path, environ: dict[str, str] | None = None
) -> str:
    """What a program prints.

    Raises:
        CannotError: it fails; says which, and what it said last.
    """
    done = subprocess.run(
        [str(Path(word).resolve()) if isinstance(word, Path) else word for word in command],
        cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        last = said[-1] if said else f"exit code {done.returncode}"
        raise CannotError(f"{Path(command[0]).name} failed: {last}")
    return done.stdout


if __name__ == "__main__":
    try:
        make(Path(sys.argv[1]).absolute())
    except CannotError as error:
        sys.exit(f"A system for arm64 cannot be made here: {error}.")
