"""The device half of the ONNX Runtime backend: opens a session on the weights of the .ark file.

Knows neither the compiler nor the onnx package: it adds the list of weights to the model's bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from arkinfer.artifact import Artifact, Section
from arkinfer.errors import ArkError, ArtifactError, DeviceError
from arkinfer.runtime.contract import Demand, LoadOptions, check_context, closed
from arkinfer_ort import observe
from arkinfer_ort.places import Places
from arkinfer_ort.state import Cache, OnnxRuntimeState
from arkinfer_ort.versions import check_requirements
from arkinfer_ort.wire import ExternalTensor, with_initializers, with_outputs

if TYPE_CHECKING:
    import onnxruntime


SPIN = 50
"""Microseconds for which a thread without work waits actively; ONNX Runtime 1.26 and later.

The default is tens of milliseconds. Measured with a 0.5B model on two cores: alone on the machine,
a token takes the same time with 20, 50, 100 and the default, and 15 % more with none; at a load of
eight it takes 54, 61, 65 and 98 ms. Slower cores need longer for the ops that use one thread only,
so that the shortest time would put the others to sleep in between.
"""

_MALFORMED = (AttributeError, LookupError, TypeError, ValueError)
"""What reading a section raises that the compiler did not write."""


class OnnxRuntimeExecutor:
    """Entry point "onnxruntime" of the group `arkinfer.executors`."""

    name = "onnxruntime"

    def open(
        self, artifact: Artifact, section: Section, options: LoadOptions
    ) -> OnnxRuntimeExecutable:
        """Loads the section; its weights are read from the file once, into kernels' own layouts.

        Raises:
            DeviceError: ONNX Runtime is too old, or refuses the model.
            ArtifactError: the section is not what the compiler writes.
            ImportError: ONNX Runtime is not installed.
        """
        _check_runtime(section)
        try:
            config = section.config
            folder, location = os.path.split(os.path.realpath(artifact.path))
            tensors = _external(artifact, config["initializers"], location)
            model = with_initializers(artifact.read(config["model"]), tensors)
            places = _places(artifact, config) if options.observe else None
            if places is not None:
                model = with_outputs(model, observe.extra_outputs(places))
            caches = _caches(section)
            facts = [int(config[name]) for name in ("vocab_size", "context", "chunk")]
        except _MALFORMED as error:
            raise _unreadable(artifact, error) from error
        session = _session(model, folder, options.threads or physical_cores())
        return OnnxRuntimeExecutable(session, caches, *facts, places=places)

    def check(self, artifact: Artifact, section: Section) -> Demand:
        """Whether `open` would get as far as the session; see `runtime.contract.Checker`."""
        _check_runtime(section)
        try:
            per_token = sum(cache.nbytes(1) for cache in _caches(section))
        except _MALFORMED as error:
            raise _unreadable(artifact, error) from error
        return Demand(artifact.section_bytes(self.name), per_token)


def _check_runtime(section: Section) -> None:
    """Imports ONNX Runtime, and checks that it is one that the section runs on."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default from 1.29
    import onnxruntime

    check_requirements(section.requires, onnxruntime.__version__)


def _caches(section: Section) -> tuple[Cache, ...]:
    return tuple(
        Cache(c["name"], c["heads"], c["size"], np.dtype(c["dtype"]))
        for c in section.config["caches"]
    )


def _places(artifact: Artifact, config: Mapping[str, Any]) -> Places | None:
    """None: the artifact is older than this list."""
    entry = config.get("values")
    return None if entry is None else Places.from_json(artifact.read(entry))


def _unreadable(artifact: Artifact, error: Exception) -> ArtifactError:
    return ArtifactError(
        f'The section "{OnnxRuntimeExecutor.name}" of "{artifact.path}" cannot be read',
        f"{type(error).__name__}: {error}",
        "Build the artifact again",
    )


def _external(
    artifact: Artifact, initializers: list[dict[str, Any]], location: str
) -> Iterator[ExternalTensor]:
    for entry in initializers:
        offset, length = artifact.location(entry["tensor"])
        yield ExternalTensor(entry["name"], entry["dtype"], entry["dims"], location, offset, length)


def _session(model: bytes, folder: str, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # holds the buffers of a chunk twice, 34 MiB, for no speed
    options.log_severity_level = 4  # what fails is raised; nothing else goes to the terminal
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except ArkError:
        raise
    except Exception as error:  # its exceptions have no base but this
        raise DeviceError(
            f"ONNX Runtime {onnxruntime.__version__} refuses the model",
            str(error).strip(),
            "Check the file with: arkinfer verify; then build it again on this machine",
        ) from error


def physical_cores() -> int:
    """Cores that this process may use; two threads of one core share its multipliers."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return max(1, min(cores, allowed or cores))


class OnnxRuntimeExecutable:
    """A session, shared by all states.

    Attributes:
        vocab_size: columns of the logits.
        max_context: the longest sequence, in tokens.
        chunk: the most tokens of one step.
        features: "values" when it was opened to be observed.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        caches: tuple[Cache, ...],
        vocab_size: int,
        max_context: int,
        chunk: int,
        places: Places | None = None,
    ) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self.caches = caches
        self.vocab_size = vocab_size
        self.max_context = max_context
        self.chunk = chunk
        self.places = places
        self.features: frozenset[str] = frozenset({"values"} if places is not None else ())

    @property
    def session(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            raise closed()
        return self._session

    def new_state(self, context: int) -> OnnxRuntimeState:
        """See `Executable`.

        Raises:
            UsageError: the context is longer than the artifact was compiled for, or it is closed.
            ResourceError: there is no memory for the caches.
        """
        session = self.session
        check_context(self, context)
        if self.places is not None:
            return observe.ObservedState(self, session, context, self.places)
        return OnnxRuntimeState(self, session, context)

    def close(self) -> None:
        self._session = None
