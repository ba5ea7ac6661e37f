"""Disks that are full, small, read-only or gone: an error that says how much is missing, no file,
nothing left.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arkinfer.compiler import cache as cache_module
from arkinfer.compiler.build import build
from arkinfer.compiler.cache import Cache
from arkinfer.errors import ResourceError
from tests.compiler.conftest import Traced

ROOT = Path(__file__).parents[2]
POINTS = 20
FULL = re.compile(
    r'There is no room to write "[^"]+m\.ark"; at least ([\d,]+) more bytes are needed\. '
    r"(?:No space left on device|Disk quota exceeded); [\d,]+ bytes are free there\. "
    r"Free some space, raise the limit, or name an output file on another disk\."
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "m.ark"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_a_disk_that_fills_at_twenty_points(
    traced: Path, once: Traced, out: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    """Writes fail beyond a size, as they do on a disk; the last point lacks one byte."""
    size = len(once.artifact)
    real, limit = os.pwrite, 0

    def pwrite(file: int, data: memoryview, offset: int) -> int:
        if offset >= limit and offset > 1024:  # the journal is small
            raise OSError(code, os.strerror(code))
        return real(file, data[: max(1, limit - offset)] if offset + len(data) > limit else data,
                    offset)  # fmt: skip

    monkeypatch.setattr(os, "pwrite", pwrite)
    for point in range(1, POINTS + 1):
        limit = (size - 1) * point // POINTS
        out.write_bytes(b"an old file")
        with pytest.raises(ResourceError) as caught:
            build(traced, output=out, backend="onnxruntime")
        match = FULL.fullmatch(str(caught.value))
        assert match, str(caught.value)
        missing = int(match[1].replace(",", ""))
        assert 0 < missing <= size - limit
        assert missing > 700_000 - limit  # the weights alone, which are known before
        assert os.listdir(out.parent) == ["m.ark"]
        assert out.read_bytes() == b"an old file"
    limit = size
    assert build(traced, output=out, backend="onnxruntime").size == size


SMALL_DISK = """
import os, shutil, subprocess, sys
from arkinfer.compiler import build as driver
from arkinfer.errors import ResourceError
model, folder, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.makedirs(folder, exist_ok=True)
driver.check_disk = lambda needed, path: None  # it fills while the build runs
for point in range(1, 21):
    room = size * point // 21
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "none", folder], check=True)
    try:
        driver.build(model, output=os.path.join(folder, "m.ark"), backend="onnxruntime")
        print("built", room)
    except ResourceError as error:
        print(error)
    print(os.listdir(folder))
    subprocess.run(["umount", folder], check=True)
"""


def test_twenty_small_disks(traced: Path, once: Traced, tmp_path: Path):
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run(
            [unshare, "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True
        ).returncode
    ):
        pytest.skip("a small disk cannot be mounted here")
    size = len(once.artifact)
    done = subprocess.run(
        [unshare, "-rm", sys.executable, "-c", SMALL_DISK, str(traced), str(tmp_path / "disk"),
         str(size)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1::2] == ["[]"] * POINTS
    assert [line for line in lines[::2] if not FULL.fullmatch(line)] == []
    assert len(lines) == 2 * POINTS


def test_a_build_that_cannot_fit_is_refused_at_once(
    traced: Path, out: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 500_000)
    )
    with pytest.raises(ResourceError) as caught:
        build(traced, output=out, backend="onnxruntime")
    assert re.fullmatch(
        rf'There is no room to write "{out}": it takes [\d,]+ bytes at least\. 500,000 bytes are '
        r"free there, [\d,]+ are missing\. Free some space, or name an output file on another "
        r"disk\.",
        str(caught.value),
    )
    assert os.listdir(out.parent) == []
    assert list((own_cache / "weights").iterdir()) == []


def test_a_cache_whose_disk_is_full_costs_a_remark(
    traced: Path, once: Traced, out: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module, "_write", full)
    report = build(traced, output=out, backend="onnxruntime")
    assert report.notes == (f'The cache "{own_cache}" takes no more: No space left on device.',)
    assert out.read_bytes() == once.artifact


def test_a_limit_below_one_build_still_helps_the_next(
    traced: Path, once: Traced, out: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
):
    monkeypatch.setenv("ARKINFER_CACHE_LIMIT", "600kB")
    first, second = (
        build(traced, output=out, backend="onnxruntime"),
        build(traced, output=out, backend="onnxruntime"),
    )
    assert 0 < second.reused < sum(first.schemes.values())
    assert sum(entry.size for entry in Cache(own_cache).entries()) <= 600_000
    assert "takes no more: it holds" in second.notes[0]
    assert out.read_bytes() == once.artifact


def test_a_read_only_folder_is_told_before_the_work_begins(
    traced: Path, out: Path, monkeypatch: pytest.MonkeyPatch
):
    real = os.open

    def refused(path: object, flags: int, *rest: int, **options: int) -> int:
        if flags & os.O_CREAT and Path(str(path)).parent == out.parent:  # root may write anywhere
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr("arkinfer.compiler.build.prepare", None)
    with pytest.raises(ResourceError) as caught:
        build(traced, output=out, backend="onnxruntime")
    assert str(caught.value) == (
        f'"{out}" cannot be written. The folder "{out.parent}" may not be written: Read-only file '
        "system. Name an output file in a folder of yours, or change the permissions."
    )


def test_a_folder_that_vanishes(traced: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    real = os.fsync

    def fsync(file: int) -> None:
        real(file)
        shutil.rmtree(out.parent, ignore_errors=True)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ResourceError) as caught:
        build(traced, output=out, backend="onnxruntime")
    assert str(caught.value) == (
        f'"{out}" cannot be written. The folder "{out.parent}" is gone; it was there when the work '
        "began. Make it again, or name an output file in a folder that stays."
    )
    assert not out.parent.exists()
