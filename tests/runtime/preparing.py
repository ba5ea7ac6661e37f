"""Executors whose sections are finished on the device, and one whose device lacks something.

The first is real: it opens what it made, and nothing else. Knows no backend of ours.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from arkinfer.artifact import Artifact, Section
from arkinfer.errors import DeviceError, UsageError
from arkinfer.machine.folders import cache_folder
from arkinfer.runtime.contract import Demand, LoadOptions
from arkinfer.runtime.prepared import Choice, Prepared
from tests.runtime.bigram import BigramExecutable, BigramExecutor

STEPS = 4
NETWORKS = {"gemv": 0.0012, "native": 0.0015}


class PreparingExecutor(BigramExecutor):
    """Keeps the section's numbers in a file of the cache, and reads them from there."""

    def prepared(
        self, artifact: Artifact, section: Section, options: LoadOptions
    ) -> Prepared | None:
        path = self._path(artifact, options)
        if not path.is_file():
            return None
        facts = json.loads(path.read_text())
        return Prepared(path, path.stat().st_size, facts["seconds"], True, facts["network"])

    def prepare(self, artifact: Artifact, section: Section, options: LoadOptions) -> Prepared:
        if found := self.prepared(artifact, section, options):
            return found
        self._check(options)
        start = time.perf_counter()
        for step in range(STEPS):
            if options.on_progress is not None:
                options.on_progress("Building the engine", step, STEPS)
            time.sleep(section.config.get("pause", 0.0))
        took, path = time.perf_counter() - start, self._path(artifact, options)
        network = options.network or "gemv"
        facts = json.dumps({"config": section.config, "seconds": took, "network": network})
        choices = () if options.network else (Choice("network", "gemv", NETWORKS),)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(facts)
        except OSError:
            why = (f"{path.parent} cannot be written",)
            return Prepared(None, len(facts), took, network=network, choices=choices, notes=why)
        return Prepared(path, len(facts), took, network=network, choices=choices)

    def open(self, artifact: Artifact, section: Section, options: LoadOptions) -> BigramExecutable:
        made = self.prepare(artifact, section, options)
        if options.on_prepared is not None:
            options.on_prepared(made)
        config = section.config
        if made.path is not None:
            config = json.loads(made.path.read_text())["config"]
        facts = artifact.manifest
        size, context = facts["model"]["vocab_size"], facts["context"]
        return BigramExecutable(size, context, config["chunk"], config["seed"])

    def _path(self, artifact: Artifact, options: LoadOptions) -> Path:
        folder = options.cache or cache_folder()
        return folder / f"{artifact.digest}-{options.network}-{options.weights}.engine"

    def _check(self, options: LoadOptions) -> None:
        if options.network not in (None, *NETWORKS):
            raise UsageError(f'The section has no network "{options.network}"')


class LackingExecutor(PreparingExecutor):
    """Finds nothing that it needs on this device."""

    def check_device(self) -> None:
        raise DeviceError("This machine has no TensorRT", "The section needs it", "Install it")

    def prepare(self, artifact: Artifact, section: Section, options: LoadOptions) -> Prepared:
        self.check_device()
        raise AssertionError("the check refuses")

    def check(self, artifact: Artifact, section: Section) -> Demand:
        self.check_device()
        raise AssertionError("the check refuses")
