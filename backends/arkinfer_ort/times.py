"""Times the kernels of steps by ONNX Runtime's own profiler: the feature "times".

Knows neither an artifact nor the IR beyond the names in `places.py`; what the profiler itself
takes, `price.py` knows.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING

from arkinfer.errors import ResourceError
from arkinfer.runtime.contract import IntArray, OpTime, Rows, StepOutput, StepTimes
from arkinfer_ort.price import Price, measure_price
from arkinfer_ort.state import OnnxRuntimeState
from arkinfer_ort.trace import KERNEL, Event, read_trace, rows_of, seconds_of

if TYPE_CHECKING:
    from arkinfer_ort.observe import ObservedState


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
            price = measure_price(self._state.executable.model, f"{self._folder}/chain")
            session = self._executable.session
            runs = read_trace(session.end_profiling())
            self._state.executable.adopt(session)
            steps = zip(runs[len(runs) - len(self._seconds) :], self._seconds, strict=True)
            return [
                StepTimes(
                    tuple(op_time(event, self._kernels, price) for event in events),
                    seconds,
                    sum(price.added(event) for event in events),
                )
                for events, seconds in steps
            ]
        finally:
            self._executable.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def op_time(event: Event, kernels: Mapping[str, tuple[str, ...]], price: Price) -> OpTime:
    """What an event says of a kernel.

    A node that ONNX Runtime made of several has their names, or one of them, within its own.
    """
    name = str(event["name"]).removesuffix(KERNEL)
    values = kernels.get(name)
    if values is None:
        merged = (kernels[known] for known in kernels if known in name)
        values = tuple(dict.fromkeys(value for some in merged for value in some))
    kernel = str(event["args"].get("op_name", name))
    return OpTime(kernel, values, seconds_of(event), price.within(event), rows_of(event))


def _private_folder() -> str:
    try:
        return tempfile.mkdtemp(prefix="arkinfer-profile-")  # mode 0700
    except OSError as error:
        raise ResourceError(
            f'Nothing can be written to the folder "{tempfile.gettempdir()}"',
            error.strerror or str(error),
            "Free some space there, or set TMPDIR to another folder",
        ) from error
