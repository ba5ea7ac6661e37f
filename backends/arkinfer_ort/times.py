"""Times the kernels of steps by ONNX Runtime's own profiler: the feature "times".

The profiler slows every kernel down by some microseconds, part of them within the time that it
states. How much, chains of small kernels say, which run with and without it. Knows neither an
artifact nor the IR beyond the names in `places.py`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from arkinfer.errors import DeviceError, ResourceError
from arkinfer.runtime.contract import IntArray, OpTime, Rows, StepOutput, StepTimes
from arkinfer_ort.sessions import Model
from arkinfer_ort.state import OnnxRuntimeState
from arkinfer_ort.wire import chain_model

if TYPE_CHECKING:
    import onnxruntime

    from arkinfer_ort.observe import ObservedState

IDLE, SHARED = 16, 256
"""Sides of matrices: one is nothing to do, the other's rows are shared among threads."""

KERNEL, RUN = "_kernel_time", "model_run"
"""How the names of a trace's events end: a kernel, and after all of a run's kernels the run."""


class OnnxRuntimeProfiler:
    """See `arkinfer.runtime.contract.Profiler`.

    A session tells what its kernels took when its profiler ends, and it has no second one: this
    has a session of its own, which works on the caches of the state and is the state's afterwards.
    """

    def __init__(self, state: ObservedState) -> None:
        executable = state.executable
        self._state = state
        self._kernels = executable.places.kernels
        self._seconds: list[float] = []
        self._folder = _private_folder()
        try:
            self._executable = executable.traced(f"{self._folder}/step")
            self._twin = OnnxRuntimeState(self._executable, state.capacity, state.caches)
            self._chains = [
                Chain(executable.model, side, f"{self._folder}/{side}") for side in (IDLE, SHARED)
            ]
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def step(self, tokens: IntArray, *, rows: Rows = "last") -> StepOutput:
        state, twin = self._state, self._twin
        twin.length = state.length
        start = perf_counter()
        output = twin.step(tokens, rows=rows)
        self._seconds.append(perf_counter() - start)
        state.length = twin.length
        return output

    def finish(self) -> list[StepTimes]:
        try:
            idle, shared = (chain.measure() for chain in self._chains)
            price = Price(idle, shared)
            session = self._executable.session
            runs = read_trace(session.end_profiling())
            self._state.executable.adopt(session)
            steps = zip(runs[len(runs) - len(self._seconds) :], self._seconds, strict=True)
            return [
                StepTimes(
                    tuple(op_time(event, self._kernels, price) for event in events),
                    seconds - sum(price.added(event) for event in events),
                )
                for events, seconds in steps
            ]
        finally:
            self._executable.close()
            shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True)
class Links:
    """Seconds of a kernel of a chain.

    Attributes:
        plain: from one to the next, without the profiler.
        traced: the same with it.
        stated: what the profiler says.
    """

    plain: float
    traced: float
    stated: float


@dataclass(frozen=True)
class Price:
    """What the profiler costs: of kernels that one thread works on, and of those that share their
    work among threads, of which it writes down more.

    What an idle kernel takes from one to the next is ONNX Runtime's own, and in none of them.
    """

    idle: Links
    shared: Links

    def added(self, event: Mapping[str, Any]) -> float:
        """Seconds that it adds to a step for this kernel."""
        links = self.shared if is_shared(event) else self.idle
        return max(0.0, links.traced - links.plain)

    def within(self, event: Mapping[str, Any]) -> float:
        """Seconds of them within the time that it states."""
        links = self.shared if is_shared(event) else self.idle
        return max(0.0, links.stated - (links.plain - self.idle.plain))


class Chain:
    """Small matrix products one after the other, in a session with the profiler and one without.

    Args:
        like: a model whose sessions have as many threads.
        side: of the matrix.
        prefix: how the name of the trace begins.
    """

    LENGTH, RUNS = 32, 60

    def __init__(self, like: Model, side: int, prefix: str) -> None:
        model = replace(like, data=chain_model(self.LENGTH, side))
        self._feed = {"x": np.zeros((1, side), np.float32)}
        self._plain, self._traced = model.session(), model.session(trace=prefix)

    def measure(self) -> Links:
        """Runs both; the first run does not count."""
        plain, traced = (self._run(session) for session in (self._plain, self._traced))
        runs = read_trace(self._traced.end_profiling())
        stated = [sum(seconds_of(event) for event in run) for run in runs]
        return Links(*(_usual(some[1:]) / self.LENGTH for some in (plain, traced, stated)))

    def _run(self, session: onnxruntime.InferenceSession) -> list[float]:
        seconds: list[float] = []
        for _ in range(self.RUNS):
            start = perf_counter()
            session.run(None, self._feed)
            seconds.append(perf_counter() - start)
        return seconds


def is_shared(event: Mapping[str, Any]) -> bool:
    """Whether several threads worked on a kernel."""
    try:
        return bool(event["args"]["thread_scheduling_stats"]["main_thread"]["block_size"])
    except (LookupError, TypeError):
        return False


def _usual(seconds: list[float]) -> float:
    """The mean of the lowest quarter: what disturbs only adds."""
    return fmean(sorted(seconds)[: (len(seconds) + 3) // 4])


def read_trace(path: str) -> list[list[dict[str, Any]]]:
    """The events of each run's kernels, in order of execution.

    Raises:
        DeviceError: the file is missing or not a trace.
    """
    runs: list[list[dict[str, Any]]] = []
    events: list[dict[str, Any]] = []
    try:
        for event in json.loads(Path(path).read_bytes()):
            if event["cat"] == "Node" and event["name"].endswith(KERNEL):
                events.append(event)
            elif event["name"] == RUN:
                runs.append(events)
                events = []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DeviceError(
            "What ONNX Runtime measured cannot be read",
            f"{type(error).__name__}: {error}",
            f'Is there room in the folder "{tempfile.gettempdir()}"? Else report it',
        ) from error
    return runs


def seconds_of(event: Mapping[str, Any]) -> float:
    return float(event["dur"]) * 1e-6


def op_time(
    event: Mapping[str, Any], kernels: Mapping[str, tuple[str, ...]], price: Price
) -> OpTime:
    """What an event says of a kernel, without what the profiler took.

    A node that ONNX Runtime made of several has their names, or one of them, within its own.
    """
    name = str(event["name"]).removesuffix(KERNEL)
    values = kernels.get(name)
    if values is None:
        merged = (kernels[known] for known in kernels if known in name)
        values = tuple(dict.fromkeys(value for some in merged for value in some))
    facts = event["args"]
    kernel = str(facts.get("op_name", name))
    return OpTime(kernel, values, seconds_of(event) - price.within(event), _rows(facts))


def _rows(facts: Mapping[str, Any]) -> int | None:
    """R of a first output [1, R, width]."""
    try:
        (shape,) = facts["output_type_shape"][0].values()
        return int(shape[1]) if len(shape) == 3 else None
    except (LookupError, ValueError, TypeError, AttributeError):
        return None


def _private_folder() -> str:
    try:
        return tempfile.mkdtemp(prefix="arkinfer-profile-")  # mode 0700
    except OSError as error:
        raise ResourceError(
            f'Nothing can be written to the folder "{tempfile.gettempdir()}"',
            error.strerror or str(error),
            "Free some space there, or set TMPDIR to another folder",
        ) from error
