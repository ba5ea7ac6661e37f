"""What ONNX Runtime's profiler itself takes: some microseconds a kernel, part of them within the
time that it states for the kernel.

How much, chains of small kernels say that run with and without it. It grows with the number of
tensors, whose shapes it writes down, and it is more for kernels that share their work among
threads. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from arkinfer_ort.sessions import Model
from arkinfer_ort.trace import Event, is_shared, read_trace, seconds_of, tensors_of
from arkinfer_ort.wire import chain_model

if TYPE_CHECKING:
    import onnxruntime

LENGTH, RUNS = 32, 60
"""Kernels of a chain, and how often it runs."""


@dataclass(frozen=True)
class Links:
    """Seconds of a kernel of a chain.

    Attributes:
        plain: from one to the next, without the profiler.
        traced: the same with it.
        stated: what the profiler says.
        tensors: inputs and outputs.
    """

    plain: float
    traced: float
    stated: float
    tensors: int


@dataclass(frozen=True)
class Price:
    """Links of kernels with nothing to do, of those that share their work, and of those with many
    inputs.

    What an idle kernel takes from one to the next is ONNX Runtime's own, and in none of them.
    """

    idle: Links
    shared: Links
    wide: Links

    def added(self, event: Event) -> float:
        """Seconds that the profiler adds to a step for this kernel."""
        links = self.shared if is_shared(event) else self.idle
        return max(0.0, links.traced - links.plain + self._more(event, links))

    def within(self, event: Event) -> float:
        """Seconds of them within the time that it states."""
        links = self.shared if is_shared(event) else self.idle
        return max(0.0, links.stated - links.plain + self.idle.plain + self._more(event, links))

    def _more(self, event: Event, links: Links) -> float:
        """Seconds for what it has in tensors beyond a link."""
        rise = (self.wide.stated - self.wide.plain) - (self.idle.stated - self.idle.plain)
        each = max(0.0, rise / (self.wide.tensors - self.idle.tensors))
        return each * (tensors_of(event) - links.tensors)


def measure_price(like: Model, prefix: str) -> Price:
    """Measures for a moment.

    Args:
        like: a model whose sessions have as many threads.
        prefix: how the names of traces begin.
    """
    idle = _links(like, prefix, "MatMul", side=16, inputs=2)
    shared = _links(like, prefix, "MatMul", side=256, inputs=2)
    wide = _links(like, prefix, "Sum", side=1, inputs=12)
    return Price(idle, shared, wide)


def _links(like: Model, prefix: str, op: str, side: int, inputs: int) -> Links:
    model = replace(like, data=chain_model(LENGTH, op, side, inputs))
    session, traced_session = model.session(), model.session(trace=prefix)
    plain, traced = _run(session, side), _run(traced_session, side)
    runs = read_trace(traced_session.end_profiling())
    stated = [sum(seconds_of(event) for event in run) for run in runs]
    seconds = [_usual(some[1:]) / LENGTH for some in (plain, traced, stated)]
    return Links(*seconds, tensors=inputs + 1)


def _run(session: onnxruntime.InferenceSession, side: int) -> list[float]:
    """Seconds of each run; the first one is slower."""
    feed = {"x": np.zeros((1, side), np.float32)}
    seconds: list[float] = []
    for _ in range(RUNS):
        start = perf_counter()
        session.run(None, feed)
        seconds.append(perf_counter() - start)
    return seconds


def _usual(seconds: list[float]) -> float:
    """The mean of the lowest quarter: what disturbs only adds."""
    return fmean(sorted(seconds)[: (len(seconds) + 3) // 4])
