"""A process in which Triton interprets kernels on the CPU: one for all tests, since it has to be
told before Triton is imported, and tests beside it compile.

Run as a program it reads requests, one JSON list a line, and answers each with an empty line or
with what went wrong. Arrays travel as files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from arkinfer_trt.kernels.gemv import AnyTile, DotTile, Gemv, Tile

Array = npt.NDArray[Any]


class Interpreter:
    """Runs kernels; `close` ends the process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.backends.trt.kernels.interpreter"],
            env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, gemv: Gemv, tile: AnyTile, x: Array, parts: dict[str, Array]) -> Array:
        """y of x, float16 [tokens, width]; what no program writes is NaN."""
        file, answer = self._folder / "request.npz", self._folder / "answer.npy"
        np.savez(file, x=x, **parts)
        kind = type(tile).__name__
        request = [vars(gemv), kind, vars(tile), str(file), str(answer)]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line == "\n", json.loads(line)
        return np.load(answer)

    def close(self) -> None:
        self._process.communicate()


def interpret(gemv: Gemv, tile: AnyTile, arrays: Any) -> Array:
    """Launches the kernel as `gemv.py` says."""
    import torch
    import triton

    from arkinfer_trt.kernels.gemm_triton import ark_gemm
    from arkinfer_trt.kernels.gemv_triton import ark_gemv

    x, words, scale = (torch.from_numpy(arrays[name]) for name in ("x", "words", "scale"))
    y = torch.full((len(x), gemv.width), float("nan"), dtype=torch.float16)
    grid = tile.grid(gemv, len(x), triton.cdiv)
    constants = tile.constants(gemv)
    kernel = ark_gemm if isinstance(tile, DotTile) else ark_gemv
    kernel[grid](x, words, scale, len(x), gemv.width, y, **constants, num_warps=tile.warps)
    return y.numpy()


def main() -> None:
    for line in sys.stdin:
        try:
            gemv, kind, tile, file, answer = json.loads(line)
            made = {"Tile": Tile, "DotTile": DotTile}[kind](**tile)
            np.save(answer, interpret(Gemv(**gemv), made, np.load(file)))
            print(flush=True)
        except Exception:
            print(json.dumps(traceback.format_exc()), flush=True)


def interpreting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    """What a fixture of that name gives; skipped without Triton."""
    pytest.importorskip("triton", reason="Triton is not installed; it exists for Linux only")
    found = Interpreter(tmp_path_factory.mktemp("interpreter"))
    yield found
    found.close()


if __name__ == "__main__":
    main()
