"""How fast kernels are on a CUDA device: one row of x beside a copy of the matrix, many rows beside
the float16 product that a user would have otherwise. Knows no file.

A timing replays a CUDA graph whose launches go through more than 256 MB of weights, so that no
cache holds them. A copy reads and writes together as many bytes as the matrix has; the dense
product is torch's, which calls cuBLAS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from arkinfer.errors import GateError
from arkinfer.packing import parse_scheme
from arkinfer_trt.kernels.gemv import AnyTile, DotTile, Gemv, kernel_name, tactics

SHAPES = {
    "4096 x 4096": (4096, 4096),
    "16384 x 4096": (16384, 4096),
    "4096 x 16384": (4096, 16384),
    "head, 73448 x 4096": (73448, 4096),
}
"""Of MiniCPM4-8B, outputs and inputs."""

SCHEMES = ("int4-g128", "int2-row", "int8-g128")
PROMPT = 512
"""Rows of x, where there are many."""

ROTATED = 256 << 20
"""Bytes; the weights of a timing are more."""


class Launches(Protocol):
    """Of `gpu.Device`."""

    def prepare(self, wanted: Iterable[tuple[Gemv, AnyTile]]) -> None: ...

    def launch(self, gemv: Gemv, tile: AnyTile, x: Any, words: Any, scale: Any, y: Any) -> None: ...


@dataclass(frozen=True)
class Timing:
    """One kernel, and what it is compared with.

    Attributes:
        shape: of the matrix.
        kernel: its name.
        tokens: rows of x.
        nbytes: of the matrix.
        seconds: of a launch.
        other: seconds of a copy of as many bytes, or for many rows of a float16 product.
    """

    shape: str
    kernel: str
    tokens: int
    nbytes: int
    seconds: float
    other: float

    @property
    def percent(self) -> float:
        """Of the other's speed."""
        return 100 * self.other / self.seconds


def matrices() -> dict[tuple[str, str], Gemv]:
    """Products that are timed, by shape and scheme."""
    return {
        (name, scheme): Gemv.of(parse_scheme(scheme), shape)
        for name, shape in SHAPES.items()
        for scheme in SCHEMES
    }


def every(run: Launches) -> Iterator[Timing]:
    """Every shape, scheme and tactic, as they are measured; prints them, too."""
    found = matrices()
    run.prepare((gemv, tile) for gemv in found.values() for tile in tactics(gemv).values())
    for tokens in (1, PROMPT):
        for (name, _), gemv in found.items():
            tiles = [
                tile for tile in tactics(gemv).values() if tokens == 1 or isinstance(tile, DotTile)
            ]
            yield from timed(run, name, gemv, tiles, tokens)


def timed(
    run: Launches, shape: str, gemv: Gemv, tiles: Iterable[AnyTile], tokens: int
) -> Iterator[Timing]:
    """One product by several tiles, of which each was prepared."""
    import torch

    from benchmarks.gpu import problem

    other = copy_seconds(gemv.nbytes) if tokens == 1 else dense_seconds(gemv, tokens)
    sets = [problem(gemv, tokens, seed) for seed in range(copies(gemv.nbytes))]
    y = torch.empty((tokens, gemv.width), dtype=torch.float16, device=sets[0][0].device)
    for tile in tiles:
        run.launch(gemv, tile, *sets[0], y)  # loaded before it is captured

        def launches(tile: AnyTile = tile) -> None:
            for each in sets:
                run.launch(gemv, tile, *each, y)

        each = seconds(launches) / len(sets)
        timing = Timing(shape, kernel_name(gemv, tile), tokens, gemv.nbytes, each, other)
        print(line(timing), flush=True)
        yield timing


def line(timing: Timing) -> str:
    """One row of the table."""
    what = "a copy" if timing.tokens == 1 else "float16"
    return (
        f"{timing.shape:18} T {timing.tokens:<3} {timing.kernel:42} {timing.seconds * 1e6:8.1f} us "
        f"{timing.nbytes / timing.seconds / 1e9:7.1f} GB/s {timing.percent:5.0f} % of {what}, "
        f"{timing.other * 1e6:.1f} us"
    )


def copies(nbytes: int) -> int:
    """Equal sets of weights that a timing goes through."""
    return 2 + ROTATED // nbytes


def copy_seconds(nbytes: int) -> float:
    """Of a copy that reads and writes `nbytes` together, through as much memory as the weights."""
    import torch

    half, where = nbytes // 2, _where()
    pairs = [
        [torch.zeros(half, dtype=torch.uint8, device=where) for _ in range(2)]
        for _ in range(copies(nbytes))
    ]

    def launches() -> None:
        for source, target in pairs:
            target.copy_(source)

    return seconds(launches) / len(pairs)


def dense_seconds(gemv: Gemv, tokens: int) -> float:
    """Of the product with a float16 matrix of that shape, through more than a cache holds."""
    import torch

    kind = {"dtype": torch.float16, "device": _where()}
    weights = [
        torch.randn((gemv.width, gemv.inputs), **kind)
        for _ in range(copies(2 * gemv.width * gemv.inputs))
    ]
    x = torch.randn((tokens, gemv.inputs), **kind)
    y = torch.empty((tokens, gemv.width), **kind)
    torch.mm(x, weights[0].T, out=y)  # cuBLAS makes itself ready

    def launches() -> None:
        for weight in weights:
            torch.mm(x, weight.T, out=y)

    return seconds(launches) / len(weights)


def _where() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def seconds(launches: Callable[[], None], rounds: int = 7, replays: int = 5) -> float:
    """Of all the launches in one graph: the median over rounds."""
    import torch

    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        launches()
    graph.replay()
    times: list[float] = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(replays):
            graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / replays)
    return median(times)


def gate(timings: list[Timing], least: float) -> None:
    """The fastest int4 kernel of every shape reaches that percentage of a copy, for one row of x.

    Raises:
        GateError: one does not, or nothing was timed.
    """
    one = [t for t in timings if t.tokens == 1 and "_int4_" in t.kernel]
    for shape in SHAPES:
        best = max((t.percent for t in one if t.shape == shape), default=0.0)
        if best < least:
            raise GateError(f"{shape} reaches {best:.0f} % of a copy, less than {least:.0f} %")
