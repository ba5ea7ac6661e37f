"""What the writer leaves on the disk: the right bytes, or nothing."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from arkinfer.artifact import DTYPES, ArtifactWriter, Section, open_artifact, verify_artifact
from arkinfer.errors import InternalError, ResourceError, UsageError

Write = Callable[[Path], Path]
Facts = dict[str, Any]
ROOT = Path(__file__).parents[2]
PRELUDE = """
import os, resource, signal, sys, tempfile
import numpy as np
from arkinfer.artifact import ArtifactWriter
from arkinfer.errors import ArkError
FACTS = {
    "model": {"name": "tiny", "architecture": "X"}, "context": 8, "quant": "none",
    "dtype": "fp32", "target": {"name": "cpu"}, "tokens": {"bos": None, "stop": []},
}
path = sys.argv[1]
def blocks(count):
    for _ in range(count):
        yield np.ones((1, 1 << 20), np.uint8)
"""


def run(script: str, path: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Runs a script on `path` in a process of its own."""
    command = [*before, sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_same_inputs_give_same_bytes(tmp_path: Path, write_small: Write):
    first = write_small(tmp_path / "a.ark").read_bytes()
    second = write_small(tmp_path / "b.ark").read_bytes()
    assert first == second


def test_facts_in_another_order_give_the_same_bytes(tmp_path: Path, facts: Facts):
    for name, given in (("a", facts), ("b", dict(reversed(facts.items())))):
        with ArtifactWriter(tmp_path / name) as writer:
            writer.commit(given)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_zipfile_and_unzip_read_it(small: Path):
    with zipfile.ZipFile(small) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "ir.txt", "weights/w.codes", "weights/norm", "backends/reference/plan.json",
            "manifest.json",
        ]  # fmt: skip
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == 0o100644
        with open_artifact(small) as artifact:
            for entry in artifact.entries():
                assert entry.offset % 4096 == 0
                assert archive.read(entry.name) == artifact.read(entry.name)
    if unzip := shutil.which("unzip"):
        test = subprocess.run([unzip, "-t", small], capture_output=True, text=True)
        assert (test.returncode, test.stderr) == (0, "")
        assert "No errors detected" in test.stdout
        listing = subprocess.run([unzip, "-l", small], capture_output=True, text=True)
        assert (listing.returncode, listing.stderr) == (0, "")
        assert "weights/w.codes" in listing.stdout


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (2, 3, 1, 5)])
def test_every_dtype_reads_back(tmp_path: Path, facts: Facts, dtype: str, shape: tuple[int, ...]):
    rng = np.random.default_rng(len(shape))
    tensor = np.asarray(rng.integers(0, 2, shape)).astype(getattr(ml_dtypes, dtype, dtype))
    with ArtifactWriter(tmp_path / "m.ark") as writer:
        entry = writer.add_tensor("t", dtype, shape, [tensor])
        assert writer.has_tensor("t")
        assert not writer.has_tensor("u")
        assert writer.tensor("t") == entry
        assert entry.size == tensor.nbytes
        writer.commit(facts)
    with open_artifact(tmp_path / "m.ark") as artifact:
        found = artifact.tensor("t")
        assert found.dtype == tensor.dtype
        assert found.shape == shape
        np.testing.assert_array_equal(found, tensor)


def test_chunks_may_be_large_strided_and_uneven(tmp_path: Path, facts: Facts):
    whole = np.random.default_rng(0).integers(0, 256, (9, 5 << 20), dtype=np.uint8)
    strided = np.asfortranarray(whole[7:, :1000])
    with ArtifactWriter(tmp_path / "m.ark") as writer:
        writer.add_tensor("t", "uint8", whole.shape, iter([whole[:4], whole[4:5], whole[5:]]))
        writer.add_tensor("s", "uint8", strided.shape, [strided[:1], strided[1:]])
        writer.commit(facts)
    with open_artifact(tmp_path / "m.ark") as artifact:
        assert (artifact.tensor("t") == whole).all()
        assert (artifact.tensor("s") == strided).all()
    verify_artifact(tmp_path / "m.ark")


def test_memory_stays_bounded(tmp_path: Path):
    script = """
        # not ru_maxrss, in which Linux counts the parent's peak, too
        def peak():
            return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10
        from arkinfer.artifact import open_artifact, verify_artifact
        import ml_dtypes
        before = peak()
        with ArtifactWriter(path) as writer:
            writer.add_tensor("t", "uint8", (300, 1 << 20), blocks(300))
            writer.commit(FACTS)
        verify_artifact(path)
        print(peak() - before)
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc to read the peak memory from")
    result = run(script, tmp_path / "m.ark")
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 48  # MiB, for 300 MiB written and verified


BROKEN: list[tuple[Callable[[ArtifactWriter], object], str]] = [
    (lambda w: w.add_tensor("t", "uint8", (3,), [np.zeros(2, np.uint8)]), "2 bytes instead of 3"),
    (lambda w: w.add_tensor("t", "uint8", (1,), [np.zeros(2, np.uint8)]), "exceed its 1 bytes"),
    (lambda w: w.add_tensor("t", "int8", (2,), [np.zeros(2, np.uint8)]), "uint8 instead of int8"),
    (lambda w: w.add_tensor("t", "float31", (2,), []), 'unknown dtype "float31"'),
    (lambda w: w.add_tensor("t", "int8", (0, 2), []), "empty shape"),
    (lambda w: w.add_tensor("../t", "int8", (1,), [np.zeros(1, np.int8)]), '".." part'),
    (lambda w: w.add_bytes("ir.txt", b""), 'The entry "ir.txt" was added twice'),
    (lambda w: w.add_tensor("w", "int8", (1,), [np.zeros(1, np.int8)]), "added twice"),
    (lambda w: w.add_bytes("manifest.json", b""), "plain bytes"),
    (lambda w: w.add_bytes("weights/x", b""), "plain bytes"),
    (lambda w: w.add_bytes("/abs", b""), "cannot name an entry"),
    (lambda w: w.tensor("nope"), 'The tensor "nope" was not added'),
    (lambda w: w.add_section(Section("a", {}, {}, ())), 'Two sections are for "a"'),
    (lambda w: w.commit({}), "model is missing"),
    (lambda w: w.commit({"context": object()}), "not JSON serializable"),
    (lambda w: w.commit({"context": float("nan")}), "not JSON compliant"),
]


@pytest.mark.parametrize(("act", "text"), BROKEN, ids=[text for _, text in BROKEN])
def test_broken_contracts_are_internal_errors(tmp_path: Path, act: Any, text: str):
    with ArtifactWriter(tmp_path / "m.ark") as writer:
        writer.add_bytes("ir.txt", b"x")
        writer.add_tensor("w", "int8", (1,), [np.zeros(1, np.int8)])
        writer.add_section(Section("a", {}, {}, ()))
        with pytest.raises(InternalError, match=text.replace("(", r"\(")):
            act(writer)
    assert os.listdir(tmp_path) == []


def test_a_section_must_name_tensors_that_exist(tmp_path: Path, facts: Facts):
    with ArtifactWriter(tmp_path / "m.ark") as writer:
        writer.add_section(Section("a", {}, {}, ("gone",)))
        with pytest.raises(InternalError, match='section "a" names "gone", which is no tensor'):
            writer.commit(facts)


def test_an_entry_that_failed_leaves_no_trace(tmp_path: Path, facts: Facts):
    def fails() -> Iterator[Any]:
        yield np.full((2, 9000), 255, np.uint8)
        raise RuntimeError("the checkpoint went away")

    for name, fail in (("a.ark", True), ("b.ark", False)):
        with ArtifactWriter(tmp_path / name) as writer:
            if fail:
                with pytest.raises(RuntimeError):
                    writer.add_tensor("t", "uint8", (3, 9000), fails())
                assert not writer.has_tensor("t")
            writer.add_bytes("x", b"x")
            writer.commit(facts)
    assert (tmp_path / "a.ark").read_bytes() == (tmp_path / "b.ark").read_bytes()


def test_nothing_is_left_without_commit(small: Path):
    old = small.read_bytes()

    def interrupted() -> Iterator[Any]:
        yield np.zeros(100_000, np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ArtifactWriter(small) as writer:
        writer.add_tensor("t", "uint8", (200_000,), interrupted())
    with ArtifactWriter(small):
        assert len(os.listdir(small.parent)) == 2
    assert os.listdir(small.parent) == [small.name]
    assert small.read_bytes() == old


def test_a_closed_writer_says_so(tmp_path: Path, facts: Facts):
    with ArtifactWriter(tmp_path / "m.ark") as writer:
        writer.commit(facts)
        for act in (lambda: writer.add_bytes("x", b""), lambda: writer.commit(facts)):
            with pytest.raises(InternalError, match="already closed"):
                act()
    verify_artifact(tmp_path / "m.ark")


def test_a_link_is_followed_and_the_umask_honoured(tmp_path: Path, write_small: Write):
    (tmp_path / "to").mkdir()
    (tmp_path / "link.ark").symlink_to(tmp_path / "to" / "m.ark")
    write_small(tmp_path / "link.ark")
    assert (tmp_path / "link.ark").is_symlink()
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "to" / "m.ark").stat().st_mode & 0o777 == 0o666 & ~mask


def test_spool_holds_the_temporary_file(tmp_path: Path, facts: Facts):
    (tmp_path / "spool").mkdir()
    with ArtifactWriter(tmp_path / "m.ark", spool=tmp_path / "spool") as writer:
        assert len(os.listdir(tmp_path / "spool")) == 1
        assert os.listdir(tmp_path) == ["spool"]
        writer.commit(facts)
    assert os.listdir(tmp_path / "spool") == []
    verify_artifact(tmp_path / "m.ark")


def test_wrong_places_are_the_users_mistake(tmp_path: Path):
    with pytest.raises(UsageError) as caught:
        ArtifactWriter(tmp_path / "no" / "m.ark")
    assert str(caught.value) == (
        f'There is no folder "{tmp_path}/no". "m.ark" cannot be written there. '
        "Make the folder, or name another output file."
    )
    with pytest.raises(UsageError, match="is not an ordinary file"):
        ArtifactWriter(tmp_path)
    with pytest.raises(UsageError, match="is not an ordinary file"):
        ArtifactWriter("/dev/null")


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(
    small: Path, write_small: Write
):
    old = small.read_bytes()
    script = """
        writer = ArtifactWriter(path)
        writer.add_tensor("t", "uint8", (3, 1 << 20), blocks(3))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(script, small).returncode == -signal.SIGKILL
    assert small.read_bytes() == old
    left = [name for name in os.listdir(small.parent) if name != small.name]
    assert len(left) == 1
    assert left[0].startswith(".small.ark.")
    assert left[0].endswith(".tmp")
    write_small(small)
    assert os.listdir(small.parent) == [small.name]


def test_a_living_writers_file_is_not_stale(tmp_path: Path, facts: Facts):
    path = tmp_path / "m.ark"
    with ArtifactWriter(path) as first, ArtifactWriter(path) as second:
        assert len(os.listdir(tmp_path)) == 2
        first.add_bytes("one", b"1")
        second.commit(facts)
        first.commit(facts)
    with open_artifact(path) as artifact:
        assert "one" in artifact
    assert os.listdir(tmp_path) == ["m.ark"]


FILL = """
    try:
        with ArtifactWriter(path) as writer:
            writer.add_bytes("ir.txt", b"x")
            writer.add_tensor("t", "uint8", (64, 1 << 20), blocks(64))
            writer.commit(FACTS)
    except ArkError as error:
        print(type(error).__name__, error)
    print(os.listdir(os.path.dirname(path)))
"""


def test_a_file_size_limit_is_a_resource_error(small: Path):
    limit = "    resource.setrlimit(resource.RLIMIT_FSIZE, (10 << 20, 10 << 20))\n"
    old = small.read_bytes()
    result = run("\n" + limit + FILL, small)
    assert result.returncode == 0, result.stderr
    assert "ResourceError There is no room to write" in result.stdout
    assert "at least 56,631,296 more bytes are needed. File too large;" in result.stdout
    assert result.stdout.endswith("['small.ark']\n")
    assert small.read_bytes() == old


def test_a_full_disk_is_a_resource_error(tmp_path: Path):
    script = tmp_path / "on_small_disk.sh"
    script.write_text(f'mount -t tmpfs -o size=8m none "{tmp_path}" || exit 77\nexec "$@"\n')
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare to make a small disk with")
    result = run(FILL, tmp_path / "m.ark", unshare, "-rm", "sh", str(script))
    if result.returncode == 77 or result.stderr.startswith("unshare:"):
        pytest.skip("a small disk cannot be mounted here")
    assert result.returncode == 0, result.stderr
    assert "ResourceError There is no room to write" in result.stdout
    assert "more bytes are needed. No space left on device; 0 bytes are free" in result.stdout
    assert result.stdout.endswith("[]\n")


def test_a_read_only_folder_is_a_resource_error(tmp_path: Path):
    script = """
        folder = tempfile.mkdtemp()
        path = os.path.join(folder, "m.ark")
        os.chmod(folder, 0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)  # root may write everywhere
        try:
            ArtifactWriter(path)
        except ArkError as error:
            print(type(error).__name__, str(error).replace(folder, "F"))
        if root:
            os.seteuid(0)
        os.rmdir(folder)  # fails when something was left
    """
    result = run(script, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        'ResourceError "F/m.ark" cannot be written. The folder "F" may not be written: '
        "Permission denied. Name an output file in a folder of yours, or change the permissions.\n"
    )


def test_errors_from_chunks_are_not_taken_for_the_disks(tmp_path: Path):
    def fails() -> Iterator[Any]:
        raise OSError(28, "No space left on device")  # the reader's, not ours
        yield

    with ArtifactWriter(tmp_path / "m.ark") as writer, pytest.raises(OSError, match="No space"):
        writer.add_tensor("t", "uint8", (1,), fails())


def test_no_file_stays_open(tmp_path: Path, facts: Facts):
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc to count open files in")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with ArtifactWriter(tmp_path / "m.ark") as writer:
            writer.commit(facts)
        with open_artifact(tmp_path / "m.ark"):
            pass
        with pytest.raises(ResourceError, match="cannot be opened"):
            open_artifact(tmp_path / ("x" * 300))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
