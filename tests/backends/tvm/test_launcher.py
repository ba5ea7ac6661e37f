"""The launcher alone, under the thread sanitizer: no race, no lost or doubled job, no hang."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("launcher_races.c")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("races")
    launcher = resources.files("arkinfer_tvm").joinpath("launcher.c").read_bytes()
    (folder / "launcher.c").write_bytes(launcher)
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Werror", "-pthread"]
    command = ["cc", *flags, "-fsanitize=thread", f"-I{folder}", str(SOURCE), "-o", "races"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if "tsan" in done.stderr:
        pytest.skip("the C compiler has no thread sanitizer")
    assert done.returncode == 0, done.stderr
    return folder / "races"


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_no_race_and_no_wrong_sum(program: Path, threads: int) -> None:
    done = subprocess.run(
        [str(program), str(threads), "60"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{threads} threads, call 4: ValueError: row too long\n"
