"""What the machine can do at most, measured: bytes read and multiply-adds per second.

Knows no model and no backend. The work is done in a process of its own, so that neither its
memory nor its threads stay behind, and so that numpy's BLAS starts no threads beside ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BUFFER = 256 << 20
"""Bytes that are read: several times the last cache of a PC or a board."""

WINDOW = BUFFER // 4
"""Bytes between two looks at the clock: some milliseconds, so that on a machine with other work
some windows are read undisturbed."""

PIECE = 1 << 20
"""Bytes that one call reads; numpy starts a call in about a microsecond, and reads these in 30."""

SIDE = 384
"""Rows and columns of the matrices that are multiplied; about a millisecond, too."""

SECONDS = 0.5
"""For which each of the two is measured; the best moment counts."""

TIMEOUT = 60
"""Seconds after which a machine without time for us counts as not measured."""

_BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS",
         "VECLIB_MAXIMUM_THREADS")  # fmt: skip


@dataclass(frozen=True)
class Peaks:
    """The most that was seen; None: not measured.

    Attributes:
        threads: that did it.
        bandwidth: bytes per second, read from a buffer that no cache holds.
        flops: float32 operations per second of numpy's matrix product; a multiply-add is two.
            Integer kernels can be faster: no portable code measures their peak.
    """

    threads: int
    bandwidth: float | None = None
    flops: float | None = None


@cache
def measure_peaks(threads: int) -> Peaks:
    """Measures for about a second, once in a process; what cannot be measured is None."""
    if not sys.executable:
        return Peaks(threads)
    environment = {**os.environ, **dict.fromkeys(_BLAS, "1")}
    command = [sys.executable, "-m", __name__, str(threads)]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=TIMEOUT, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout)
        return Peaks(threads, float(found["bandwidth"]), float(found["flops"]))
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return Peaks(threads)


def read_bandwidth(threads: int, seconds: float = SECONDS) -> float:
    """Bytes per second that this many threads read from memory; numpy reads without the GIL."""
    from concurrent.futures import ThreadPoolExecutor
    from itertools import cycle

    import numpy as np

    words = np.ones(BUFFER // 8, np.uint64)  # ones: untouched zeros would all be one page
    pieces = words.reshape(BUFFER // WINDOW, -1, PIECE // 8)
    windows = cycle([np.array_split(window, threads) for window in pieces])

    def read(share: npt.NDArray[np.uint64]) -> None:
        for piece in share:
            np.bitwise_or.reduce(piece)

    with ThreadPoolExecutor(threads) as pool:
        return WINDOW / _shortest(lambda: list(pool.map(read, next(windows))), seconds)


def multiply_add_rate(threads: int, seconds: float = SECONDS) -> float:
    """Float32 operations per second of matrix products, one in each thread; BLAS has one thread."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    pairs = [np.ones((2, SIDE, SIDE), np.float32) for _ in range(threads)]

    def multiply(pair: npt.NDArray[np.float32]) -> None:
        np.matmul(pair[0], pair[0], out=pair[1])

    with ThreadPoolExecutor(threads) as pool:
        shortest = _shortest(lambda: list(pool.map(multiply, pairs)), seconds)
    return threads * 2 * SIDE**3 / shortest


def _shortest(work: Callable[[], object], seconds: float) -> float:
    """The shortest time of repeated work, which goes on for so many seconds."""
    work()
    best, end = float("inf"), perf_counter() + seconds
    while (start := perf_counter()) < end or best == float("inf"):
        work()
        best = min(best, perf_counter() - start)
    return best


def main() -> None:
    """What `measure_peaks` starts: one JSON object on standard output."""
    threads = int(sys.argv[1])
    print(json.dumps({"bandwidth": read_bandwidth(threads), "flops": multiply_add_rate(threads)}))


if __name__ == "__main__":
    main()
