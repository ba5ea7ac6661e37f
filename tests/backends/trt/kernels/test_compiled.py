"""Kernels compiled without a GPU: what TensorRT launches, the same bytes each time, in limits."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from arkinfer.errors import InternalError, UsageError
from arkinfer_trt.kernels.__main__ import faults, main
from arkinfer_trt.kernels.compiled import SHARED, Compiled, compiled, facts, launchable
from arkinfer_trt.kernels.gemv import MOST_SHARED, TILES, DotTile, Gemv, Tile

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed; it exists for Linux only",
)
INT4, TERNARY = Gemv(4, 128, 4096, 4096), Gemv(2, 4096, 4096, 4096)
PLAIN = Tile(1, 1, 4, 128)
"""One word of one set of rows for each thread in a step: the loop is the shortest."""

DOTS = [tile for tile in TILES if isinstance(tile, DotTile)]


@pytest.fixture(scope="module")
def orin() -> Compiled:
    return compiled(INT4, PLAIN, 87)


@needs_triton
def test_tensorrt_can_launch_it(orin: Compiled) -> None:
    """Inputs, scalars, outputs, and nothing else; the name is the entry's."""
    entry = re.search(r"\.visible \.entry (\w+)\((.*?)\)\n\.reqntid (\d+)", orin.ptx, re.DOTALL)
    assert entry is not None
    assert entry[1] == orin.name == "ark_gemv_int4_g128_k4096_t1q1w4l128"
    kinds = re.findall(r"\.param \.(u64|u32)\b", entry[2])
    assert kinds == ["u64", "u64", "u64", "u32", "u32", "u64"]
    assert int(entry[3]) == orin.threads == 128
    assert orin.cubin.startswith(b"\x7fELF")
    assert orin.name.encode() in orin.cubin


@needs_triton
def test_the_loop_is_as_its_authors_say(orin: Compiled) -> None:
    """Loads of 128 bits for words, 64 for scales and x; per code a mask, a difference and a
    multiplication with its sum, no conversion; and no shared memory."""
    loads = re.findall(r"ld\.global\.[\w:.]+", orin.ptx)
    assert sorted(load.partition("hint.")[2] or load for load in loads) == [
        *["ld.global.b64"] * 2,
        "ld.global.v2.b32",
        "v4.b32",
    ]
    loop = re.search(r"^\$L__BB0_\d+:(.*?)\sbra\s", orin.ptx, re.DOTALL | re.MULTILINE)
    assert loop is not None
    floats = {
        op: len(re.findall(rf"\t{op}(?:\.rn)?\.f32", loop[1])) for op in ("fma", "add", "mul")
    }
    assert floats == {"fma": 32 + 4, "add": 32, "mul": 6}, "32 codes, 4 scales, 8 numbers of x"
    assert not re.search(r"\tor\.b32 .*, 1258291200;", loop[1]), "2^23 is in a register"
    assert not re.search(r"cvt\.\w+\.f32\.[su]\d", orin.ptx)
    assert "shared" not in loop[1]


@needs_triton
def test_the_ptx_suits_the_driver_of_jetpack(orin: Compiled) -> None:
    version = re.search(r"^\.version (\d+)\.(\d+)", orin.ptx, re.MULTILINE)
    assert version is not None
    assert (int(version[1]), int(version[2])) <= (9, 2)  # of CUDA 13.2
    assert re.search(r"^\.target sm_87$", orin.ptx, re.MULTILINE)


@needs_triton
def test_bytes_are_the_same_in_another_process(orin: Compiled, tmp_path: Path) -> None:
    """And say nothing of the folder that they were compiled in."""
    code = (
        "import hashlib; from arkinfer_trt.kernels.compiled import compiled; "
        "from arkinfer_trt.kernels.gemv import Gemv, Tile; "
        "k = compiled(Gemv(4, 128, 4096, 7), Tile(1, 1, 4, 128), 87); "
        "print(hashlib.sha256(k.ptx.encode() + k.cubin).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    environment.update({"TMPDIR": str(tmp_path), "HOME": str(tmp_path)})
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == hashlib.sha256(orin.ptx.encode() + orin.cubin).hexdigest()
    assert not re.search(r"^\s*\.(file|loc)\b", orin.ptx, re.MULTILINE)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@needs_triton
@pytest.mark.parametrize("tile", DOTS, ids=lambda tile: tile.name)
def test_prompts_use_tensor_cores(tile: DotTile) -> None:
    """x and words come by asynchronous copies, codes become float16 two at a time, products are
    summed in float32; TensorRT can launch it, in any context."""
    kernel = compiled(INT4, tile, 87)
    entry = re.search(r"\.visible \.entry (\w+)\((.*?)\)\n\.reqntid (\d+)", kernel.ptx, re.DOTALL)
    assert entry is not None
    assert entry[1] == kernel.name
    assert re.findall(r"\.param \.(u64|u32)\b", entry[2]) == ["u64"] * 3 + ["u32"] * 2 + ["u64"]
    assert int(entry[3]) == kernel.threads == tile.threads
    assert "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" in kernel.ptx
    copies = set(re.findall(r"cp\.async\.c\w+\.shared\.global", kernel.ptx))
    assert copies, "loads wait for each other"
    assert "mul.f16x2" in kernel.ptx
    assert not re.search(
        r"\bmul\.f16\b|cvt\.\w+\.f16\.[su]\d|cp\.async\.bulk|tensormap", kernel.ptx
    )
    assert faults(kernel) == ""


@needs_triton
def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["int4-g128:4096", "int2-row:4096", "--tactic", "3"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["kernel", "sm", "threads", "registers", "shared", "spilled"]
    assert [line.split()[:2] for line in lines] == [
        [name, sm]
        for name in (
            "ark_gemv_int4_g128_k4096_t1q1w4l128",
            "ark_gemv_int2_g4096_k4096_t1q1w4l128",
        )
        for sm in ("87", "89", "90")
    ]
    for line in lines:
        threads, registers, shared, spilled = map(int, line.split()[2:])
        assert (threads, spilled) == (128, 0)
        assert 16 < registers <= 48
        assert 0 < shared <= 163 << 10


@needs_triton
@pytest.mark.slow
def test_every_usual_kernel_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 100


def test_faults_are_said(tmp_path: Path) -> None:
    fine = Compiled("k", "", 128, 64, 87, b"", 40, 0, 0)
    assert faults(fine) == ""
    assert faults(replace(fine, spilled=8)) == "spills registers"
    assert faults(replace(fine, stack=16)) == "spills registers"
    assert MOST_SHARED < min(SHARED.values())
    assert faults(replace(fine, shared=MOST_SHARED)) == ""
    assert (
        faults(replace(fine, shared=MOST_SHARED + 1)) == "needs more than 48 KiB of shared memory"
    )


def test_what_ptxas_says() -> None:
    report = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_87'
ptxas info    : Function properties for k
    48 bytes stack frame, 20 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers, 48 bytes cumulative stack size
"""
    assert facts(report) == {"registers": 24, "spilled": 32, "stack": 48}
    with pytest.raises(InternalError):
        facts(report.replace("spill loads", "loads"))


PTX = """.visible .entry k(
	.param .u64 .ptr .global .align 1 k_param_0,
	.param .u64 .ptr .global .align 1 k_param_1,
	.param .u64 .ptr .global .align 1 k_param_2,
	.param .u32 k_param_3,
	.param .u32 k_param_4,
	.param .u64 .ptr .global .align 1 k_param_5,
	.param .u64 .ptr .global .align 1 k_param_6
)
{
	ld.param.b64 	%rd1, [k_param_5];
}
"""


def test_parameters_that_triton_adds_go() -> None:
    ptx = launchable(PTX, "k", "product")
    assert ".entry product(\n" in ptx
    assert "k_param_6" not in ptx
    assert "k_param_5\n)" in ptx
    assert ptx.count("\n") == PTX.count("\n") - 1


@pytest.mark.parametrize(
    "ptx",
    [
        PTX.replace("[k_param_5]", "[k_param_6]"),
        PTX.replace(".param .u32 k_param_4,\n", ""),
        PTX.replace(".u32 k_param_3", ".u64 k_param_3"),
        PTX.replace(".entry k(", ".entry j("),
    ],
)
def test_a_kernel_with_other_parameters_is_refused(ptx: str) -> None:
    with pytest.raises(InternalError):
        launchable(ptx, "k", "product")


def test_what_the_command_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["int4-g128"]) == 2
    assert '"int4-g128" is no matrix. Write one like int4-g128:4096.' in capsys.readouterr().err
    assert main(["int4-g128:4096", "int4-g128:1024", "--tactic", "2"]) == 2
    assert capsys.readouterr() == (
        "",
        "error: int4-g128:1024 has no tactic 2. A tactic is left out where it has more threads "
        "than a row has words. Choose one of 3, 4, 5, 6, 7, 8, 9.\n",
    )
    assert main(["int4-g128:4096", "--sm", "70"]) == 2
    assert capsys.readouterr().err == (
        "error: Kernels are not compiled for compute capability 7.0. Nothing is known of its "
        "limits. Choose one of 80, 86, 87, 89, 90.\n"
    )


@needs_triton
def test_an_interpreting_triton_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UsageError) as refusal:
        compiled(TERNARY, TILES[0], 87)
    assert str(refusal.value) == (
        "The kernels of TensorRT plug-ins cannot be compiled. The environment sets "
        "TRITON_INTERPRET, and Triton interprets them instead. Unset it."
    )


def test_without_triton_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(UsageError) as refusal:
        compiled(TERNARY, TILES[0], 87)
    assert str(refusal.value) == (
        "The kernels of TensorRT plug-ins cannot be compiled. Triton is not installed, which "
        'exists for Linux only. Run pip install "arkinfer[kernels]".'
    )
