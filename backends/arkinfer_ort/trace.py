"""Reads the file in which ONNX Runtime's profiler says what kernels took. Knows no model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from arkinfer.errors import DeviceError

KERNEL, RUN = "_kernel_time", "model_run"
"""How the names of events end: a kernel, and after all of a run's kernels the run."""

Event: TypeAlias = Mapping[str, Any]


def read_trace(path: str) -> list[list[Event]]:
    """The events of each run's kernels, in order of execution.

    Raises:
        DeviceError: the file is missing or not a trace.
    """
    runs: list[list[Event]] = []
    events: list[Event] = []
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


def seconds_of(event: Event) -> float:
    return float(event["dur"]) * 1e-6


def is_shared(event: Event) -> bool:
    """Whether several threads worked on a kernel."""
    try:
        return bool(event["args"]["thread_scheduling_stats"]["main_thread"]["block_size"])
    except (LookupError, TypeError):
        return False


def tensors_of(event: Event) -> int:
    """How many inputs and outputs a kernel has."""
    facts = event["args"]
    return len(facts.get("input_type_shape", ())) + len(facts.get("output_type_shape", ()))


def rows_of(event: Event) -> int | None:
    """R of a first output [1, R, width]."""
    try:
        (shape,) = event["args"]["output_type_shape"][0].values()
        return int(shape[1]) if len(shape) == 3 else None
    except (LookupError, ValueError, TypeError, AttributeError):
        return None
