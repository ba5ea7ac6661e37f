"""The device half of the ONNX Runtime backend: opens a session on the weights of the .ark file.

Knows neither the compiler nor the onnx package: it adds the list of weights to the model's bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from arkinfer.artifact import Artifact, Section
from arkinfer.errors import ArtifactError
from arkinfer.limits import count
from arkinfer.machine.cores import usable_cores
from arkinfer.runtime.contract import Demand, LoadOptions
from arkinfer.runtime.onnx_bytes import ExternalTensor, with_initializers
from arkinfer_ort.executable import OnnxRuntimeExecutable
from arkinfer_ort.observe import ObservedExecutable
from arkinfer_ort.places import Places
from arkinfer_ort.sessions import Model
from arkinfer_ort.state import Cache
from arkinfer_ort.versions import check_requirements

_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
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
            graph = with_initializers(artifact.read(config["model"]), tensors)
            places = _places(artifact, config) if options.observe else None
            caches = _caches(section)
            facts = [count(config[name]) for name in ("vocab_size", "context", "chunk")]
        except _MALFORMED as error:
            raise _unreadable(artifact, error) from error
        model = Model(graph, folder, options.threads or len(usable_cores()))
        if places is None:
            return OnnxRuntimeExecutable(model.session(), caches, *facts)
        return ObservedExecutable(model, places, caches, *facts)

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


_CACHE_DTYPES = {name: np.dtype(name) for name in ("float32", "float16", "int8", "uint8")}


def _caches(section: Section) -> tuple[Cache, ...]:
    return tuple(
        Cache(str(c["name"]), count(c["heads"]), count(c["size"]), _CACHE_DTYPES[c["dtype"]])
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
