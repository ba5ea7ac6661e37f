"""What the benchmark of kernels does around a GPU: problems, float64, arguments of launches, gates.
Its kernels run under Triton's interpreter here, and the driver is a library that takes notes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arkinfer.errors import DeviceError, GateError
from arkinfer.packing import Scheme, parse_scheme
from arkinfer_trt.kernels.gemv import (
    TILES,
    AnyTile,
    DotTile,
    Gemv,
    Kernel,
    kernel_name,
    tactics,
)
from arkinfer_trt.kernels.layout import repacked
from benchmarks import gpu, gpu_timing
from benchmarks.cuda_driver import Driver
from tests.backends.trt.kernels import problems
from tests.backends.trt.kernels.interpreter import Interpreter, interpreting

DRIVER = r"""
#include <stdint.h>
#include <string.h>
unsigned sizes[7];
uint64_t values[6];
char text[64], name[64];
int cuModuleLoadData(void **module, const char *ptx) {
    strncpy(text, ptx, 63);
    *module = (void *)0x123456789a;
    return strcmp(ptx, "not PTX") ? 0 : 218;
}
int cuModuleGetFunction(void **function, void *module, const char *entry) {
    strncpy(name, entry, 63);
    *function = (char *)module + 1;
    return 0;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *stream, void **parameters, void **extra) {
    unsigned given[] = {gx, gy, gz, bx, by, bz, shared};
    memcpy(sizes, given, sizeof given);
    for (int i = 0; i < 6; i++)
        values[i] = i == 3 || i == 4 ? *(uint32_t *)parameters[i] : *(uint64_t *)parameters[i];
    if (function != (void *)0x123456789b || stream != (void *)0xfedcba9876) return 1;
    return extra != 0;
}
int cuGetErrorString(int error, const char **said) {
    *said = error == 218 ? "a PTX JIT compilation failed" : 0;
    return 0;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a library with")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(DRIVER)
    command = [compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so", folder / "cuda.c"]
    subprocess.run(command, check=True)
    return folder / "libcuda.so"


def test_a_launch_has_the_arguments_of_tensorrt(library: Path) -> None:
    launch = Driver(str(library)).load(Kernel("entry", "some PTX", 128, 64))
    addresses = [0x7F0000000010, 0x7F0000000020, 0x7F0000000030]
    launch((1024, 3), addresses, [3, 73448], 0x7F0000000040, 0xFEDCBA9876)
    notes = ctypes.CDLL(str(library))
    assert list((ctypes.c_uint * 7).in_dll(notes, "sizes")) == [1024, 3, 1, 128, 1, 1, 64]
    values = list((ctypes.c_uint64 * 6).in_dll(notes, "values"))
    assert values == [*addresses, 3, 73448, 0x7F0000000040]
    assert (ctypes.c_char * 64).in_dll(notes, "name").value == b"entry"
    assert (ctypes.c_char * 64).in_dll(notes, "text").value == b"some PTX"


def test_what_the_driver_refuses_is_said(library: Path) -> None:
    with pytest.raises(DeviceError) as refusal:
        Driver(str(library)).load(Kernel("entry", "not PTX", 128, 64))
    assert str(refusal.value) == (
        "cuModuleLoadData of CUDA's driver failed. It says: a PTX JIT compilation failed."
    )
    launch = Driver(str(library)).load(Kernel("entry", "some PTX", 128, 64))
    with pytest.raises(DeviceError, match=r"cuLaunchKernel .* an error that it does not know\."):
        launch((1, 1), [1, 2, 3], [1, 4], 5, 0)


def test_a_machine_without_the_driver() -> None:
    with pytest.raises(DeviceError) as refusal:
        Driver("libcuda-that-is-nowhere.so")
    assert refusal.value.what == "Kernels cannot be launched"
    assert "NVIDIA GPU" in refusal.value.fix


def test_a_machine_without_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 4
    assert capsys.readouterr().err == (
        "error: Kernels cannot be run. PyTorch finds no CUDA device. Run this on a machine with "
        "an NVIDIA GPU, by a Python whose PyTorch has CUDA: make test-gpu GPU_PYTHON=….\n"
    )


@pytest.mark.parametrize(
    ("capability", "asked", "why"),
    [
        ((7, 5), None, "It is too old for ours"),
        ((7, 5), 87, "It is too old for ours"),
        ((8, 6), 87, "It runs kernels for 80, 86, not for 87"),
        ((9, 0), 91, "It runs kernels for 80, 86, 87, 89, 90, not for 91"),
    ],
)
def test_a_gpu_that_cannot_run_them(
    capability: tuple[int, int], asked: int | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    with pytest.raises(DeviceError) as refusal:
        gpu.device(asked)
    assert refusal.value.why == why


@pytest.mark.parametrize("name", ["int4-g32", "int2-row", "int8-g128"])
def test_the_reference_is_the_canonical_forms_product(name: str) -> None:
    scheme = parse_scheme(name)
    weights = problems.matrix(scheme, 9, 256, 1)
    x = problems.inputs(3, 256, 2)
    parts = {key: torch.from_numpy(part) for key, part in repacked(weights).items()}
    gemv = Gemv.of(scheme, (9, 256))
    y = gpu.reference(gemv, torch.from_numpy(x), parts["words"], parts["scale"])
    np.testing.assert_allclose(y.numpy(), problems.product(x, weights), rtol=1e-12)


def test_the_reference_may_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    gemv = Gemv(4, 32, 64, 37)
    given = gpu.problem(gemv, 2, 5)
    whole = gpu.reference(gemv, *given)
    monkeypatch.setattr(gpu, "ELEMENTS", 200)
    torch.testing.assert_close(gpu.reference(gemv, *given), whole, rtol=1e-12, atol=0)


def test_problems_are_seeded_and_fill_their_words() -> None:
    gemv = Gemv(4, 128, 1024, 64)
    x, words, scale = gpu.problem(gemv, 2, 7)
    for again, first in zip(gpu.problem(gemv, 2, 7), (x, words, scale), strict=True):
        assert torch.equal(again, first)
    assert not torch.equal(gpu.problem(gemv, 2, 8)[1], words)
    found = {"words": words, "scale": scale}
    shapes = {k: (str(v.dtype).removeprefix("torch."), tuple(v.shape)) for k, v in found.items()}
    assert shapes == gemv.parts()
    assert x.shape == (2, 1024)
    codes = (words[..., None] >> torch.arange(8) * 4) & 15
    assert set(codes.unique().tolist()) == set(range(16))


interpreter = pytest.fixture(scope="module")(interpreting)


def test_checks_compare_every_tile(
    interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "TAILS", gpu.TAILS[2:4])

    def run(gemv: Gemv, tile: AnyTile, x: Any, words: Any, scale: Any) -> Any:
        parts = {"words": words.numpy(), "scale": scale.numpy()}
        return torch.from_numpy(interpreter.run(gemv, tile, x.numpy(), parts))

    lines = list(gpu.checks(run, shapes=False))
    assert len(lines) == 2 * len(TILES)
    assert lines[0].startswith("ark_gemv_int2_g16_k2064_t1q2w4l256, 9 x 2064, 1 tokens: error ")


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_a_wrong_product_fails(wrong: float) -> None:
    def run(gemv: Gemv, tile: AnyTile, x: Any, words: Any, scale: Any) -> Any:
        y = gpu.reference(gemv, x, words, scale)
        if tile == TILES[2]:
            y[-1, y[-1].abs().argmax()] *= wrong
            y[-1] *= 1 if wrong != wrong else wrong
        return y.half()

    with pytest.raises(GateError) as refusal:
        list(gpu.checks(run, shapes=False))
    assert "t1q1w4l128, 13 x 1056, 3 tokens: the error is " in refusal.value.what


def test_timings_go_through_more_than_caches_hold() -> None:
    for gemv in gpu_timing.matrices().values():
        assert 256 << 20 < gpu_timing.copies(gemv.nbytes) * gemv.nbytes < 1 << 30
    assert Gemv.of(Scheme(4, 128), (4096, 4096)).nbytes == 4096 * 4096 // 2 + 4096 * 32 * 2


class Clock:
    """Stands for CUDA's graphs and events: a launch takes 3 ms, a copy none."""

    def __init__(self) -> None:
        self.milliseconds, self.captured, self.launched = 0.0, 0, []

    def launch(self, gemv: Gemv, tile: AnyTile, x: Any, words: Any, scale: Any, y: Any) -> None:
        self.captured += 1
        self.launched.append((tile, words.data_ptr()))

    def prepare(self, wanted: Any) -> None:
        self.prepared = {kernel_name(gemv, tile) for gemv, tile in wanted}

    def graph(self) -> Any:
        clock = self

        class Graph:
            launches = 0

            def replay(self) -> None:
                clock.milliseconds += 3 * self.launches or 1

        return Graph()

    @contextmanager
    def capture(self, graph: Any) -> Iterator[None]:
        self.captured = 0
        yield
        graph.launches = self.captured

    def event(self, enable_timing: bool) -> Any:
        clock = self

        class Event:
            def record(self) -> None:
                self.at = clock.milliseconds

            def synchronize(self) -> None:
                assert enable_timing

            def elapsed_time(self, other: Event) -> float:
                return other.at - self.at

        return Event()


def test_a_timing_goes_through_all_sets_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    for name, stand_in in {
        "CUDAGraph": clock.graph,
        "graph": clock.capture,
        "Event": clock.event,
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(gpu_timing, "SHAPES", {"small": (8, 1024)})
    monkeypatch.setattr(gpu_timing, "SCHEMES", ("int4-g128",))
    monkeypatch.setattr(gpu_timing, "PROMPT", 3)
    size = Gemv(4, 128, 1024, 8).nbytes
    monkeypatch.setattr(gpu_timing, "ROTATED", 3 * size)
    timings = list(gpu_timing.every(clock))
    tiles = list(tactics(Gemv(4, 128, 1024, 8)).values())
    dots = [tile for tile in tiles if isinstance(tile, DotTile)]
    assert [(t.tokens, t.kernel.rpartition("_")[2]) for t in timings] == [
        *[(1, tile.name) for tile in tiles],
        *[(3, tile.name) for tile in dots],
    ]
    assert {t.kernel for t in timings} <= clock.prepared
    for timing in timings:
        assert timing.seconds == pytest.approx(3e-3)
        assert timing.nbytes == size
        assert timing.other == pytest.approx(1e-3 / (5 if timing.tokens == 1 else 2))
    first = [words for tile, words in clock.launched if tile == tiles[0]]
    assert len(set(first)) == 5, "one launch to warm up, then one for each set"
    assert len(first) == 6


TIMING = gpu_timing.Timing(
    "4096 x 4096", "ark_gemv_int4_g128_k4096_t1q2w4l256", 1, 8_400_000, 4e-6, 3e-6
)


def test_a_line_of_the_table() -> None:
    assert TIMING.percent == pytest.approx(75)
    assert gpu_timing.line(TIMING).split() == [
        *["4096", "x", "4096", "T", "1", TIMING.kernel, "4.0", "us", "2100.0", "GB/s"],
        *["75", "%", "of", "a", "copy,", "3.0", "us"],
    ]
    assert "75 % of float16, 3.0 us" in gpu_timing.line(replace(TIMING, tokens=512))


def test_the_best_int4_kernel_of_each_shape_counts() -> None:
    timings = [replace(TIMING, shape=shape) for shape in gpu_timing.SHAPES]
    slow = [replace(t, seconds=t.seconds * 2) for t in timings]
    gpu_timing.gate([*timings, *slow], 74.9)
    with pytest.raises(GateError) as refusal:
        gpu_timing.gate([*timings[:-1], *slow], 74.9)
    head = "head, 73448 x 4096"
    assert str(refusal.value) == f"{head} reaches 38 % of a copy, less than 75 %."
    with pytest.raises(GateError):
        gpu_timing.gate([replace(t, tokens=512) for t in timings], 1)
    with pytest.raises(GateError):
        gpu_timing.gate([replace(t, kernel="ark_gemv_int2_g4096") for t in timings], 1)
