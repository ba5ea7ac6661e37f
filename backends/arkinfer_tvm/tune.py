"""Measures on this machine which tiles products are fastest with, near those of the cost model.

One thread, and its own processor time: what else runs here disturbs little. Candidates take turns;
the model's choice stays unless another one is clearly faster. Results do not depend on tiles, so
that a tuned library gives the same numbers, bit by bit. Knows no IR.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.backend import Work
from arkinfer.machine.procfs import processor
from arkinfer_tvm.build import build_library
from arkinfer_tvm.cost import MOST_ROWS, Tiling, candidates
from arkinfer_tvm.isa import ISAS
from arkinfer_tvm.kernels import Finish, Inputs, Kernel, QuantLinear
from arkinfer_tvm.library import Bound, Library, aligned
from arkinfer_tvm.program import Call, Dimension, Operand, Program
from arkinfer_tvm.works import tools

Array = npt.NDArray[Any]
Clock: TypeAlias = Callable[[], int]

MARGIN = 0.02
"""What another tiling must save to be taken, as a part of the time of the model's."""
ROUNDS = 15
_SLABS = 8
"""Of the matrices that are measured: a slab takes as long in any other one."""
_COLD, _WARM = 96 << 20, 4 << 20
"""Bytes of the matrices that take turns: few rows read each of them from memory."""


def measured(
    names: Mapping[Kernel, str], isa: str, made: Callable[[Sequence[Work]], list[bytes]]
) -> dict[Kernel, str]:
    """The same kernels, with the tiles that are fastest here.

    Args:
        names: the kernels of a library, and what each is exported as.
        isa: the instruction set that it is for; this processor has it.
        made: makes works, or finds what they made before; see `SectionWriter.made`.
    """
    alike = {kernel: _alike(kernel) for kernel in names if isinstance(kernel, QuantLinear)}
    distinct = list(dict.fromkeys(alike.values()))
    found = dict(zip(distinct, made([_work(each, isa) for each in distinct]), strict=True))
    return {
        replace(kernel, tiling=_parse(found[alike[kernel]]))
        if isinstance(kernel, QuantLinear)
        else kernel: name
        for kernel, name in names.items()
    }


def choice(times: Sequence[Sequence[int]]) -> int:
    """Which candidate to take: the first one, unless another saves more than the noise.

    Args:
        times: of each candidate, in the same rounds.
    """
    ratios = [
        statistics.median(own / first for own, first in zip(each, times[0], strict=True))
        for each in times
    ]
    best = min(range(len(ratios)), key=ratios.__getitem__)
    return best if ratios[best] < 1 - MARGIN else 0


def _alike(kernel: QuantLinear) -> QuantLinear:
    """What is measured in place of a kernel: neither how many channels a matrix has nor what is
    done with sums changes which tiles are best."""
    stream = replace(kernel.stream, rows=_SLABS * kernel.stream.channels)
    return replace(kernel, stream=stream, finish=Finish())


def _rows(kernel: QuantLinear) -> int:
    """Of the product that is measured, each of which has as many digits as the kernel takes."""
    return kernel.most // kernel.digits


def _work(kernel: QuantLinear, isa: str) -> Work:
    rows = "1 row" if _rows(kernel) == 1 else f"{_rows(kernel)} rows"
    stream = kernel.stream
    name = f"products of {rows} with {stream.columns:,} inputs in {stream.bits} bits"
    facts = (repr(kernel), isa, processor(), *tools(ISAS[isa].arch))
    return Work(name, facts, lambda: _fastest(kernel, isa), 0, "measuring")


def _fastest(kernel: QuantLinear, isa: str) -> bytes:
    """The fastest tiling, as JSON; null: the model's."""
    found = candidates(ISAS[isa], kernel.stream, kernel.most, kernel.digits)
    chosen = 0
    if len(found) > 1:
        with _runs([replace(kernel, tiling=each) for each in found], isa) as runs:
            chosen = choice(measure(runs, ROUNDS))
    return json.dumps(asdict(found[chosen]) if chosen else None).encode()


def _parse(data: bytes) -> Tiling | None:
    facts = json.loads(data) if data else None  # nothing: a plan's
    return None if facts is None else Tiling(facts["rows"], facts["blocks"], tuple(facts["few"]))


def measure(
    runs: Sequence[Callable[[], None]], rounds: int, clock: Clock = time.thread_time_ns
) -> list[list[int]]:
    """The times of each run, in rounds in which they take turns, after one that warms them up."""
    times: list[list[int]] = [[] for _ in runs]
    for _ in range(rounds + 1):
        for run, taken in zip(runs, times, strict=True):
            begin = clock()
            run()
            taken.append(clock() - begin)
    return [taken[1:] for taken in times]


@contextmanager
def _runs(kernels: Sequence[QuantLinear], isa: str) -> Generator[list[Callable[[], None]]]:
    """What runs each of some kernels, which differ in nothing but tiles, on the same memory."""
    names: dict[Kernel, str] = {kernel: f"tried_{i}" for i, kernel in enumerate(kernels)}
    stream, rows = kernels[0].stream, _rows(kernels[0])
    size = stream.slabs * stream.slab
    copies = max(1, (_COLD if rows <= MOST_ROWS else _WARM) // size)
    rng = np.random.default_rng(0)
    # Any two or four of these bytes are an ordinary number, so that no float is slower than usual.
    memory = aligned((copies, -(-size // 64) * 64), np.uint8)
    memory[...] = rng.integers(32, 60, memory.shape, np.uint8)
    weights = {str(number): memory[number] for number in range(copies)}
    inputs = Inputs.of(stream, kernels[0].digits)
    height = rows * kernels[0].digits + MOST_ROWS
    ports = {
        "codes": aligned((height, inputs.stride), np.int8),
        "scales": aligned((height, inputs.scales), np.float32),
        "sums": aligned((height, inputs.scales), np.int32),
        "out": aligned((rows, stream.slabs * stream.channels), np.float32),
    }
    for name in ("codes", "scales", "sums"):
        ports[name][...] = rng.integers(1, 100, ports[name].shape)
    library = Library(build_library(names, isa), f"libtuning-{isa}.so", 1, copies)
    try:
        yield [_run(kernel, names[kernel], rows, library, weights, ports) for kernel in kernels]
    finally:
        library.close()


def _run(
    kernel: QuantLinear, name: str, rows: int, library: Library, weights: Mapping[str, Array],
    ports: Mapping[str, Array],
) -> Callable[[], None]:  # fmt: skip
    """A product with each of the matrices, one after the other."""
    operands = [Operand("dim", 0), Operand("own", 0), *(Operand("port", port) for port in ports)]
    places = {"count": 0, "own": 1, **{port: 2 + i for i, port in enumerate(ports)}}
    wanted = [*kernel.parameters(), "own"]
    calls: list[Call] = []
    for number in weights:
        operands.append(Operand("weight", number))
        given = {**places, "weight": len(operands) - 1}
        calls.append(Call(name, tuple(given[each] for each in wanted), 1))
    height = Dimension((("T", 1),))
    dims = (height, kernel.jobs(height))
    own = -(-kernel.own // 64) * 64
    bound = Bound(Program(dims, tuple(operands), tuple(calls), (), 0, own), library, weights)
    arguments = bound.arguments([])
    return lambda: bound.run(arguments, {"T": rows}, ports.items())
