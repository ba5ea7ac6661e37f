"""The kernels of TensorRT plug-ins on a CUDA device: right to float64, and how fast beside a copy.

    make test-gpu                        (any NVIDIA GPU; torch with CUDA, Triton, and this folder)
    python -m benchmarks.gpu --least 75

What runs is the PTX that a board gets, translated by this machine's driver, with the launches that
TensorRT makes. Products of random matrices are compared with float64, and timed as `gpu_timing.py`
says. TensorRT is not timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arkinfer.errors import ArkError, DeviceError, GateError, UsageError
from arkinfer.packing import parse_scheme
from arkinfer_trt.kernels.compiled import SHARED, compiled
from arkinfer_trt.kernels.gemv import TILES, AnyTile, Gemv, Kernel, kernel_name
from benchmarks import gpu_timing
from benchmarks.cuda_driver import Driver

Run = Callable[[Gemv, AnyTile, Any, Any, Any], Any]
"""Multiplies: product, tile, x, words, scale -> y, all but the first two on the device."""

TAILS = (("int4-g32", 13, 1056, 3), ("int4-g64", 6, 4160, 5), ("int2-g16", 9, 2064, 1))
TAILS += (("int4-row", 1, 40, 2), ("int8-g4", 7, 1028, 9), ("int2-row", 4098, 1040, 1))
"""Scheme, outputs, inputs, tokens: whatever does not divide."""

WHERE = (
    "Run this on a machine with an NVIDIA GPU, by a Python whose PyTorch has CUDA: "
    "make test-gpu GPU_PYTHON=…"
)

TOLERANCE = 2e-3
"""Of the largest number of the product; y is float16."""
ELEMENTS = 1 << 23
"""Of a matrix that the reference has in float64 at a time."""


def main(arguments: list[str] | None = None) -> int:
    """Checks, times, prints; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--sm", type=int, help="compile for it; usually 87, as for Orin")
    parser.add_argument("--check", action="store_true", help="no timings")
    parser.add_argument("--kernels", type=Path, help="file of gpu_tiles --compile")
    parser.add_argument("--time", action="store_true", help="no checks")
    parser.add_argument("--least", type=float, help="percent of the copy's rate, of int4; else 3")
    parser.add_argument("--json", type=Path, help="write the timings there")
    given = parser.parse_args(arguments)
    try:
        run = device(given.sm, given.kernels)
        if not given.time:
            run.prepare((gemv, tile) for gemv, _ in cases() for tile in TILES)
            for said in checks(run.multiply):
                print(said, flush=True)
        timings = [] if given.check else list(gpu_timing.every(run))
        if given.json is not None:
            given.json.write_text(json.dumps([asdict(t) for t in timings], indent=1) + "\n")
        if given.least is not None:
            gpu_timing.gate(timings, given.least)
    except ArkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def cases(shapes: bool = True) -> list[tuple[Gemv, int]]:
    """Products and rows of x that are checked."""
    found = [(Gemv.of(parse_scheme(name), (n, k)), t) for name, n, k, t in TAILS]
    if shapes:
        matrices = gpu_timing.matrices()
        found += [(gemv, 1) for gemv in matrices.values()]
        found += [(gemv, 77) for gemv in matrices.values() if gemv.width <= 4096]
    return found


def checks(run: Run, shapes: bool = True) -> Iterator[str]:
    """A line for each comparison with float64, of every tile.

    Raises:
        GateError: a product is wrong.
    """
    for seed, (gemv, tokens) in enumerate(cases(shapes)):
        x, words, scale = problem(gemv, tokens, seed)
        expected = reference(gemv, x, words, scale)
        for tile in TILES:
            y = run(gemv, tile, x, words, scale)
            found = float((y.double() - expected).abs().max() / expected.abs().max())
            name = f"{kernel_name(gemv, tile)}, {gemv.width} x {gemv.inputs}, {tokens} tokens"
            if not found <= TOLERANCE:  # NaN included
                raise GateError(f"{name}: the error is {found:.1e}, above {TOLERANCE:.0e}")
            yield f"{name}: error {found:.1e}"


def problem(gemv: Gemv, tokens: int, seed: int) -> tuple[Any, Any, Any]:
    """Random x, words and scales, on the device that torch would use."""
    import torch

    where = _where()
    random = torch.Generator(where).manual_seed(seed)
    (_, words), (_, scales) = gemv.parts().values()
    low, high = -(1 << 31), (1 << 31) - 1
    made = torch.randint(low, high, words, generator=random, dtype=torch.int32, device=where)
    scale = torch.rand(scales, generator=random, device=where).add(0.5).mul(0.01).half()
    x = torch.randn((tokens, gemv.inputs), generator=random, device=where).half()
    return x, made, scale


def _where() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def reference(gemv: Gemv, x: Any, words: Any, scale: Any) -> Any:
    """The product in float64 [tokens, width], by the formulas of the layout."""
    import torch

    at = torch.arange(gemv.per_word, device=words.device) * gemv.bits
    rows: list[Any] = []
    step = max(1, ELEMENTS // (4 * gemv.inputs))
    for start in range(0, gemv.quads, step):
        some, unit = words[start : start + step], scale[start : start + step]
        codes = (some[..., None] >> at) & ((1 << gemv.bits) - 1)  # [quads, columns, 4, per_word]
        values = codes.permute(0, 2, 1, 3).reshape(-1, gemv.groups, gemv.group).double()
        values -= 1 << (gemv.bits - 1)
        values *= unit.permute(0, 2, 1).reshape(-1, gemv.groups, 1).double()
        rows.append(x.double() @ values.reshape(-1, gemv.inputs).T)
    return torch.cat(rows, dim=1)[:, : gemv.width]


class Device:
    """A CUDA device that runs what was compiled for `sm`."""

    def __init__(self, sm: int, kernels: Iterable[Kernel] = ()) -> None:
        self.sm, self._driver = sm, Driver()
        self._given = {kernel.name: kernel for kernel in kernels}
        self._loaded: dict[str, Any] = {}

    def prepare(self, wanted: Iterable[tuple[Gemv, AnyTile]]) -> None:
        """Compiles and loads what will be launched."""
        asked = [each for each in wanted if kernel_name(*each) not in self._loaded]
        given = {
            name: self._given[name]
            for name in {kernel_name(*each) for each in asked}
            if name in self._given
        }
        made = compiled_together(
            [each for each in asked if kernel_name(*each) not in given], self.sm
        )
        for kernel in [*given.values(), *made]:
            self._loaded[kernel.name] = self._driver.load(kernel)

    def multiply(self, gemv: Gemv, tile: AnyTile, x: Any, words: Any, scale: Any) -> Any:
        import torch

        y = torch.full((len(x), gemv.width), float("nan"), dtype=torch.float16, device=x.device)
        self.launch(gemv, tile, x, words, scale, y)
        return y

    def launch(self, gemv: Gemv, tile: AnyTile, x: Any, words: Any, scale: Any, y: Any) -> None:
        """On torch's current stream, which may be one that is captured."""
        import torch

        name = kernel_name(gemv, tile)
        if name not in self._loaded:
            self._loaded[name] = self._driver.load(compiled(gemv, tile, self.sm))
        grid = tile.grid(gemv, len(x), lambda n, by: -(-n // by))
        inputs = [tensor.data_ptr() for tensor in (x, words, scale)]
        stream = torch.cuda.current_stream().cuda_stream
        self._loaded[name](grid, inputs, [len(x), gemv.width], y.data_ptr(), stream)


def compiled_together(wanted: Iterable[tuple[Gemv, AnyTile]], sm: int) -> Iterator[Kernel]:
    """Each kernel once, by every core of this machine."""
    named = {kernel_name(gemv, tile): (gemv, tile, sm) for gemv, tile in wanted}
    if named:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        with ProcessPoolExecutor(mp_context=context) as pool:
            yield from pool.map(compiled, *zip(*named.values(), strict=True))


def check_cuda() -> None:
    """Raises what `device` does where PyTorch has no GPU."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError("Kernels cannot be run", "PyTorch is not installed", WHERE)
    import torch

    if not torch.cuda.is_available():
        raise DeviceError(
            "Kernels cannot be run",
            "PyTorch finds no CUDA device",
            WHERE,
        )


def device(sm: int | None, kernels: Path | None = None) -> Device:
    """The device of this machine.

    Args:
        sm: what kernels are compiled for.
        kernels: a file with some that were compiled for it elsewhere.

    Raises:
        UsageError: PyTorch is missing.
        DeviceError: there is no GPU, or it is older than what is compiled for.
    """
    check_cuda()
    import torch

    major, minor = torch.cuda.get_device_capability()
    known = [each for each in SHARED if each <= 10 * major + minor]
    if not known or (sm is not None and sm not in known):
        runs = f"runs kernels for {', '.join(map(str, known))}" if known else "is too old for ours"
        raise DeviceError(
            f"This GPU, of compute capability {major}.{minor}, cannot run the kernels",
            f"It {runs}" if sm is None or not known else f"It {runs}, not for {sm}",
        )
    torch.zeros(1, device="cuda")  # makes the context that the driver launches in
    chosen = sm or (87 if 87 in known else known[-1])
    print(f"{torch.cuda.get_device_name()}, kernels compiled for sm_{chosen}", flush=True)
    given = json.loads(kernels.read_text()) if kernels is not None else []
    return Device(chosen, [Kernel(**each) for each in given])


if __name__ == "__main__":
    sys.exit(main())
