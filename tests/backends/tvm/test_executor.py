"""The executor's promises: what it refuses and how it says so, threads, files, memory."""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import subprocess
import sys
import tempfile
import threading
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

from arkinfer.artifact import open_artifact
from arkinfer.errors import ArtifactError, DeviceError, ResourceError, UsageError
from arkinfer.machine.cores import usable_cores
from arkinfer.runtime.contract import Chosen
from arkinfer_tvm import cpu, library
from arkinfer_tvm.cpu import isas_for
from arkinfer_tvm.library import Library, aligned, pointer

Array = np.ndarray[Any, Any]

BLOCKED = """
import sys
BANNED = ("tvm", "tvm_ffi", "torch", "onnxruntime", "arkinfer.ir", "arkinfer.passes",
          "arkinfer.compiler", "arkinfer.frontend")
class Block:
    def find_spec(self, name, path=None, target=None):
        if any(name == b or name.startswith(b + ".") for b in BANNED):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import numpy as np
from arkinfer.artifact import open_artifact
from arkinfer.runtime.contract import LoadOptions
from arkinfer_tvm.executor import TvmExecutor
with open_artifact(sys.argv[1]) as artifact:
    executable = TvmExecutor().open(artifact, artifact.sections["tvm"], LoadOptions(2))
    tokens = np.array([int(t) for t in sys.argv[2].split(",")])
    logits = executable.new_state(len(tokens)).step(tokens, rows="all").logits
    np.save(sys.argv[3], logits)
    executable.close()
assert not any(name.split(".")[0] in ("tvm", "tvm_ffi") for name in sys.modules)
maps = open("/proc/self/maps").read()
assert "libtvm" not in maps, maps
"""


def test_it_runs_where_no_tvm_package_can_be_imported(small: Any, tmp_path: Path) -> None:
    tokens = small.tokens(9)
    saved = tmp_path / "logits.npy"
    arguments = [str(small.path), ",".join(map(str, tokens)), str(saved)]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = small.expected(tokens)
    assert np.abs(np.load(saved) - expected).max() <= small.allowed * np.abs(expected).max()


def test_the_caches_of_a_state_are_one_piece(small: Any, opened: Any) -> None:
    """So that the system can give it large pages, however small each of them is."""
    state = opened(small.path).new_state(70)
    starts = [(pointer(cache), cache.nbytes) for cache in state._caches]
    assert len(starts) > 2
    assert all(a + size == b for (a, size), (b, _) in pairwise(starts))


def test_facts(small: Any, opened: Any) -> None:
    executable = opened(small.path)
    assert (executable.vocab_size, executable.max_context, executable.chunk) == (131, 80, 24)
    assert executable.features == {"tree", "taps", "persist"}
    assert isinstance(executable, Chosen)
    assert [executable.variant] == isas_for(("host",), platform.machine(), cpu.cpu_flags())
    state = executable.new_state(33)
    assert (state.length, state.capacity) == (0, 33)


def test_threads_default_to_the_usable_cores(small: Any, opened: Any) -> None:
    assert opened(small.path, threads=None).threads == len(usable_cores())


def test_a_section_that_says_nothing(small: Any, opened: Any) -> None:
    with pytest.raises(ArtifactError) as refusal:
        opened(small.path, variants=[{"isa": "", "library": "", "flags": None}])
    assert str(refusal.value) == (
        f'The section "tvm" of "{small.path}" cannot be read. TypeError: \'NoneType\' object is '
        "not iterable. Build the artifact again."
    )


def test_a_processor_that_lacks_instructions(small: Any, opened: Any) -> None:
    less = {"isa": "x86-64-v9", "library": "", "flags": ["fpu", "amx9000", "avx9000"]}
    more = {"isa": "x86-64-v10", "library": "", "flags": [*less["flags"], "avx9001"]}
    with pytest.raises(DeviceError) as refusal:
        opened(small.path, variants=[less, more])
    lacking = [flag for flag in less["flags"] if flag not in cpu.cpu_flags()]
    here = isas_for(("host",), platform.machine(), cpu.cpu_flags())[0]
    assert str(refusal.value) == (
        "The artifact's kernels do not run on this processor. They need x86-64-v9 or x86-64-v10. "
        f"This processor offers {here}; for x86-64-v9 it lacks {', '.join(lacking)}. "
        "Build it for this machine: arkinfer build --target cpu."
    )


def test_a_machine_of_another_kind(small: Any, opened: Any) -> None:
    with pytest.raises(DeviceError) as refusal:
        opened(small.path, platform="linux-riscv64")
    assert str(refusal.value).startswith(
        "The artifact's kernels were compiled for linux-riscv64. This machine is linux-"
    )


def test_kernels_of_another_interface(small: Any, opened: Any) -> None:
    with pytest.raises(DeviceError) as refusal:
        opened(small.path, interface=99)
    assert str(refusal.value).startswith("The artifact's kernels have interface 99")


@pytest.mark.parametrize("entry", ["libkernels-*.so", "programs.json"])
def test_damaged_code_is_never_loaded(small: Any, opened: Any, tmp_path: Path, entry: str) -> None:
    with open_artifact(small.path) as artifact:
        pattern = f"backends/tvm/{entry}"
        found = next(e for e in artifact.entries() if fnmatch(e.name, pattern))
    copy = tmp_path / "model.ark"
    data = bytearray(small.path.read_bytes())
    data[found.offset + found.size // 2] ^= 1
    copy.write_bytes(data)
    with pytest.raises(ArtifactError) as refusal:
        opened(copy)
    assert str(refusal.value).startswith(
        f'"{copy}" is damaged. The entry "{found.name}" does not match its SHA-256.'
    )


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_code_is_private_while_it_loads_and_gone_after(
    small: Any, opened: Any, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, str]] = []
    real = library.ctypes.CDLL

    def look(path: str) -> Any:
        file = Path(path)
        folder = file.parent
        assert folder.parent == temporary
        modes = [stat.S_IMODE(p.stat().st_mode) for p in (folder, file)]
        seen.append((modes[0], modes[1], hashlib.sha256(file.read_bytes()).hexdigest()))
        assert seen[-1][2][:16] in file.name
        return real(path)

    monkeypatch.setattr(library.ctypes, "CDLL", look)
    opened(small.path).new_state(3).step(small.tokens(3))
    with open_artifact(small.path) as artifact:
        entry = artifact.sections["tvm"].config["variants"][0]["library"]
        digest = artifact.manifest["entries"][entry]["sha256"]
    assert seen == [(0o700, 0o700, digest)]
    assert list(temporary.iterdir()) == []


def test_code_that_does_not_load(temporary: Path) -> None:
    with pytest.raises(DeviceError) as refusal:
        Library(b"no library", "libnone.so", 1, 1)
    assert str(refusal.value).startswith(
        "This system cannot load the artifact's kernels. libnone.so: "
    )
    assert str(refusal.value).endswith("Build the artifact on a system that is as old as this one.")
    assert list(temporary.iterdir()) == []


def test_a_folder_that_forbids_to_run_programs(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> Any:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(library.ctypes, "CDLL", refuse)
    with pytest.raises(DeviceError) as refusal:
        Library(b"", "libnone.so", 1, 1)
    assert str(refusal.value) == (
        f'This system does not let the kernels run. The folder "{temporary}" forbids to run '
        "programs (noexec): libnone.so: failed to map segment from shared object. Set TMPDIR to a "
        "folder that allows it."
    )


def test_no_folder_for_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing"
    monkeypatch.setattr(tempfile, "tempdir", str(missing))
    with pytest.raises(ResourceError) as refusal:
        Library(b"", "libnone.so", 1, 1)
    assert str(refusal.value) == (
        f'The kernels cannot be written to the folder "{missing}". No such file or directory. '
        "Free some space there, or set TMPDIR to another folder."
    )


def test_weights_stay_in_the_file(small: Any, opened: Any) -> None:
    """Kernels read the mapped pages: no copy of a weight is made."""
    bound = opened(small.path)._programs[0]
    with open_artifact(small.path) as artifact:
        names = set(artifact.sections["tvm"].tensors)
    assert set(bound._weights) <= names
    assert bound._weights
    mapped = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines()
              if line.endswith(str(small.path))]  # fmt: skip
    ranges = [tuple(int(x, 16) for x in line.split("-")) for line in mapped]
    for array in bound._weights.values():
        start = pointer(array)
        assert any(low <= start and start + array.nbytes <= high for low, high in ranges)
        assert not array.flags.writeable


def test_closing(small: Any, opened: Any) -> None:
    before = threading_count()
    executable = opened(small.path, threads=4)
    state = executable.new_state(4)
    assert threading_count() == before + 3
    executable.close()
    until = monotonic() + 5  # a thread that was waited for is listed a moment longer
    while threading_count() > before and monotonic() < until:
        sleep(0.001)
    assert threading_count() == before
    with pytest.raises(UsageError, match=r"The model is closed\. Load the artifact again\."):
        state.step(small.tokens(2))
    assert state.length == 0
    executable.close()


def threading_count() -> int:
    return len(os.listdir("/proc/self/task"))


def test_two_threads_take_turns(small: Any, opened: Any) -> None:
    executable = opened(small.path)
    texts = [small.tokens(20, seed=s) for s in range(4)]
    results: list[Array | None] = [None] * 4

    def run(index: int) -> None:
        state = executable.new_state(20)
        rows = [state.step(texts[index][a : a + 1]).logits for a in range(20)]
        results[index] = np.concatenate(rows)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for text, got in zip(texts, results, strict=True):
        expected = small.expected(text)
        assert got is not None
        assert np.abs(got - expected).max() <= small.allowed * np.abs(expected).max()


FORK = """
import os, sys
import numpy as np
from arkinfer.artifact import open_artifact
from arkinfer.runtime.contract import LoadOptions
from arkinfer_tvm.executor import TvmExecutor
artifact = open_artifact(sys.argv[1])
executable = TvmExecutor().open(artifact, artifact.sections["tvm"], LoadOptions(2))
tokens = np.array([1, 2, 3])
expected = executable.new_state(3).step(tokens).logits
child = os.fork()
if child == 0:
    same = np.array_equal(executable.new_state(3).step(tokens).logits, expected)
    executable.close()
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(executable.new_state(3).step(tokens).logits, expected)
executable.close()
"""


def test_a_forked_process_runs_on_one_thread(small: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(small.path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_memory_that_the_system_refuses() -> None:
    with pytest.raises(ResourceError, match="There is no memory for 4,611,686,018,427,387,904"):
        aligned((1 << 60,), np.float32)
